"""The ASGI application over an engine: the same under uvicorn and inside a Ray Serve replica."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from serving import answers, describe, page
from serving.access import Gate, is_outsider
from serving.bodies import MULTIPART, BodyReader
from serving.canary import HEADER
from serving.engine import Engine
from serving.errors import InvalidRequest, Unavailable, WrongContentType
from serving.front import Front
from serving.handling import Encoding, call_of, http_error, label, unless_gone
from serving.inputs import Input, as_inputs
from serving.jobs import Output, Refused, resolve_work
from serving.keys import KeyRing
from serving.metrics import Exposition
from serving.middleware import Envelope
from serving.patience import Patience
from serving.playground.routes import NATIVE_FILE, PICTURE, Playground
from serving.problems import ErrorReport
from serving.protocols.error_forms import ErrorForms
from serving.protocols.hub_endpoint import add_hub_endpoint
from serving.protocols.streaming import LINES_BODY, STREAMED, StreamedEmbeddings, stream_format
from serving.protocols.tensors import HEADER_LENGTH
from serving.protocols.v2 import add_v2
from serving.schemas import (
    EmbeddingAnswer,
    EmbeddingRequest,
    ErrorAnswer,
    InputRequest,
    ModelEmbeddingRequest,
    Options,
    TaskAnswer,
    form_values,
    parse_request,
)
from serving.tracing import Tracing
from serving.turnstile import Turnstile

_ERRORS: dict[int | str, dict[str, Any]] = {"4XX": {"model": ErrorAnswer}, "5XX": {"model": ErrorAnswer}}


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
    playground = Playground(engine, routes)
    for path in page.ASSETS:
        app.add_api_route(
            path,
            page.asset,
            methods=["GET"],
            response_model=None,
            response_class=HTMLResponse,
            include_in_schema=path == "/",
        )
    contents = {playground.example: NATIVE_FILE, playground.example_preview: PICTURE}
    for path, get, kind in (
        ("/healthz", routes.healthz, JSONResponse),
        ("/readyz", routes.readyz, JSONResponse),
        ("/metrics", routes.metrics, PlainTextResponse),
        ("/v1/models", routes.models, JSONResponse),
        # Before the greedy path of the models' ids.
        ("/v1/models/{model:path}/examples", playground.examples, JSONResponse),
        ("/v1/models/{model:path}/examples/{name}", playground.example, Response),
        ("/v1/models/{model:path}/examples/{name}/preview", playground.example_preview, Response),
        ("/v1/models/{model:path}", routes.model, JSONResponse),
    ):
        good: dict[int | str, Any] = {200: contents[get]} if get in contents else {}
        app.add_api_route(
            path, get, methods=["GET"], response_model=None, response_class=kind, responses={**good, **_ERRORS}
        )
    more: dict[Any, dict[str, Any]] = {routes.embed_with: STREAMED}
    # A model's id may hold a slash; the greedy path leaves the last part to the route.
    for path, post, answer, forms in (
        ("/v1/embeddings", routes.embed, EmbeddingAnswer, _json_body(EmbeddingRequest)),
        (
            "/v1/models/{model:path}/embeddings",
            routes.embed_with,
            EmbeddingAnswer,
            _json_body(ModelEmbeddingRequest) | _upload_body(Options) | LINES_BODY,
        ),
        ("/v1/models/{model:path}/preview", playground.preview, None, _json_body(InputRequest) | _upload_body(None)),
        (
            "/v1/models/{model:path}/neighbours",
            playground.neighbours,
            TaskAnswer,
            _json_body(InputRequest) | _upload_body(None),
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
            responses={200: ({"model": answer} if answer else PICTURE) | more.get(post, {}), **_ERRORS},
            openapi_extra={"requestBody": {"required": True, "content": forms}},
        )
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


class Routes(Front):
    """The handlers of the service's own routes, over one engine."""

    def __init__(self, engine: Engine, exposition: Callable[[str], Awaitable[Exposition]] | None = None) -> None:
        """Serve what ``engine`` serves; ``exposition`` gives the metrics in the place of its own."""
        super().__init__(engine)
        self._exposition = exposition

    # --- asking -----------------------------------------------------------------------------------------

    async def embed(self, request: Request) -> Response:
        """Embed one or many inputs with the model that the body names."""
        label(request, "/v1/embeddings")
        with self.body(request) as body:
            spec = parse_request(EmbeddingRequest, await body.json())
            self.lane(request, spec.model)
            return await self._embed(request, spec.model, as_inputs(spec.input), spec, "input")

    async def embed_with(self, request: Request, model: str) -> Response:
        """Embed uploaded files, or the inputs of a JSON body, with the model that the path names."""
        label(request, "/v1/models/{model}/embeddings")
        self.lane(request, model)
        if kind := stream_format(request):
            label(request, model=model)
            return StreamedEmbeddings(self, request, model, kind)
        with self.body(request) as body:
            if body.content_type == MULTIPART:
                form = await body.form()
                options = parse_request(Options, form_values(form.fields))
                return await self._embed(request, model, form.files, options, "file")
            _check_json(body)
            spec = parse_request(ModelEmbeddingRequest, await body.json())
            return await self._embed(request, model, as_inputs(spec.input), spec, "input")

    async def run_task(self, request: Request, model: str, task: str) -> Response:
        """Run one of a model's further tasks on uploaded files, or on the inputs of a JSON body."""
        label(request, "/v1/models/{model}/{task}")
        lane = self.lane(request, model)
        if lane.embedder is not None:
            resolve_work(lane.embedder, task=task)
        with self.body(request) as body:
            kind, inputs = await self.task_inputs(body)
            label(request, model=model)
            call = call_of(request)
            outputs = await unless_gone(request, self._engine.run(model, task, inputs, kind=kind, call=call))
            with Encoding(self._engine.metrics, model, call):
                return await answers.task_answer(model, task, inputs, outputs, call)

    async def task_inputs(self, body: BodyReader) -> tuple[str, list[Input]]:
        """Return the name of the field that holds the inputs of a task, and the inputs.

        Raises:
            InvalidRequest: There are none, or fields beside them.
            BodyTooLarge: There are more than one request may have.
        """
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
        self.check_count(inputs, kind)
        return kind, inputs

    async def _embed(
        self, request: Request, model: str, inputs: Sequence[Input], options: Options, kind: str
    ) -> Response:
        self.check_count(inputs, kind)
        label(request, model=model)
        call = call_of(request)
        outputs: list[list[Output | Refused]] = await unless_gone(
            request,
            self._engine.embed(
                model,
                inputs,
                pooling=options.pooling,
                layer=options.layer,
                kind=kind,
                call=call,
                sanity=options.sanity,
            ),
        )
        answers.count_flags(self._engine.metrics, model, outputs)
        with Encoding(self._engine.metrics, model, call):
            return await answers.embedding_answer(model, inputs, outputs, options, call)

    # --- telling ----------------------------------------------------------------------------------------

    async def models(self, request: Request) -> dict[str, Any]:
        """List the served models."""
        label(request, "/v1/models")
        return {"object": "list", "data": [describe.listed(lane) for lane in self.visible(request).values()]}

    async def model(self, request: Request, model: str) -> Any:
        """Describe one model: what it takes, what it gives, and its limits."""
        label(request, "/v1/models/{model}")
        lanes = self.visible(request)
        owner, _, last = model.rpartition("/")
        if model not in lanes and owner in lanes and last:
            # This path exists for POST (embeddings or a task), and the greedy route hides that.
            problem = ErrorReport(405, "this route takes POST", None, "method_not_allowed", allow="POST")
            return problem.response(request.scope["state"])
        return describe.described(self.lane(request, model), self._engine.settings)

    async def healthz(self, request: Request) -> dict[str, str]:
        """Tell whether the process works; a supervisor restarts it when not."""
        label(request, "/healthz")
        self._engine.check()
        return {"status": "ok"}

    async def readyz(self, request: Request) -> JSONResponse:
        """Tell whether the models of the start are loaded and warmed; a balancer sends requests only then."""
        label(request, "/readyz")
        # Without a key only whether: the names of the models are not for everyone.
        states = {} if is_outsider(request) else {n: lane.state for n, lane in self.visible(request).items()}
        if not self._engine.ready:
            shown = ", ".join(f"{name} is {state}" for name, state in states.items()) or "models are loading"
            raise Unavailable(f"not ready: {shown}", code="not_ready")
        return JSONResponse({"status": "ready"} | ({"models": states} if states else {}))

    async def metrics(self, request: Request) -> Response:
        """Return the counters in Prometheus's text format."""
        label(request, "/metrics")
        found = self._engine.metrics
        accept = request.headers.get("accept", "")
        shared = self._exposition
        content, kind = found.exposition(accept) if shared is None else await shared(accept)
        return Response(content, headers={"Content-Type": kind})


def _check_json(body: BodyReader) -> None:
    if body.content_type != "application/json":
        raise WrongContentType(
            f"Content-Type is {body.content_type or 'absent'}; send files as {MULTIPART} or JSON as application/json"
        )


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
