"""The Open Inference Protocol, version 2, over HTTP: what KServe's and Triton's clients speak."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from serving.answers import BIG_ANSWER, count_flags, embedding_origin
from serving.errors import InvalidRequest, NotFound, Unavailable, WrongContentType
from serving.front import Front
from serving.handling import Encoding, call_of, label, unless_gone
from serving.inputs import Input
from serving.jobs import Call, Output, Refused
from serving.lane import Lane
from serving.problems import ErrorReport
from serving.protocols import v2_documents as documents
from serving.protocols.error_forms import TextError
from serving.protocols.tensors import HEADER_LENGTH, Tensor, read_tensors, split_body, write_body
from serving.protocols.v2_answers import EMBEDDING, Wanted, outputs_of, wanted_of
from serving.protocols.v2_inputs import inputs_of
from serving.protocols.v2_schemas import (
    IndexRequest,
    InferAnswer,
    InferRequest,
    Live,
    ModelMetadata,
    Ready,
    ServerMetadata,
    schema_of,
)
from serving.schemas import Options, parse_request

MODEL = "/v2/models/{model:path}"
VERSION = MODEL + "/versions/{version}"

BINARY = "application/octet-stream"

OPTIONS = ("pooling", "layer", "dimensions", "sanity")

NOT_HERE = ("priority", "sequence_id", "sequence_start", "sequence_end")

_ERRORS: dict[int | str, dict[str, Any]] = {"4XX": {"model": TextError}, "5XX": {"model": TextError}}


def add_v2(app: FastAPI, front: Front) -> None:
    """Add the protocol's routes."""
    routes = V2(front)
    # From the particular to the general: a model's id may hold slashes, so its path is greedy.
    gets: tuple[tuple[str, Any, type[BaseModel] | None], ...] = (
        ("/v2", routes.server, ServerMetadata),
        ("/v2/health/live", routes.live, Live),
        ("/v2/health/ready", routes.ready, Ready),
        ("/v2/models/stats", routes.all_statistics, None),
        (VERSION + "/ready", routes.model_ready, Ready),
        (VERSION + "/config", routes.configuration, None),
        (VERSION + "/stats", routes.statistics, None),
        (VERSION, routes.metadata, ModelMetadata),
        (MODEL + "/ready", routes.model_ready, Ready),
        (MODEL + "/config", routes.configuration, None),
        (MODEL + "/stats", routes.statistics, None),
        (MODEL, routes.metadata, ModelMetadata),
    )
    for path, handler, answer in gets:
        told: dict[int | str, dict[str, Any]] = {200: {"model": answer}} if answer else {}
        app.add_api_route(path, handler, methods=["GET"], response_model=None, responses={**told, **_ERRORS})
    infer_body = {
        "application/json": {"schema": schema_of(InferRequest)},
        BINARY: {"schema": {"type": "string", "format": "binary"}},
    }
    index_body = {"application/json": {"schema": schema_of(IndexRequest)}}
    for path, handler, ok, body in (
        (VERSION + "/infer", routes.infer, {"model": InferAnswer}, infer_body),
        (MODEL + "/infer", routes.infer, {"model": InferAnswer}, infer_body),
        ("/v2/repository/index", routes.index, {}, index_body),
    ):
        app.add_api_route(
            path,
            handler,
            methods=["POST"],
            response_model=None,
            responses={200: ok, **_ERRORS} if ok else _ERRORS,
            openapi_extra={"requestBody": {"required": bool(ok), "content": body}},
        )


