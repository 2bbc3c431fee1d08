"""The ASGI application over an engine: the same under uvicorn and inside a Ray Serve replica."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from hub.errors import UnknownModel
from serving import answers, describe, page
from serving.access import Gate, check_model, is_outsider, may_use
from serving.bodies import MULTIPART, BodyReader, PendingBytes
from serving.engine import Engine
from serving.errors import BodyTooLarge, InvalidRequest, Unavailable, WrongContentType
from serving.handling import Encoding, call_of, http_error, label, unless_gone
from serving.inputs import Input, as_inputs
from serving.jobs import Output, Refused, resolve_work
from serving.keys import KeyRing
from serving.lane import Lane
from serving.middleware import Envelope
from serving.patience import Patience
from serving.problems import ErrorReport
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

_ERRORS: dict[int | str, dict[str, Any]] = {"4XX": {"model": ErrorAnswer}, "5XX": {"model": ErrorAnswer}}


def create_app(engine: Engine, *, send_request_id: bool = True) -> FastAPI:
    """Return the application.

    Its lifespan starts the engine and closes it; models load meanwhile, and ``/readyz`` tells when they have.

    Args:
        engine: Serves the models.
        send_request_id: Put ``X-Request-Id`` on answers; not where a proxy in front does so already.

    Raises:
        InvalidSettings: The file of keys cannot be read.
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
    # The last one added is the outermost.
    app.add_middleware(Patience, settings=lambda: engine.settings)
    app.add_middleware(Gate, settings=lambda: engine.settings, ring=KeyRing(engine.settings))
    app.add_middleware(Envelope, metrics=engine.metrics, send_id=send_request_id, log=engine.settings.log_requests)
    if engine.settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=engine.settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-Request-Id", "X-Request-Timeout"],
            expose_headers=["X-Request-Id", "Server-Timing", "Retry-After"],
        )
    app.add_exception_handler(HTTPException, http_error)
    routes = Routes(engine)
    for path, get, kind in (
        ("/", routes.index, HTMLResponse),
        ("/healthz", routes.healthz, JSONResponse),
        ("/readyz", routes.readyz, JSONResponse),
        ("/metrics", routes.metrics, PlainTextResponse),
        ("/v1/models", routes.models, JSONResponse),
        ("/v1/models/{model:path}", routes.model, JSONResponse),
    ):
        app.add_api_route(path, get, methods=["GET"], response_model=None, response_class=kind, responses=_ERRORS)
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


class Routes:
    """The handlers of all routes, over one engine."""

    def __init__(self, engine: Engine) -> None:
        """Serve what ``engine`` serves."""
        self._engine = engine
        self._pending = PendingBytes()

    # --- asking -----------------------------------------------------------------------------------------

    async def embed(self, request: Request) -> Response:
        """Embed one or many inputs with the model that the body names."""
        label(request, "/v1/embeddings")
        with self._body(request) as body:
            spec = parse_request(EmbeddingRequest, await body.json())
            self._lane(request, spec.model)
            return await self._embed(request, spec.model, as_inputs(spec.input), spec, "input")

    async def embed_with(self, request: Request, model: str) -> Response:
        """Embed uploaded files, or the inputs of a JSON body, with the model that the path names."""
        label(request, "/v1/models/{model}/embeddings")
        self._lane(request, model)
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
        label(request, "/v1/models/{model}/{task}")
        lane = self._lane(request, model)
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
            label(request, model=model)
            call = call_of(request)
            outputs = await unless_gone(request, self._engine.run(model, task, inputs, kind=kind, call=call))
            with Encoding(self._engine.metrics, model, call):
                return await answers.task_answer(model, task, inputs, outputs, call)

    def _visible(self, request: Request) -> dict[str, Lane]:
        return {name: lane for name, lane in self._engine.lanes.items() if may_use(request, name)}

    def _lane(self, request: Request, model: str) -> Lane:
        """Return a served model that this request may use.

        Raises:
            Forbidden: Its key may not.
            UnknownModel: There is none of this name; the text lists those that it may use.
        """
        check_model(request, model)
        visible = self._visible(request)
        if model not in visible:
            raise UnknownModel(f"no model {model[:100]!r} is served here; served: {', '.join(visible)}")
        return visible[model]

    def _body(self, request: Request) -> BodyReader:
        return BodyReader(request, self._engine.settings, self._pending)

    async def _embed(
        self, request: Request, model: str, inputs: Sequence[Input], options: Options, kind: str
    ) -> Response:
        self._check_count(inputs, kind)
        label(request, model=model)
        call = call_of(request)
        outputs: list[list[Output | Refused]] = await unless_gone(
            request,
            self._engine.embed(model, inputs, pooling=options.pooling, layer=options.layer, kind=kind, call=call),
        )
        with Encoding(self._engine.metrics, model, call):
            return await answers.embedding_answer(model, inputs, outputs, options, call)

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
        label(request, "/v1/models")
        return {"object": "list", "data": [describe.listed(lane) for lane in self._visible(request).values()]}

    async def model(self, request: Request, model: str) -> Any:
        """Describe one model: what it takes, what it gives, and its limits."""
        label(request, "/v1/models/{model}")
        lanes = self._visible(request)
        owner, _, last = model.rpartition("/")
        if model not in lanes and owner in lanes and last:
            # This path exists for POST (embeddings or a task), and the greedy route hides that.
            problem = ErrorReport(405, "this route takes POST", None, "method_not_allowed", allow="POST")
            return problem.response(request.scope["state"])
        return describe.described(self._lane(request, model), self._engine.settings)

    async def healthz(self, request: Request) -> dict[str, str]:
        """Tell whether the process works; a supervisor restarts it when not."""
        label(request, "/healthz")
        self._engine.check()
        return {"status": "ok"}

    async def readyz(self, request: Request) -> JSONResponse:
        """Tell whether the models of the start are loaded and warmed; a balancer sends requests only then."""
        label(request, "/readyz")
        # Without a key only whether: the names of the models are not for everyone.
        states = {} if is_outsider(request) else {n: lane.state for n, lane in self._visible(request).items()}
        if not self._engine.ready:
            shown = ", ".join(f"{name} is {state}" for name, state in states.items()) or "models are loading"
            raise Unavailable(f"not ready: {shown}", code="not_ready")
        return JSONResponse({"status": "ready"} | ({"models": states} if states else {}))

    async def metrics(self, request: Request) -> Response:
        """Return the counters in Prometheus's text format."""
        label(request, "/metrics")
        found = self._engine.metrics
        return Response(found.exposition(), media_type=found.content_type)

    async def index(self, request: Request) -> HTMLResponse:
        """Show what is served here."""
        label(request, "/")
        html = page.index(self._visible(request).values(), str(request.base_url))
        return HTMLResponse(html, headers=page.HEADERS)


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
