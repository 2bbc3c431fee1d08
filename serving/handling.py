"""What every handler does with its request beside answering it."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match

from serving.canary import note_client
from serving.errors import InvalidRequest
from serving.jobs import Call
from serving.metrics import Metrics
from serving.problems import ErrorReport, report

Answer = TypeVar("Answer")


class Encoding:
    """Times the encoding of an answer."""

    def __init__(self, metrics: Metrics, model: str, call: Call) -> None:
        self._stage = metrics.stage.labels(call.model or model, "encode")
        self._call = call

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        took = time.perf_counter() - self._started
        self._stage.observe(took)
        self._call.add("encode", took)


def label(request: Request, route: str | None = None, model: str | None = None) -> None:
    """Leave the route's template and the model's id for the metrics."""
    if route is not None:
        request.state.route = route
    if model is not None:
        request.state.model = model


def call_of(request: Request) -> Call:
    """Return what the request's headers say about it, and leave it for ``Server-Timing``.

    Raises:
        InvalidRequest: ``X-Request-Timeout`` is no positive number.
    """
    given = request.headers.get("x-request-timeout")
    timeout = None
    if given is not None:
        if not re.fullmatch(r"\d{1,9}(\.\d{1,9})?", given, re.ASCII) or float(given) <= 0:
            raise InvalidRequest(
                "the header X-Request-Timeout must be a number of seconds above 0, for example 2.5",
                param="X-Request-Timeout",
                code="invalid_header",
            )
        timeout = float(given)
    request.state.call = call = Call(
        request.state.request_id, timeout, trace=request.state.trace, bytes=request.state.exchange.bytes_in
    )
    note_client(request, call)
    return call


async def unless_gone(
    request: Request, work: Coroutine[Any, Any, Answer], body_read: asyncio.Event | None = None
) -> Answer:
    """Await ``work``, and give it up when the client closes the connection.

    Args:
        request: Whose client.
        work: What to do meanwhile.
        body_read: Set once the body has been read to its end, where ``work`` reads it.

    Raises:
        ClientDisconnect: The client has gone.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_closed(request, body_read))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        watch.cancel()
        task.cancel()


async def _closed(request: Request, body_read: asyncio.Event | None) -> None:
    if body_read is not None:
        await body_read.wait()
    # The body has been read, so the next message can only be the end of the connection.
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def http_error(request: Request, error: Exception) -> Response:
    """Give the framework's own errors (no such route, no such method) the shape of all others."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        problem = ErrorReport(404, f"no route {request.url.path[:200]}", code="route_not_found")
    elif error.status_code == 405:
        allow = _allowed(request)
        problem = ErrorReport(405, f"this route takes {allow}", code="method_not_allowed", allow=allow)
    else:
        problem = report(error, request.state.request_id)
    return problem.response(request.scope["state"])


def _allowed(request: Request) -> str:
    """Return the methods of all routes that fit the path: the framework tells those of the first, greedy or not."""
    fitting = (route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE)
    return ", ".join(sorted({method for route in fitting for method in getattr(route, "methods", None) or ()}))
