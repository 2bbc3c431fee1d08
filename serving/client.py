"""A small client of the service: files, bytes or plain values in, numpy arrays out."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from hub.errors import HubError

Vector = NDArray[np.float32]


class ServiceError(HubError):
    """The service answered with an error, or did not answer.

    Attributes:
        status: HTTP status; 0 when there was no answer.
        param: The field or input to blame, for example ``input[3]``.
        retry_after: Seconds to wait before another try, where the service says so.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        code: str = "no_answer",
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        """Keep what the service said."""
        super().__init__(message, code=code)
        self.status = status
        self.param = param
        self.retry_after = retry_after


@dataclass(frozen=True)
class Item:
    """Where an embedding came from: the index of its input, the file's name, and which sample of it."""

    input: int
    source: str | None
    key: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unusable:
    """One sample that was left out of an input of many, and why."""

    input: int
    source: str | None
    key: str
    message: str


@dataclass(frozen=True)
class Embeddings:
    """The answer to an embedding request.

    Attributes:
        vectors: ``(samples, dimension)`` float32; for ``pooling="none"`` a list of ``(tokens, dimension)`` arrays.
        items: Where each came from.
        cost: Of all samples, in the model's cost unit.
        errors: Samples that cannot be used, of inputs in which others can.
    """

    vectors: Vector | list[Vector] = field(repr=False)
    items: list[Item]
    cost: int
    errors: list[Unusable] = field(default_factory=list)


class Client:
    """Talks to one service; use it as a context manager, or ``close`` it."""

    def __init__(self, url: str, *, timeout: float = 120.0) -> None:
        """Prepare to talk to the service at ``url``.

        Args:
            url: For example ``http://127.0.0.1:8000``.
            timeout: Seconds to wait for an answer.
        """
        self._http = httpx.Client(base_url=url, timeout=timeout)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def models(self) -> list[dict[str, Any]]:
        """Return the served models' entries."""
        return self._call("GET", "/v1/models").json()["data"]

    def model(self, name: str) -> dict[str, Any]:
        """Return a model's description: inputs, dimension, poolings, limits."""
        return self._call("GET", f"/v1/models/{name}").json()

    def embed(
        self,
        model: str,
        inputs: Any,
        *,
        pooling: str | None = None,
        layer: int | str | None = None,
        dimensions: int | None = None,
    ) -> Embeddings:
        """Embed files or plain values in one request.

        Args:
            model: Id of a served model.
            inputs: One input or a list of them: a path, a file's bytes, or the domain's plain form. A text is a path
                when such a file exists, and a plain value otherwise; a ``Path`` is always a file.
            pooling: One of the model's poolings, or ``"none"`` for token states.
            layer: Index of a hidden state, ``"average"`` or ``"all"``.
            dimensions: Keep so many numbers and scale to length 1.

        Raises:
            ServiceError: The service refused, with its message.
            OSError: A file cannot be read.
        """
        body: dict[str, Any] = {"model": model, "input": _encoded(inputs), "encoding_format": "base64"}
        options = {"pooling": pooling, "layer": layer, "dimensions": dimensions}
        body |= {name: value for name, value in options.items() if value is not None}
        answer = self._call("POST", "/v1/embeddings", json=body).json()
        vectors = [_decoded(entry) for entry in answer["data"]]
        return Embeddings(
            vectors if any("shape" in entry for entry in answer["data"]) else np.stack(vectors),
            [_item(entry) for entry in answer["data"]],
            answer["usage"]["total_tokens"],
            [_unusable(entry) for entry in answer.get("errors", ())],
        )

    def run(self, model: str, task: str, inputs: Any) -> list[Any] | bytes:
        """Run one of the model's further tasks; a list of results, or a file's bytes when the result is one file.

        Raises:
            ServiceError: The service refused, with its message.
            OSError: A file cannot be read.
        """
        answer = self._call("POST", f"/v1/models/{model}/{task}", json={"input": _encoded(inputs)})
        if answer.headers.get("content-type") != "application/json":
            return answer.content
        return [entry["result"] for entry in answer.json()["data"]]

    def _call(self, method: str, path: str, **content: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, path, **content)
        except httpx.TransportError as error:
            raise ServiceError(f"no answer from {self._http.base_url}: {error or type(error).__name__}") from error
        if answer.is_success:
            return answer
        retry = answer.headers.get("retry-after", "")
        after = float(retry) if retry.isdecimal() else None
        try:
            problem = answer.json()["error"]
            raise ServiceError(
                problem["message"],
                status=answer.status_code,
                code=problem["code"],
                param=problem["param"],
                retry_after=after,
            )
        except (ValueError, KeyError, TypeError):
            # Not from the application: a proxy in front of it answers in its own words.
            message = f"HTTP {answer.status_code}: {answer.text[:200]}"
            raise ServiceError(message, status=answer.status_code, code="proxy", retry_after=after) from None


def _encoded(inputs: Any) -> list[Any]:
    values = inputs if isinstance(inputs, list | tuple) else [inputs]
    return [_encoded_one(value) for value in values]


def _encoded_one(value: Any) -> Any:
    if isinstance(value, str) and _is_file(value):
        value = Path(value)
    if isinstance(value, Path):
        return {"data": base64.b64encode(value.read_bytes()).decode("ascii"), "filename": value.name}
    if isinstance(value, bytes):
        return {"data": base64.b64encode(value).decode("ascii")}
    return value.tolist() if isinstance(value, np.ndarray) else value


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):
        # A long plain value, or one with a NUL, is no file name.
        return False


def _decoded(entry: dict[str, Any]) -> Vector:
    values = np.frombuffer(base64.b64decode(entry["embedding"]), "<f4").astype(np.float32)
    return values.reshape(entry["shape"]) if "shape" in entry else values


def _item(entry: dict[str, Any]) -> Item:
    item = entry["item"]
    return Item(item["input"], item.get("source"), item["key"], tuple(entry.get("warnings", ())))


def _unusable(entry: dict[str, Any]) -> Unusable:
    item = entry["item"]
    return Unusable(item["input"], item.get("source"), item["key"], entry["message"])
