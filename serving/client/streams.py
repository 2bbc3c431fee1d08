"""Rows of an embedding request as they come, one after another, however many there are."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx
import numpy as np

from serving.client.answers import Item, ServiceError, Unusable, Vector, error_of, item_of
from serving.client.requests import Part, body_of
from serving.client.retries import Retries

NDJSON = "application/x-ndjson"

OnError = Literal["raise", "collect"]


@dataclass(frozen=True)
class StreamedRow:
    """One sample's embedding.

    Attributes:
        vector: ``(dimension,)`` float32; ``(tokens, dimension)`` for ``pooling="none"``.
        item: Where it came from.
    """

    vector: Vector = field(repr=False)
    item: Item


class Streaming:
    """What both kinds of stream share: how to ask, what a line means, and what has come so far.

    Attributes:
        errors: Samples left out of the inputs so far; and, where errors are collected, inputs.
        cost: Of the requests that are complete, in the model's cost unit.
        embedding_space: Equal ids mean comparable vectors; empty before the first request is answered.
    """

    def __init__(self, fields: dict[str, Any], headers: dict[str, str], on_error: OnError, retries: Retries) -> None:
        """Start with nothing.

        Args:
            fields: Of each request, the model among them.
            headers: Of each request.
            on_error: See `Client.stream`.
            retries: When to try again.
        """
        self.errors: list[Unusable] = []
        self.cost = 0
        self.embedding_space = ""
        self.path = f"/v1/models/{fields['model']}/embeddings"
        self.headers = {"Accept": NDJSON, "Content-Type": "application/json", **headers}
        self._fields = {name: value for name, value in fields.items() if name != "model"}
        self._on_error = on_error
        self._retries = retries

    def opened(self, answer: httpx.Response) -> None:
        """Take note of an answer that has begun; raise where another model gives it."""
        space = answer.headers.get("x-fmhub-embedding-space", "")
        if self.embedding_space and space != self.embedding_space:
            raise ServiceError(
                "the model changed while the inputs were sent: their vectors cannot be compared; send them again",
                code="embedding_space_changed",
            )
        self.embedding_space = space

    def row(self, entry: dict[str, Any], batch: Sequence[Part]) -> StreamedRow | None:
        """Return a line's row, if it is one; raise where the inputs have an error that is not collected."""
        item = entry["item"]
        part = batch[item["input"]]
        key = item.get("key")
        if entry["object"] == "embedding":
            vector = np.frombuffer(base64.b64decode(entry["embedding"]), "<f4").astype(np.float32)
            vector = vector.reshape(entry["shape"]) if "shape" in entry else vector
            return StreamedRow(vector, item_of(entry, part.number, part.name))
        if key is None and self._on_error == "raise":
            raise ServiceError(entry["message"], code=entry["code"], param=f"input[{part.number}]")
        self.errors.append(Unusable(part.number, part.name, key or "", entry["message"], entry["code"]))
        return None

    def wait(self, tried: int, outcome: httpx.Response | httpx.TransportError) -> float:
        """Return the seconds to wait before another try, or raise what there is to tell."""
        wait = self._retries.wait(tried, outcome)
        if wait is not None:
            return wait
        if isinstance(outcome, httpx.Response):
            raise error_of(outcome)
        raise ServiceError(f"no answer: {outcome or type(outcome).__name__}")

    def body(self, batch: Sequence[Part]) -> bytes:
        """Return a request's body, its files read now."""
        return body_of(batch, self._fields)


class _Lines:
    """The lines of one request over all of its tries: those that came before a break are not told twice."""

    def __init__(self) -> None:
        self.complete = False
        self._told = self._seen = 0

    def start(self) -> None:
        self._seen = 0

    def new(self, line: str) -> dict[str, Any] | None:
        """Return a line's value if it is a row that has not come before; the summary is kept."""
        entry = json.loads(line)
        if entry["object"] == "aborted":
            problem = entry["error"]
            if problem["code"] == "shutting_down":
                # Another replica, or the same one in a moment, goes on from here.
                raise httpx.RemoteProtocolError(problem["message"])
            raise ServiceError(problem["message"], code=problem["code"], param=problem["param"])
        if entry["object"] == "summary":
            self.complete = True
            self.summary: dict[str, Any] = entry
            return None
        self._seen += 1
        if self._seen <= self._told:
            return None
        self._told = self._seen
        return entry