class V2:
    """The protocol's handlers."""

    def __init__(self, front: Front) -> None:
        """Answer by the rules of ``front``."""
        self._front = front

    # --- telling ----------------------------------------------------------------------------------------

    async def server(self, request: Request) -> dict[str, Any]:
        """Tell what the server is."""
        label(request, "/v2")
        return documents.server()

    async def live(self, request: Request) -> dict[str, bool]:
        """Tell whether the process works."""
        label(request, "/v2/health/live")
        self._front.engine.check()
        return {"live": True}

    async def ready(self, request: Request) -> dict[str, bool]:
        """Tell whether the models of the start are loaded and warmed."""
        label(request, "/v2/health/ready")
        if not self._front.engine.ready:
            raise Unavailable("not ready: models are loading", code="not_ready")
        return {"ready": True}

    async def model_ready(self, request: Request, model: str, version: str | None = None) -> dict[str, Any]:
        """Tell whether a model answers requests."""
        lane = self._lane(request, model, version, "/ready")
        if not documents.is_ready(lane):
            raise Unavailable(f"{lane.id} is {lane.state}", code="model_not_ready")
        return {"name": lane.id, "ready": True}

    async def metadata(self, request: Request, model: str, version: str | None = None) -> Any:
        """Describe a model's tensors."""
        owner, _, last = model.rpartition("/")
        visible = self._front.visible(request)
        if last == "infer" and model not in visible and owner.partition("/versions/")[0] in visible:
            label(request, MODEL.replace(":path", "") + "/infer")
            return ErrorReport(405, "this route takes POST", None, "method_not_allowed", allow="POST").response(
                request.scope["state"]
            )
        return documents.metadata(self._lane(request, model, version, ""))

    async def configuration(self, request: Request, model: str, version: str | None = None) -> dict[str, Any]:
        """Describe a model in the words of Triton's model configuration."""
        return documents.configuration(self._lane(request, model, version, "/config"))

    async def statistics(self, request: Request, model: str, version: str | None = None) -> dict[str, Any]:
        """Return what was counted of a model's work since the start."""
        lane = self._lane(request, model, version, "/stats")
        return documents.statistics([lane], self._front.engine.metrics)

    async def all_statistics(self, request: Request) -> dict[str, Any]:
        """Return what was counted of all models' work since the start."""
        label(request, "/v2/models/stats")
        return documents.statistics(self._front.visible(request).values(), self._front.engine.metrics)

    async def index(self, request: Request) -> list[dict[str, Any]]:
        """List the models and their states."""
        label(request, "/v2/repository/index")
        content = await self._content(request)
        asked = parse_request(IndexRequest, split_body(content, None)[0] if content else {})
        return documents.index(self._front.visible(request).values(), asked.ready)

    def _lane(self, request: Request, model: str, version: str | None, route: str) -> Lane:
        """Return the model that a path names, after leaving the path's template for the metrics.

        Raises:
            NotFound: It has another version.
        """
        label(request, (MODEL if version is None else VERSION).replace(":path", "") + route)
        lane = self._front.lane(request, model)
        label(request, model=model)
        if version is not None:
            _check_version(lane, version)
        return lane

    # --- asking -----------------------------------------------------------------------------------------

    async def infer(self, request: Request, model: str, version: str | None = None) -> Response:
        """Embed the inputs that tensors hold, or run one of the model's tasks on them."""
        lane = self._lane(request, model, None, "/infer")
        if version is not None:
            label(request, VERSION.replace(":path", "") + "/infer")
        call = call_of(request)
        with self._front.body(request) as body:
            _check_kind(request)
            content = bytearray()
            async for chunk in body.chunks():
                content += chunk
            values, binary = split_body(content, request.headers.get(HEADER_LENGTH))
            spec = parse_request(InferRequest, values)
            _check_outputs(spec)
            tensors = read_tensors(spec.inputs, binary)
            options, shared = _options(spec.parameters, call)
            inputs = inputs_of(tensors, shared)
            self._front.check_count(inputs, "inputs")
            wanted, outputs = await unless_gone(request, self._run(lane, version, spec, inputs, options, call))
        with Encoding(self._front.engine.metrics, model, call):
            found = outputs_of(wanted, outputs, options, lane.dimension)
            return await _answer(lane, spec, wanted, found, options, call)

    async def _run(
        self, lane: Lane, version: str | None, spec: InferRequest, inputs: Sequence[Input], options: Options, call: Call
    ) -> tuple[Wanted, list[list[Output | Refused]]]:
        engine = self._front.engine
        if lane.embedder is None and (version is not None or spec.outputs):
            # Its version and its tasks are known once it is loaded.
            await _loaded(lane, engine.patience(call))
        if version is not None:
            _check_version(lane, version)
        names = [output.name for output in spec.outputs]
        wanted = Wanted(None, ()) if lane.embedder is None else wanted_of(names, lane.embedder)
        if wanted.task is None:
            found = await engine.embed(
                lane.id,
                inputs,
                pooling=options.pooling,
                layer=options.layer,
                kind="input",
                call=call,
                sanity=options.sanity,
            )
            count_flags(engine.metrics, lane.id, found)
            return wanted, found
        for name in OPTIONS:
            if name in spec.parameters:
                raise InvalidRequest(f"{name} is for embeddings, not for a task", param=name)
        return wanted, await engine.run(lane.id, wanted.task, inputs, kind="input", call=call)

    async def _content(self, request: Request) -> bytes:
        with self._front.body(request) as body:
            return b"".join([chunk async for chunk in body.chunks()])


