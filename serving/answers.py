"""Outputs of the engine to the bytes of an answer."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np
from pydantic_core import to_json
from starlette.responses import Response

from hub.doubts import codes_of
from hub.errors import UnsupportedOption
from hub.modeling import TaskFile
from serving.inputs import Input
from serving.jobs import Call, Output, Refused
from serving.metrics import Metrics
from serving.schemas import Options

BIG_ANSWER = 20_000
"""Above so many numbers, an answer is written in a thread: it would hold the event loop for milliseconds."""


async def embedding_answer(
    model: str,
    inputs: Sequence[Input],
    outputs: Sequence[Sequence[Output | Refused]],
    options: Options,
    call: Call,
) -> Response:
    """Return the answer of an embedding request, with where it came from.

    Raises:
        UnsupportedOption: More ``dimensions`` are asked for than the embedding has.
    """
    numbers = 0
    for output in _good(outputs):
        check_dimensions(options.dimensions, output.value.shape[-1])
        numbers += output.value.size

    def entry(output: Output) -> dict[str, Any]:
        found = {"object": "embedding", **encoded(output.value, options)}
        return found if options.sanity is None else {**found, "sanity": sanity_of(output)}

    origin = embedding_origin(model, call, options)
    return await _json_response(origin, inputs, outputs, entry, numbers, _dumps_numbers)


def count_flags(metrics: Metrics, model: str, outputs: Sequence[Sequence[Output | Refused]]) -> None:
    """Count the flags of embedded samples, whether the request asks for them or not."""
    for output in _good(outputs):
        for flag in codes_of(output.warnings) if output.warnings else ():
            metrics.input_flags.labels(model, flag).inc()


async def task_answer(
    model: str, task: str, inputs: Sequence[Input], outputs: Sequence[Sequence[Output | Refused]], call: Call
) -> Response:
    """Return the answer of a task: JSON, or the file itself when the result is one file."""
    flat = list(_good(outputs))
    origin = _origin(model, call)
    if len(flat) == 1 and isinstance(flat[0].value, TaskFile):
        return _file_response(flat[0].value, origin)
    size = sum(len(o.value.content) for o in flat if isinstance(o.value, TaskFile))
    return await _json_response(origin, inputs, outputs, lambda o: {"object": task, "result": _result(o.value)}, size)


def sanity_of(output: Output) -> dict[str, Any]:
    """Return what an answer says of how far a sample can be trusted, where a request asks for it."""
    found = {"flags": codes_of(output.warnings), "facts": dict(output.facts)}
    near = output.neighbourhood
    return found if near is None else {**found, "neighbourhood": dict(near)}


def embedding_origin(model: str, call: Call, options: Options) -> dict[str, str | None]:
    """Return what made an answer's embeddings, and which others they can be compared with."""
    origin = _origin(model, call)
    if call.provenance is not None:
        origin["embedding_space"] = call.provenance.space(call.work, options.dimensions)
    return origin


def _origin(model: str, call: Call) -> dict[str, str | None]:
    return {"model": call.model or model, **(call.provenance.fields if call.provenance is not None else {})}


def check_dimensions(asked: int | None, width: int) -> None:
    """Raise UnsupportedOption when more ``dimensions`` are asked for than the embedding has."""
    if asked is not None and asked > width:
        raise UnsupportedOption(
            f"dimensions={asked} is more than the {width} that the embedding has", param="dimensions"
        )


def shortened(value: np.ndarray, dimensions: int | None) -> np.ndarray:
    """Return a vector's, or each token's, first ``dimensions`` numbers, scaled to length 1."""
    if dimensions is None:
        return value
    value = value[..., :dimensions]
    lengths = np.linalg.norm(value, axis=-1, keepdims=True)
    return value / np.where(lengths > 0, lengths, 1)


def encoded(value: np.ndarray, options: Options) -> dict[str, Any]:
    """Return an embedding as the request's options ask for it."""
    value = shortened(value, options.dimensions)
    if options.encoding_format == "float":
        return {"embedding": value.tolist()}
    # Whatever this machine's byte order is, the answer's is little-endian.
    encoded = {"embedding": base64.b64encode(np.ascontiguousarray(value, "<f4").tobytes()).decode("ascii")}
    return encoded if value.ndim == 1 else {**encoded, "shape": list(value.shape)}


def _result(value: Any) -> Any:
    if isinstance(value, TaskFile):
        data = base64.b64encode(value.content).decode("ascii")
        return {"data": data, "media_type": value.media_type, "filename": value.filename}
    return value


def _file_response(file: TaskFile, origin: Mapping[str, str | None]) -> Response:
    disposition = f"attachment; filename*=UTF-8''{quote(file.filename, safe='')}"
    return Response(
        file.content,
        media_type=file.media_type,
        headers={
            "Content-Disposition": disposition,
            "X-Content-Type-Options": "nosniff",
            # The bytes have no place for it. Quoted, because a model may be called by any name.
            **{f"X-Fmhub-{name.title()}": quote(value) for name, value in origin.items() if value is not None},
        },
    )


def _good(outputs: Sequence[Sequence[Output | Refused]]) -> Iterator[Output]:
    return (output for per_input in outputs for output in per_input if isinstance(output, Output))


def _item(inputs: Sequence[Input], number: int, key: str) -> dict[str, Any]:
    name = inputs[number].filename
    return {"input": number, "key": key} | ({} if name is None else {"source": name})


def _entries(
    inputs: Sequence[Input],
    outputs: Sequence[Sequence[Output | Refused]],
    entry: Callable[[Output], dict[str, Any]],
) -> Iterator[dict[str, Any]]:
    index = 0
    for number, per_input in enumerate(outputs):
        for output in per_input:
            if isinstance(output, Refused):
                continue
            yield sample_entry(index, entry(output), _item(inputs, number, output.key), output)
            index += 1


def sample_entry(index: int, entry: dict[str, Any], item: dict[str, Any], output: Output) -> dict[str, Any]:
    """Return all that an answer says about one sample.

    Args:
        index: Among the answer's samples.
        entry: The kind of answer, and the answer.
        item: Which sample of which input it was.
        output: The engine's.
    """
    found = {"index": index, **entry, "item": item}
    if output.warnings:
        found["warnings"] = list(output.warnings)
    return found


async def _json_response(
    origin: Mapping[str, str | None],
    inputs: Sequence[Input],
    outputs: Sequence[Sequence[Output | Refused]],
    entry: Callable[[Output], dict[str, Any]],
    size: int,
    dumps: Callable[[Any], str] | None = None,
) -> Response:
    def write() -> bytes:
        cost = sum(o.cost for o in _good(outputs))
        head = _dumps({"object": "list", **origin})[:-1]
        usage = _dumps({"prompt_tokens": cost, "total_tokens": cost})
        # Entry by entry, because one call for all of them would not let go of the interpreter until its end.
        data = ",".join((dumps or _dumps)(found) for found in _entries(inputs, outputs, entry))
        refused = [
            {"message": o.error.message, "code": o.error.code, "item": _item(inputs, number, o.key)}
            for number, per_input in enumerate(outputs)
            for o in per_input
            if isinstance(o, Refused)
        ]
        errors = f',"errors":{_dumps(refused)}' if refused else ""
        return f'{head},"data":[{data}]{errors},"usage":{usage}}}'.encode()

    content = await asyncio.to_thread(write) if size > BIG_ANSWER else write()
    return Response(content, media_type="application/json")


def _dumps_numbers(value: Any) -> str:
    # Eight times faster than the standard library, which alone refuses NaN; vectors have been found finite before.
    return to_json(value).decode()


def _dumps(value: Any) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))
