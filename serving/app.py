"""The ASGI application over an engine: the same under uvicorn and inside a Ray Serve replica."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from serving import answers, describe, page
from serving.bodies import MULTIPART, BodyReader, PendingBytes
from serving.engine import Engine
from serving.errors import BodyTooLarge, InvalidRequest, Unavailable, WrongContentType
from serving.inputs import Input, as_inputs
from serving.jobs import Output, Refused, resolve_work
from serving.middleware import Envelope
from serving.problems import ErrorReport, report
from serving.schemas import (
    EmbeddingAnswer,
    EmbeddingRequest,
    ErrorAnswer,
    InputRequest,
    ModelEmbeddingRequest,
    Options,
    TaskAnswer,
    parse_request,
)

Answer = TypeVar("Answer")

_ERRORS: dict[int | str, dict[str, Any]] = {"4XX": {"model": ErrorAnswer}, "5XX": {"model": ErrorAnswer}}


def create_app(engine: Engine, *, send_request_id: bool = True) -> FastAPI:
    """Return the application.

    Its lifespan starts the engine and closes it; models load meanwhile, and ``/readyz`` tells when they have.

    Args:
        engine: Serves the models.
        send_request_id: Put ``X-Request-Id`` on answers; not where a proxy in front does so already.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        await engine.close()

    app = FastAPI(
        title="fmhub",
        description="Embeddings of native files by self-supervised foundation models.",
        lifespan=lifespan,
        # The documentation pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_middleware(Envelope, metrics=engine.metrics, send_id=send_request_id)
    app.add_exception_handler(HTTPException, _http_error)
    routes = Routes(engine)
    for path, get in (
        ("/", routes.index),
        ("/healthz", routes.healthz),
        ("/readyz", routes.readyz),
        ("/metrics", routes.metrics),
        ("/v1/models", routes.models),
        ("/v1/models/{model:path}", routes.model),
    ):
        app.add_api_route(path, get, methods=["GET"], response_model=None, responses=_ERRORS)
    # A model's id may hold a slash; the greedy path leaves the last part to the route.
    for path, post, answer, forms in (
        ("/v1/embeddings", routes.embed, EmbeddingAnswer, _json_body(EmbeddingRequest)),
        (
            "/v1/models/{model:path}/embeddings",
            routes.embed_with,
            EmbeddingAnswer,
            _json_body(ModelEmbeddingRequest) | _upload_body(Options),
        ),
        (
            "/v1/models/{model:path}/{task}",
            routes.run_task,
            TaskAnswer,
            _json_body(InputRequest) | _upload_body(None),
        ),
    ):
        app.add_api_route(
            path,
            post,
            methods=["POST"],
            response_model=None,
            responses={200: {"model": answer}, **_ERRORS},
            openapi_extra={"requestBody": {"required": True, "content": forms}},
        )
    return app


class Routes:
    """The handlers of all routes, over one engine."""

    def __init__(self, engine: Engine) -> None:
        """Serve what ``engine`` serves."""
        self._engine = engine
        self._pending = PendingBytes()

    # --- asking -----------------------------------------------------------------------------------------

    async def embed(self, request: Request) -> Response:
        """Embed one or many inputs with the model that the body names."""
        _label(request, "/v1/embeddings")
        with self._body(request) as body:
            spec = parse_request(EmbeddingRequest, await body.json())
            self._engine.lane(spec.model)
            return await self._embed(request, spec.model, as_inputs(spec.input), spec, "input")

    async def embed_with(self, request: Request, model: str) -> Response:
        """Embed uploaded files, or the inputs of a JSON body, with the model that the path names."""
        _label(request, "/v1/models/{model}/embeddings")
        self._engine.lane(model)
        with self._body(request) as body:
            if body.content_type == MULTIPART:
                form = await body.form()
                options = parse_request(Options, _numbers(form.fields))
                return await self._embed(request, model, form.files, options, "file")
            _check_json(body)
            spec = parse_request(ModelEmbeddingRequest, await body.json())
            return await self._embed(request, model, as_inputs(spec.input), spec, "input")

    async def run_task(self, request: Request, model: str, task: str) -> Response:
        """Run one of a model's further tasks on uploaded files, or on the inputs of a JSON body."""
        _label(request, "/v1/models/{model}/{task}")
        lane = self._engine.lane(model)
        if lane.embedder is not None:
            resolve_work(lane.embedder, task=task)
        with self._body(request) as body:
            kind, inputs = "file", []
            if body.content_type == MULTIPART:
                form = await body.form()
                inputs = form.files
                if form.fields:
                    name = next(iter(form.fields))[:100]
                    raise InvalidRequest(f"a task takes no field {name!r}", param=name, code="unknown_field")
            else:
                _check_json(body)
                kind, inputs = "input", as_inputs(parse_request(InputRequest, await body.json()).input)
            self._check_count(inputs, kind)
            _label(request, model=model)
            outputs = await _unless_gone(request, self._engine.run(model, task, inputs, kind=kind))
            with _Encoding(self._engine, model):
                return await answers.task_answer(model, task, inputs, outputs)

    def _body(self, request: Request) -> BodyReader:
        return BodyReader(request, self._engine.settings, self._pending)

    async def _embed(
        self, request: Request, model: str, inputs: Sequence[Input], options: Options, kind: str
    ) -> Response:
        self._check_count(inputs, kind)
        _label(request, model=model)
        outputs: list[list[Output | Refused]] = await _unless_gone(
            request,
            self._engine.embed(model, inputs, pooling=options.pooling, layer=options.layer, kind=kind),
        )
        with _Encoding(self._engine, model):
            return await answers.embedding_answer(model, inputs, outputs, options)

    def _check_count(self, inputs: Sequence[Input], kind: str) -> None:
        limit = self._engine.settings.max_inputs
        if not inputs:
            raise InvalidRequest(f"{kind} is empty: there is nothing to do", param=kind, code="empty_input")
        if len(inputs) > limit:
            raise BodyTooLarge(
                f"{len(inputs)} inputs are more than the {limit} that one request may have", code="too_many_inputs"
            )

    # --- telling ----------------------------------------------------------------------------------------

    async def models(self, request: Request) -> dict[str, Any]:
        """List the served models."""
        _label(request, "/v1/models")
        return {"object": "list", "data": [describe.listed(lane) for lane in self._engine.lanes.values()]}

    async def model(self, request: Request, model: str) -> Any:
        """Describe one model: what it takes, what it gives, and its limits."""
        _label(request, "/v1/models/{model}")
        lanes = self._engine.lanes
        owner, _, last = model.rpartition("/")
        if model not in lanes and owner in lanes and last:
            # This path exists for POST (embeddings or a task), and the greedy route hides that.
            return ErrorReport(405, "this route takes POST", None, "method_not_allowed", allow="POST").response()
        return describe.described(self._engine.lane(model), self._engine.settings)

    async def healthz(self, request: Request) -> dict[str, str]:
        """Tell whether the process works; a supervisor restarts it when not."""
        _label(request, "/healthz")
        self._engine.check()
        return {"status": "ok"}

    async def readyz(self, request: Request) -> JSONResponse:
        """Tell whether the models of the start are loaded and warmed; a balancer sends requests only then."""
        _label(request, "/readyz")
        states = {name: lane.state for name, lane in self._engine.lanes.items()}
        if not self._engine.ready:
            shown = ", ".join(f"{name} is {state}" for name, state in states.items())
            raise Unavailable(f"not ready: {shown}", code="not_ready")
        return JSONResponse({"status": "ready", "models": states})

    async def metrics(self, request: Request) -> Response:
        """Return the counters in Prometheus's text format."""
        _label(request, "/metrics")
        found = self._engine.metrics
        return Response(found.exposition(), media_type=found.content_type)

    async def index(self, request: Request) -> HTMLResponse:
        """Show what is served here."""
        _label(request, "/")
        html = page.index(self._engine.lanes.values(), str(request.base_url))
        return HTMLResponse(html, headers=page.HEADERS)


class _Encoding:
    """Times the encoding of an answer."""

    def __init__(self, engine: Engine, model: str) -> None:
        self._stage = engine.metrics.stage.labels(model, "encode")

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._stage.observe(time.perf_counter() - self._started)


def _label(request: Request, route: str | None = None, model: str | None = None) -> None:
    """Leave the route's template and the model's id for the metrics."""
    if route is not None:
        request.state.route = route
    if model is not None:
        request.state.model = model


def _check_json(body: BodyReader) -> None:
    if body.content_type != "application/json":
        raise WrongContentType(
            f"Content-Type is {body.content_type or 'absent'}; send files as {MULTIPART} or JSON as application/json"
        )


def _numbers(fields: dict[str, str]) -> dict[str, Any]:
    """Form fields are text; those that may be numbers become numbers where they look like it."""
    return {
        name: int(text) if name in ("dimensions", "layer") and re.fullmatch(r"-?\d{1,9}", text) else text
        for name, text in fields.items()
    }


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Answer]) -> Answer:
    """Await ``work``, and give it up when the client closes the connection.

    Raises:
        ClientDisconnect: The client has gone.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_closed(request))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        watch.cancel()
        task.cancel()


async def _closed(request: Request) -> None:
    # The body has been read, so the next message can only be the end of the connection.
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _http_error(request: Request, error: Exception) -> Response:
    """Give the framework's own errors (no such route, no such method) the shape of all others."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return ErrorReport(404, f"no route {request.url.path[:200]}", code="route_not_found").response()
    if error.status_code == 405:
        allow = (error.headers or {}).get("Allow")
        message = f"this route takes {allow}"
        return ErrorReport(405, message, code="method_not_allowed", allow=allow).response()
    return report(error, request.state.request_id).response()


def _json_body(form: type[InputRequest]) -> dict[str, Any]:
    return {"application/json": {"schema": form.model_json_schema()}}


def _upload_body(options: type[Options] | None) -> dict[str, Any]:
    fields = options.model_json_schema()["properties"] if options else {}
    files = {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1}
    schema = {
        "type": "object",
        "properties": {"file": files, **fields},
        "required": ["file"],
        "additionalProperties": False,
    }
    return {MULTIPART: {"schema": schema}}
