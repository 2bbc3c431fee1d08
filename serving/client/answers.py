"""What the service answers, as Python objects."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

import httpx
import numpy as np
from numpy.typing import NDArray

from hub.errors import HubError
from serving.client.retries import retry_after_of

Vector = NDArray[np.float32]

_PLACE = re.compile(r"\binput\[(\d+)\]")


class ServiceError(HubError):
    """The service answered with an error, or did not answer.

    Attributes:
        status: HTTP status; 0 when there was no answer.
        param: The field or input to blame, for example ``input[3]``.
        retry_after: Seconds to wait before another try, where the service says so.
        request_id: Under which the service's log tells more.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        code: str = "no_answer",
        param: str | None = None,
        retry_after: float | None = None,
        request_id: str | None = None,
    ) -> None:
        """Keep what the service said."""
        super().__init__(message, code=code)
        self.status = status
        self.param = param
        self.retry_after = retry_after
        self.request_id = request_id

    @property
    def input(self) -> int | None:
        """Index of the input to blame, where it is one."""
        found = _PLACE.fullmatch(self.param or "")
        return int(found[1]) if found else None

    def renumbered(self, numbers: Sequence[int]) -> ServiceError:
        """Return the error with the index of its input replaced by ``numbers[index]``."""
        if self.input is None or self.input >= len(numbers):
            return self
        own, other = f"input[{self.input}]", f"input[{numbers[self.input]}]"
        return ServiceError(
            self.message.replace(own, other),
            status=self.status,
            code=self.code,
            param=other,
            retry_after=self.retry_after,
            request_id=self.request_id,
        )


class ModelEntry(TypedDict, total=False):
    """A served model; what only its description has, not its entry in the list, is there once it is loaded."""

    id: str
    state: str
    created: int
    owned_by: str
    domain: str
    dimension: int
    dtype: str
    dtype_error: dict[str, float] | None
    revision: str | None
    weights: str
    processor: str
    embedding_space: str
    inputs: dict[str, Any]
    limits: dict[str, Any]
    poolings: list[str]
    tasks: list[str]
    cost_unit: str
    request_limits: dict[str, Any]


@dataclass(frozen=True)
class Item:
    """Where an embedding came from, and, where ``sanity`` was asked for, how far its input can be trusted.

    Attributes:
        input: Index of its input.
        source: The file's name.
        key: Which sample of it.
        warnings: What to know about it although it was accepted.
        flags: The same in codes.
        facts: Read with it.
        neighbourhood: How unlike the model's training data it is: ``distance``, ``percentile``, and see
            `hub.neighbourhood.Neighbourhood.judge`.
    """

    input: int
    source: str | None
    key: str
    warnings: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    neighbourhood: dict[str, float] | None = None


@dataclass(frozen=True)
class Unusable:
    """One sample that was left out of an input of many, or, where errors are collected, a whole input; and why."""

    input: int
    source: str | None
    key: str
    message: str
    code: str = ""


@dataclass(frozen=True)
class Embeddings:
    """The answer to an embedding request.

    Attributes:
        vectors: ``(samples, dimension)`` float32; for ``pooling="none"`` a list of ``(tokens, dimension)`` arrays.
        items: Where each came from.
        cost: Of all samples, in the model's cost unit.
        errors: Samples that cannot be used, of inputs in which others can; and collected errors.
        model: Id of the model that made them.
        revision: Commit of the repository that the model came from, if it did.
        weights: SHA-256 of the model's weights.
        processor: SHA-256 of its preprocessing configuration.
        embedding_space: Equal ids mean comparable vectors.
    """

    vectors: Vector | list[Vector] = field(repr=False)
    items: list[Item]
    cost: int
    errors: list[Unusable] = field(default_factory=list)
    model: str = ""
    revision: str | None = None
    weights: str = ""
    processor: str = ""
    embedding_space: str = ""


def embeddings_of(answers: Sequence[tuple[Sequence[int], dict[str, Any]]], errors: Sequence[Unusable]) -> Embeddings:
    """Put the answers of several requests together.

    Args:
        answers: For each request the numbers that its inputs have for the caller, and the answer's body.
        errors: Collected beside them.

    Raises:
        ServiceError: The model changed between two of the requests, so that their vectors cannot be compared.
    """
    vectors: list[Vector] = []
    items: list[Item] = []
    refused = list(errors)
    for numbers, body in answers:
        vectors += [_decoded(entry) for entry in body["data"]]
        items += [item_of(e, numbers[e["item"]["input"]], e["item"].get("source")) for e in body["data"]]
        refused += [_unusable(entry, numbers) for entry in body.get("errors", ())]
    spaces = {body.get("embedding_space", "") for _, body in answers}
    if len(spaces) > 1:
        raise ServiceError(
            "the model changed while the inputs were sent: their vectors cannot be compared; send them again",
            code="embedding_space_changed",
        )
    origin = answers[0][1] if answers else {}
    order = sorted(range(len(items)), key=lambda i: items[i].input)
    vectors = [vectors[i] for i in order]
    ragged = any("shape" in entry for _, body in answers for entry in body["data"])
    return Embeddings(
        vectors if ragged else np.stack(vectors) if vectors else np.zeros((0, 0), np.float32),
        [items[i] for i in order],
        sum(body["usage"]["total_tokens"] for _, body in answers),
        sorted(refused, key=lambda u: u.input),
        **{name: origin.get(name) or "" for name in ("model", "weights", "processor", "embedding_space")},
        revision=origin.get("revision"),
    )


def error_of(answer: httpx.Response) -> ServiceError:
    """Return the error that an unsuccessful answer tells."""
    facts: dict[str, Any] = {
        "status": answer.status_code,
        "retry_after": retry_after_of(answer),
        "request_id": answer.headers.get("x-request-id"),
    }
    try:
        problem = answer.json()["error"]
        return ServiceError(problem["message"], code=problem["code"], param=problem["param"], **facts)
    except (ValueError, KeyError, TypeError):
        # Not from the application: a proxy in front of it answers in its own words.
        return ServiceError(f"HTTP {answer.status_code}: {answer.text[:200]}", code="proxy", **facts)


def task_results(answer: httpx.Response) -> list[Any] | bytes:
    """Return a task's results; a file's bytes when the result is one file."""
    if answer.headers.get("content-type") != "application/json":
        return answer.content
    return [entry["result"] for entry in answer.json()["data"]]


def _decoded(entry: dict[str, Any]) -> Vector:
    values = np.frombuffer(base64.b64decode(entry["embedding"]), "<f4").astype(np.float32)
    return values.reshape(entry["shape"]) if "shape" in entry else values


def item_of(entry: dict[str, Any], number: int, source: str | None) -> Item:
    """Return where an entry's embedding came from, the input by the number and name that it has for the caller."""
    sanity = entry.get("sanity", {})
    return Item(
        number,
        source,
        entry["item"]["key"],
        tuple(entry.get("warnings", ())),
        tuple(sanity.get("flags", ())),
        sanity.get("facts", {}),
        sanity.get("neighbourhood"),
    )


def _unusable(entry: dict[str, Any], numbers: Sequence[int]) -> Unusable:
    item = entry["item"]
    return Unusable(numbers[item["input"]], item.get("source"), item["key"], entry["message"], entry["code"])
