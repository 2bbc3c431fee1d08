"""Outputs of the engine to output tensors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hub.embedder import Embedder
from hub.modeling import TaskFile
from serving.answers import check_dimensions, sanity_of, shortened
from serving.errors import InvalidRequest
from serving.jobs import Output, Refused
from serving.protocols.tensors import Tensor
from serving.schemas import Options

EMBEDDING, INPUT, KEY, ROWS, ERRORS = "embedding", "item_input", "item_key", "item_rows", "errors"
SANITY = "sanity"


@dataclass(frozen=True)
class Wanted:
    """What a request asks for.

    Attributes:
        task: One of the model's further tasks, or ``None`` for embeddings.
        names: Of the outputs, in order; empty for those that belong together.
    """

    task: str | None
    names: tuple[str, ...]


def wanted_of(names: Sequence[str], embedder: Embedder) -> Wanted:
    """Return what the names of a request's outputs ask for.

    Raises:
        InvalidRequest: There is no such output, or they ask for two different computations.
    """
    tasks = [name for name in names if name in embedder.model.tasks]
    known = (EMBEDDING, INPUT, KEY, ROWS, ERRORS, SANITY)
    unknown = next((name for name in names if name not in known and name not in tasks), None)
    if unknown is not None:
        offered = ", ".join([*known, *embedder.model.tasks])
        raise InvalidRequest(f"there is no output {unknown[:100]!r}; there are: {offered}", param="outputs")
    if len(names) > len(set(names)):
        raise InvalidRequest("an output is asked for twice", param="outputs")
    if len(tasks) + (EMBEDDING in names) > 1:
        raise InvalidRequest("ask for the embedding or for one task, each in a request of its own", param="outputs")
    return Wanted(tasks[0] if tasks else None, tuple(names))


def outputs_of(
    wanted: Wanted, outputs: Sequence[Sequence[Output | Refused]], options: Options, dimension: int
) -> list[Tensor]:
    """Return the output tensors of a request.

    Args:
        wanted: What it asks for.
        outputs: For each input the outputs of its samples, and what cannot be used.
        options: Of the request.
        dimension: Of the model's embeddings, for an answer without any.

    Raises:
        InvalidRequest: An output is asked for that only comes with an option.
        UnsupportedOption: More ``dimensions`` are asked for than the embedding has.
    """
    good = [(i, o) for i, found in enumerate(outputs) for o in found if isinstance(o, Output)]
    refused = [(i, o) for i, found in enumerate(outputs) for o in found if isinstance(o, Refused)]
    values = [o.value for _, o in good]
    tensors: list[Tensor] = []
    if wanted.task is not None:
        tensors.append(Tensor(wanted.task, "BYTES", (len(values),), [_result(value) for value in values]))
    else:
        tensors += _vectors(values, options.dimensions, options.dimensions or dimension)
    tensors.append(_integers(INPUT, [index for index, _ in good]))
    tensors.append(Tensor(KEY, "BYTES", (len(good),), [output.key for _, output in good]))
    if options.sanity is not None:
        said: list[bytes | str] = [json.dumps(sanity_of(output), allow_nan=False) for _, output in good]
        tensors.append(Tensor(SANITY, "BYTES", (len(said),), said))
    if refused or ERRORS in wanted.names:
        told: list[bytes | str] = [
            json.dumps({"message": o.error.message, "code": o.error.code, "input": index, "key": o.key})
            for index, o in refused
        ]
        tensors.append(Tensor(ERRORS, "BYTES", (len(told),), told))
    if not wanted.names:
        return tensors
    named = {tensor.name: tensor for tensor in tensors}
    if missing := next((name for name in wanted.names if name not in named), None):
        need = "the parameter sanity" if missing == SANITY else "pooling 'none', for it belongs to token states"
        raise InvalidRequest(f"{missing!r} needs {need}", param="outputs")
    return [named[name] for name in wanted.names]


def _vectors(values: Sequence[np.ndarray], dimensions: int | None, dimension: int) -> list[Tensor]:
    for value in values:
        check_dimensions(dimensions, value.shape[-1])
    found = [shortened(value, dimensions) for value in values]
    if not any(value.ndim > 1 for value in found):
        table = np.stack(found) if found else np.zeros((0, dimension), np.float32)
        return [Tensor(EMBEDDING, "FP32", table.shape, table)]
    # Samples differ in their number of tokens: their rows follow one another, and a tensor of its own counts them.
    table = np.concatenate(found)
    return [Tensor(EMBEDDING, "FP32", table.shape, table), _integers(ROWS, [len(value) for value in found])]


def _integers(name: str, values: Sequence[int]) -> Tensor:
    return Tensor(name, "INT64", (len(values),), np.array(values, np.int64))


def _result(value: Any) -> bytes | str:
    return value.content if isinstance(value, TaskFile) else json.dumps(value, allow_nan=False)
