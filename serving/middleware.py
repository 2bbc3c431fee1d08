"""What wraps every request: its id, its count and duration, and the answer to an error nobody caught."""

from __future__ import annotations

import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.metrics import Metrics
from serving.problems import report

_REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)

CLIENT_CLOSED = 499
"""Status under which requests are counted whose client left before the answer."""


class Envelope:
    """Outermost ASGI layer of the application.

    Handlers leave the route's template and the model's id in the scope's state, for the metrics.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, send_id: bool) -> None:
        """Wrap an application.

        Args:
            app: The rest of it.
            metrics: Where to count.
            send_id: Put ``X-Request-Id`` on answers.
        """
        self.app = app
        self.metrics = metrics
        self.send_id = send_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        state = scope.setdefault("state", {})
        state["request_id"] = request_id = _request_id(scope)
        status: int | None = None

        async def named_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self.send_id:
                    MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, named_send)
        except ClientDisconnect:
            status = CLIENT_CLOSED
        except Exception as error:
            problem = report(error, request_id)
            if status is None:
                await problem.response()(scope, receive, named_send)
        finally:
            # Left without an answer: the task was cancelled because the client went away.
            route, model = state.get("route", "unmatched"), state.get("model", "")
            self.metrics.requests.labels(route, model, str(status or CLIENT_CLOSED)).inc()
            self.metrics.duration.labels(route, model).observe(time.perf_counter() - started)


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
