"""The ASGI application over an engine: the same under uvicorn and inside a Ray Serve replica."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from serving.access import Gate
from serving.canary import HEADER
from serving.engine import Engine
from serving.handling import http_error
from serving.keys import KeyRing
from serving.metrics import Exposition
from serving.middleware import Envelope
from serving.patience import Patience
from serving.playground.routes import add_playground
from serving.protocols.error_forms import ErrorForms
from serving.protocols.hub_endpoint import add_hub_endpoint
from serving.protocols.tensors import HEADER_LENGTH
from serving.protocols.v2 import add_v2
from serving.routes import Routes, add_routes
from serving.tracing import Tracing
from serving.turnstile import Turnstile


def create_app(
    engine: Engine,
    *,
    send_request_id: bool = True,
    tracing: Tracing | None = None,
    exposition: Callable[[str], Awaitable[Exposition]] | None = None,
) -> FastAPI:
    """Return the application.

    Its lifespan starts the engine and closes it; models load meanwhile, and ``/readyz`` tells when they have.

    Args:
        engine: Serves the models.
        send_request_id: Put ``X-Request-Id`` on answers; not where a proxy in front does so already.
        tracing: Takes the traces in the place of what the settings name.
        exposition: Gives the text for ``/metrics``; unless given, that of this engine alone.

    Raises:
        InvalidSettings: The file of keys cannot be read, or tracing is asked for and not installed.
    """
    if tracing is None and engine.settings.tracing.endpoint is not None:
        tracing = Tracing(engine.settings.tracing)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        await engine.close()
        if tracing is not None:
            await asyncio.to_thread(tracing.close)

    app = FastAPI(
        title="fmhub",
        description="Embeddings of native files by self-supervised foundation models.",
        lifespan=lifespan,
        # The documentation pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    # The last one added is the outermost.
    app.add_middleware(Patience, settings=lambda: engine.settings)
    app.add_middleware(Turnstile, lanes=lambda: engine.lanes)
    app.add_middleware(Gate, settings=lambda: engine.settings, ring=KeyRing(engine.settings))
    app.add_middleware(
        Envelope,
        metrics=engine.metrics,
        send_id=send_request_id,
        log=engine.settings.log_requests,
        tracing=tracing,
    )
    app.add_middleware(ErrorForms, hub_endpoint=engine.settings.hub_endpoint)
    if engine.settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=engine.settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-Request-Id", "X-Request-Timeout", HEADER, HEADER_LENGTH],
            expose_headers=["X-Request-Id", "Server-Timing", "Retry-After", HEADER_LENGTH],
        )
    app.add_exception_handler(HTTPException, http_error)
    routes = Routes(engine, exposition)
    # The playground's come before the greedy ones of the models' ids.
    add_playground(app, routes)
    add_routes(app, routes)
    add_v2(app, routes)
    if engine.settings.hub_endpoint:
        add_hub_endpoint(app, routes)
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]
    return app


def _document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document, made once, with how keys are sent where they are asked for."""
    if app.openapi_schema is None:
        app.openapi_schema = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        schemes = {"key": {"type": "http", "scheme": "bearer", "description": "Where the service has keys."}}
        app.openapi_schema["components"]["securitySchemes"] = schemes
        app.openapi_schema["security"] = [{}, {"key": []}]
    return app.openapi_schema