async def _loaded(lane: Lane, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await lane.loaded()
    except TimeoutError:
        raise Unavailable(f"{lane.id} was not loaded within {seconds:g} s; try later", code="timeout") from None


def _check_version(lane: Lane, version: str) -> None:
    found = documents.version_of(lane)
    if version != found:
        known = f"its version is {found}" if found else "its version is known once it is loaded"
        raise NotFound(f"{lane.id} has no version {version[:100]!r}; {known}", code="version_not_found")


def _check_kind(request: Request) -> None:
    """Refuse what is announced as another kind of content; Triton's client announces none."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("", "application/json", BINARY):
        raise WrongContentType(f"Content-Type is {kind[:100]}; send application/json, or {BINARY} with tensors behind")
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise WrongContentType(f"Content-Encoding {encoding[:40]!r} is not taken; send the body as it is")


def _check_outputs(spec: InferRequest) -> None:
    for output in spec.outputs:
        if odd := next((name for name in output.parameters if name != "binary_data"), None):
            raise InvalidRequest(
                f"outputs: there is no parameter {odd[:100]!r}; known: binary_data",
                param="outputs",
                code="unknown_field",
            )


def _options(parameters: Mapping[str, Any], call: Call) -> tuple[Options, dict[str, Any]]:
    """Return how embeddings are made, and what of the parameters belongs to the inputs; a time-out goes to the call."""
    rest = dict(parameters)
    rest.pop("binary_data_output", None)
    for name in NOT_HERE:
        if name in rest:
            raise InvalidRequest(f"the parameter {name} is not supported here", param=name, code="unknown_field")
    timeout = rest.pop("timeout", None)
    if timeout is not None:
        if isinstance(timeout, bool) or not isinstance(timeout, int) or timeout <= 0:
            raise InvalidRequest("timeout must be a number of microseconds above 0", param="timeout")
        call.timeout_s = min(call.timeout_s or float("inf"), timeout / 1e6)
    return parse_request(Options, {name: rest.pop(name) for name in OPTIONS if name in rest}), rest


async def _answer(
    lane: Lane, spec: InferRequest, wanted: Wanted, found: list[Tensor], options: Options, call: Call
) -> Response:
    parameters = embedding_origin(lane.id, call, options)
    if wanted.task is not None:
        del parameters["embedding_space"]
    head: dict[str, Any] = {
        "model_name": lane.id,
        "model_version": documents.version_of(lane),
        "parameters": {name: value for name, value in parameters.items() if name != "model" and value is not None},
    }
    if spec.id is not None:
        head["id"] = spec.id
    asked = {output.name: output.parameters for output in spec.outputs}
    everything = spec.parameters.get("binary_data_output", False)
    binary = [bool(asked.get(tensor.name, {}).get("binary_data", everything)) for tensor in found]

    def write() -> tuple[bytes, list[bytes]]:
        values, pieces = write_body(head, found, binary)
        return json.dumps(values, allow_nan=False, separators=(",", ":")).encode(), pieces

    size = sum(len(t.values) if t.name != EMBEDDING else t.values.size for t in found)  # type: ignore[union-attr]
    text, pieces = await asyncio.to_thread(write) if size > BIG_ANSWER else write()
    if not pieces:
        return Response(text, media_type="application/json")
    return Response(b"".join([text, *pieces]), media_type=BINARY, headers={HEADER_LENGTH: str(len(text))})
