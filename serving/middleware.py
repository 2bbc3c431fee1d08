"""What wraps every request: its id, its count, duration and line in the log, and the answer to an uncaught error."""

from __future__ import annotations

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.jobs import Call
from serving.logs import current_request, current_trace
from serving.metrics import Metrics
from serving.problems import report
from serving.tracing import Tracing

access = logging.getLogger("fmhub.access")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})

QUIET_ROUTES = frozenset({"/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"})
"""Asked every few seconds by machines: in the log only at its debug level."""

CLIENT_CLOSED = 499
"""Status under which requests are counted whose client left before the answer."""


class Envelope:
    """ASGI layer around the application.

    Handlers leave the route's template, the model's id and the stages' times (`jobs.Call`) in the scope's state.
    Of a request only what is listed in ``_log`` goes to the log: nothing that names a file, a sample or a person.
    """

    def __init__(
        self, app: ASGIApp, metrics: Metrics, send_id: bool, log: bool, tracing: Tracing | None = None
    ) -> None:
        """Wrap an application.

        Args:
            app: The rest of it.
            metrics: Where to count.
            send_id: Put ``X-Request-Id`` on answers.
            log: Write a line for each request.
            tracing: Makes spans of the requests; there are none without it.
        """
        self.app = app
        self.metrics = metrics
        self.send_id = send_id
        self.log = log
        self.tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self.send_id)
        trace = exchange.state["trace"] = None if self.tracing is None else self.tracing.begin(scope)
        entered = current_request.set(exchange.id)
        traced = current_trace.set("" if trace is None else trace.id)
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            exchange.status = CLIENT_CLOSED
        except Exception as error:
            problem = report(error, exchange.id)
            if exchange.status is None:
                await problem.response(exchange.state)(scope, receive, exchange.send)
        finally:
            self._count(exchange)
            if self.log:
                _log(exchange)
            # A machine's question every few seconds is no trace that anybody looks for: its span never ends.
            if trace is not None and exchange.route not in QUIET_ROUTES:
                trace.end(
                    exchange.method,
                    exchange.route,
                    exchange.model,
                    exchange.final_status,
                    exchange.error_code,
                    exchange.id,
                )
            current_trace.reset(traced)
            current_request.reset(entered)

    def _count(self, exchange: _Exchange) -> None:
        route, model = exchange.route, exchange.model
        self.metrics.requests.labels(route, model, str(exchange.final_status)).inc()
        self.metrics.duration.labels(route, model).observe(exchange.seconds)
        self.metrics.bytes_in.labels(route).inc(exchange.bytes_in)
        self.metrics.bytes_out.labels(route).inc(exchange.bytes_out)
        if exchange.key:
            self.metrics.key_requests.labels(exchange.key).inc()
        if exchange.error_code:
            self.metrics.rejected.labels(exchange.error_code, model).inc()


class _Exchange:
    """One request and its answer, as they pass."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, send_id: bool) -> None:
        self.started = time.perf_counter()
        self.method = scope["method"] if scope["method"] in METHODS else "OTHER"
        self.state = scope.setdefault("state", {})
        self.state["exchange"] = self
        self.id = self.state["request_id"] = _request_id(scope)
        self.status: int | None = None
        self.bytes_in = self.bytes_out = 0
        self._receive, self._send, self._send_id = receive, send, send_id

    @property
    def route(self) -> str:
        return self.state.get("route", "unmatched")

    @property
    def model(self) -> str:
        call: Call | None = self.state.get("call")
        # The canary is counted apart from its model, so that the two can be compared.
        return (call.model if call is not None else "") or self.state.get("model", "")

    @property
    def key(self) -> str:
        entry = self.state.get("key")
        return "" if entry is None else entry.name

    @property
    def error_code(self) -> str:
        return self.state.get("error_code", "")

    @property
    def final_status(self) -> int:
        # Left without an answer: the task was cancelled because the client went away.
        return self.status or CLIENT_CLOSED

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    async def receive(self) -> Message:
        message = await self._receive()
        self.bytes_in += len(message.get("body", b""))
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            # A browser must not make a page of what a file's name or content says.
            headers["X-Content-Type-Options"] = "nosniff"
            if self._send_id:
                headers["X-Request-Id"] = self.id
            call: Call | None = self.state.get("call")
            if call is not None and call.spent:
                stages = [f"{name};dur={1000 * seconds:.2f}" for name, seconds in call.spent.items()]
                headers["Server-Timing"] = ", ".join([*stages, f"total;dur={1000 * self.seconds:.2f}"])
        self.bytes_out += len(message.get("body", b""))
        await self._send(message)


def _log(exchange: _Exchange) -> None:
    fields = {
        "method": exchange.method,
        "route": exchange.route,
        "status": exchange.final_status,
        "ms": round(1000 * exchange.seconds, 2),
        "bytes_in": exchange.bytes_in,
        "bytes_out": exchange.bytes_out,
        "model": exchange.model,
        "key": exchange.key,
        "error": exchange.error_code,
    }
    level = logging.DEBUG if exchange.route in QUIET_ROUTES else logging.INFO
    access.log(level, "request", extra={"fields": fields})


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