_CUT = "the answer broke off before its end"


class _Told:
    """What is known of a stream's rows together."""

    _call: Streaming

    @property
    def errors(self) -> list[Unusable]:
        """Samples left out of the inputs so far; and, where errors are collected, inputs."""
        return self._call.errors

    @property
    def cost(self) -> int:
        """Of the requests that are complete, in the model's cost unit."""
        return self._call.cost

    @property
    def embedding_space(self) -> str:
        """Equal ids mean comparable vectors; empty before the first request is answered."""
        return self._call.embedding_space


class RowStream(_Told):
    """The rows of `Client.stream`: iterate over it, inside ``with`` or to its end."""

    def __init__(
        self,
        http: httpx.Client,
        sleep: Callable[[float], None],
        batches: Callable[[], list[list[Part]]],
        call: Streaming,
    ) -> None:
        """Prepare to ask; nothing is sent before the first row is asked for."""
        self._http = http
        self._sleep = sleep
        self._batches = batches
        self._call = call
        self._rows = self._all()

    def __enter__(self) -> RowStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[StreamedRow]:
        return self._rows

    def close(self) -> None:
        """Ask for no more: the service stops its work for this request."""
        self._rows.close()

    def _all(self) -> Generator[StreamedRow]:
        for batch in self._batches():
            lines, tried = _Lines(), 0
            while not lines.complete:
                tried += 1
                outcome: httpx.Response | httpx.TransportError
                try:
                    content = self._call.body(batch)
                    with self._http.stream(
                        "POST", self._call.path, content=content, headers=self._call.headers
                    ) as answer:
                        if not answer.is_success:
                            answer.read()
                            outcome = answer
                        else:
                            self._call.opened(answer)
                            lines.start()
                            for line in answer.iter_lines():
                                entry = lines.new(line)
                                row = None if entry is None else self._call.row(entry, batch)
                                if row is not None:
                                    yield row
                            outcome = httpx.RemoteProtocolError(_CUT)
                except httpx.TransportError as error:
                    outcome = error
                if not lines.complete:
                    self._sleep(self._call.wait(tried, outcome))
            self._call.cost += lines.summary["usage"]["total_tokens"]


class AsyncRowStream(_Told):
    """The rows of `AsyncClient.stream`: iterate over it, inside ``async with`` or to its end."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        sleep: Callable[[float], Coroutine[Any, Any, Any]],
        batches: Callable[[], Coroutine[Any, Any, list[list[Part]]]],
        call: Streaming,
    ) -> None:
        """Prepare to ask; nothing is sent before the first row is asked for."""
        self._http = http
        self._sleep = sleep
        self._batches = batches
        self._call = call
        self._rows = self._all()

    async def __aenter__(self) -> AsyncRowStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __aiter__(self) -> AsyncIterator[StreamedRow]:
        return self._rows

    async def close(self) -> None:
        """Ask for no more: the service stops its work for this request."""
        await self._rows.aclose()

    async def _all(self) -> AsyncGenerator[StreamedRow]:
        for batch in await self._batches():
            lines, tried = _Lines(), 0
            while not lines.complete:
                tried += 1
                outcome: httpx.Response | httpx.TransportError
                try:
                    # Read in a thread: other requests go on meanwhile.
                    content = await asyncio.to_thread(self._call.body, batch)
                    sent = self._http.stream("POST", self._call.path, content=content, headers=self._call.headers)
                    async with sent as answer:
                        if not answer.is_success:
                            await answer.aread()
                            outcome = answer
                        else:
                            self._call.opened(answer)
                            lines.start()
                            async for line in answer.aiter_lines():
                                entry = lines.new(line)
                                row = None if entry is None else self._call.row(entry, batch)
                                if row is not None:
                                    yield row
                            outcome = httpx.RemoteProtocolError(_CUT)
                except httpx.TransportError as error:
                    outcome = error
                if not lines.complete:
                    await self._sleep(self._call.wait(tried, outcome))
            self._call.cost += lines.summary["usage"]["total_tokens"]
