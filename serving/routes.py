"""The service's own routes: asking for embeddings and tasks, and telling of models, health and metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from serving import answers, describe
from serving.access import is_outsider
from serving.bodies import MULTIPART, BodyReader
from serving.engine import Engine
from serving.errors import InvalidRequest, Unavailable, WrongContentType
from serving.front import Front
from serving.handling import Encoding, call_of, label, unless_gone
from serving.inputs import Input, as_inputs
from serving.jobs import Output, Refused, resolve_work
from serving.metrics import Exposition
from serving.problems import ErrorReport
from serving.protocols.streaming import LINES_BODY, STREAMED, StreamedEmbeddings, stream_format
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

ERRORS: dict[int | str, dict[str, Any]] = {"4XX": {"model": ErrorAnswer}, "5XX": {"model": ErrorAnswer}}
"""What the OpenAPI document says of answers that are errors."""

FILE: dict[str, Any] = {
    "content": {
        "*/*": {
            "schema": {
                "type": "string",
                "format": "binary",
                "description": "The file that a task makes of a single sample; Content-Disposition names it.",
            }
        }
    }
}
"""What it says of a task's answer that is a file, beside JSON."""


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


def add_routes(app: FastAPI, routes: Routes) -> None:
    """Add the service's own routes to an application, with what the OpenAPI document says of them."""
    for path, get, kind in (
        ("/healthz", routes.healthz, JSONResponse),
        ("/readyz", routes.readyz, JSONResponse),
        ("/metrics", routes.metrics, PlainTextResponse),
        ("/v1/models", routes.models, JSONResponse),
        ("/v1/models/{model:path}", routes.model, JSONResponse),
    ):
        app.add_api_route(path, get, methods=["GET"], response_model=None, response_class=kind, responses=ERRORS)
    streamed = json_body(ModelEmbeddingRequest) | upload_body(Options) | LINES_BODY
    files = json_body(InputRequest) | upload_body(None)
    # A model's id may hold a slash; the greedy path leaves the last part to the route.
    for path, post, answer, forms in (
        ("/v1/embeddings", routes.embed, {"model": EmbeddingAnswer}, json_body(EmbeddingRequest)),
        ("/v1/models/{model:path}/embeddings", routes.embed_with, {"model": EmbeddingAnswer} | STREAMED, streamed),
        ("/v1/models/{model:path}/{task}", routes.run_task, {"model": TaskAnswer} | FILE, files),
    ):
        add_post(app, path, post, answer, forms)


def add_post(
    app: FastAPI, path: str, handler: Callable[..., Any], answer: dict[str, Any], body: dict[str, Any]
) -> None:
    """Add a route that takes a body.

    Args:
        app: The application.
        path: Its template.
        handler: Of its requests.
        answer: What the OpenAPI document says of a good answer.
        body: The forms of its body by media type.
    """
    app.add_api_route(
        path,
        handler,
        methods=["POST"],
        response_model=None,
        responses={200: answer, **ERRORS},
        openapi_extra={"requestBody": {"required": True, "content": body}},
    )


def json_body(form: type[InputRequest]) -> dict[str, Any]:
    """Return a JSON body of some form, as the OpenAPI document names it."""
    return {"application/json": {"schema": form.model_json_schema()}}


def upload_body(options: type[Options] | None) -> dict[str, Any]:
    """Return an upload form with files and the fields of some options, as the OpenAPI document names it."""
    fields = options.model_json_schema()["properties"] if options else {}
    files = {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1}
    schema = {
        "type": "object",
        "properties": {"file": files, **fields},
        "required": ["file"],
        "additionalProperties": False,
    }
    return {MULTIPART: {"schema": schema}}
