"""The two clients. What they send and make of the answers is the same; only how they wait differs."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx

from serving.client.answers import (
    Embeddings,
    ModelEntry,
    ServiceError,
    Unusable,
    embeddings_of,
    error_of,
    task_results,
)
from serving.client.requests import Part, body_of, deal, parts_of
from serving.client.retries import Retries
from serving.client.streams import AsyncRowStream, OnError, RowStream, Streaming

REQUEST_INPUTS = 64
"""Inputs of one request: enough that its fixed cost does not count, few enough that a bar moves."""

COLLECTED = frozenset({413, 415, 422})
"""Statuses that are the input's own fault, and concern no other."""

_NO_LIMITS = {"max_body_bytes": 2**62, "max_inputs": 2**62}


class _Base:
    """What both clients share: settings, and the plan of a call."""

    def __init__(self, url: str, key: str | None, timeout: float, retries: Retries | None) -> None:
        self._retries = retries or Retries()
        self._met = False
        self._limits: dict[str, dict[str, int]] = {}
        key = key or os.environ.get("FMHUB_API_KEY")
        self._options: dict[str, Any] = {
            "base_url": url,
            "timeout": timeout,
            "headers": {"Authorization": f"Bearer {key}"} if key else {},
        }

    def _plan(self, model: str, parts: Sequence[Part]) -> list[list[Part]]:
        limits = self._limits.get(model, _NO_LIMITS)
        return list(deal(parts, limits["max_body_bytes"], min(REQUEST_INPUTS, limits["max_inputs"])))

    def _note_limits(self, model: str, description: ModelEntry) -> None:
        self._limits[model] = {**_NO_LIMITS, **description.get("request_limits", {})}

    def _silence(self, error: httpx.TransportError) -> ServiceError:
        return ServiceError(f"no answer from {self._options['base_url']}: {error or type(error).__name__}")


class _Collected:
    """One embedding call: the requests it still needs, and what has come of the others."""

    def __init__(self, fields: dict[str, Any], on_error: OnError, headers: dict[str, str]) -> None:
        self.fields = fields
        self.headers = headers
        self.answers: list[tuple[Sequence[int], dict[str, Any]]] = []
        self.errors: list[Unusable] = []
        self._collect = on_error == "collect"

    def request(self, batch: Sequence[Part]) -> dict[str, Any]:
        headers = {"Content-Type": "application/json", **self.headers}
        return {"content": body_of(batch, self.fields), "headers": headers}

    def take(self, batch: list[Part], body: dict[str, Any]) -> None:
        self.answers.append(([part.number for part in batch], body))

    def after(self, batch: list[Part], error: ServiceError) -> list[list[Part]]:
        """Return what is to be sent instead of a refused request, or raise its error."""
        if error.status == 413 and error.param is None and len(batch) > 1:
            # Together they hold more samples than one request may; that cannot be known before they are read.
            half = len(batch) // 2
            return [batch[:half], batch[half:]]
        found = error.renumbered([part.number for part in batch])
        culprit = 0 if error.status == 413 and error.param is None else error.input
        if not self._collect or error.status not in COLLECTED or culprit is None:
            raise found
        self.errors.append(Unusable(batch[culprit].number, batch[culprit].name, "", found.message, found.code))
        rest = batch[:culprit] + batch[culprit + 1 :]
        return [rest] if rest else []


class Client(_Base):
    """Talks to one service; use it as a context manager, or ``close`` it. Several threads may share one."""

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        timeout: float = 120.0,
        retries: Retries | None = None,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Prepare to talk to the service at ``url``.

        Args:
            url: For example ``http://127.0.0.1:8000``.
            key: Where the service asks for one; the environment's ``FMHUB_API_KEY`` unless given.
            timeout: Seconds to wait for an answer.
            retries: When to try again; up to five times, in an outage for a minute, unless given.
            transport: Of httpx: for certificates, proxies, tests.
            sleep: Waits between tries.
        """
        super().__init__(url, key, timeout, retries)
        self._http = httpx.Client(**self._options, transport=transport)
        self._sleep = sleep

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def models(self) -> list[ModelEntry]:
        """Return the served models' entries."""
        return self._call("GET", "/v1/models").json()["data"]

    def model(self, name: str) -> ModelEntry:
        """Return a model's description: inputs, dimension, poolings, limits, where it came from."""
        return self._call("GET", f"/v1/models/{name}").json()

    def embed(
        self,
        model: str,
        inputs: Any,
        *,
        pooling: str | None = None,
        layer: int | str | None = None,
        dimensions: int | None = None,
        sanity: str | None = None,
        deadline: float | None = None,
        on_error: OnError = "raise",
        progress: bool = False,
    ) -> Embeddings:
        """Embed files or plain values, in as many requests as the service's limits ask for.

        Args:
            model: Id of a served model.
            inputs: One input or an iterable of them: a path, a file's bytes, or the domain's plain form. A text is a
                path when such a file exists, and a plain value otherwise; a ``Path`` is always a file. Files are read
                when their request is sent.
            pooling: One of the model's poolings, or ``"none"`` for token states.
            layer: Index of a hidden state, ``"average"`` or ``"all"``.
            dimensions: Keep so many numbers and scale to length 1.
            sanity: ``"flags"``: say in ``items`` what speaks against each input, and the facts read with it;
                ``"neighbourhood"``: also how unlike the model's training data it is; ``"stability"``: also how its
                embedding holds under mild changes, for eight more forwards.
            deadline: Seconds after which the service shall give up a request.
            on_error: ``"raise"`` at the first input that cannot be used, or ``"collect"`` those in ``errors``.
            progress: Draw a bar on standard error.

        Raises:
            ServiceError: The service refused, with its message, or could not be reached.
            OSError: A file cannot be read.
        """
        parts = parts_of(inputs)
        call = _Collected(_fields(model, pooling, layer, dimensions, sanity), on_error, _headers(deadline))
        batches = self._batches(model, parts)
        with _bar(len(parts), progress) as advance:
            for batch in batches:
                waiting = [batch]
                while waiting:
                    sent = waiting.pop(0)
                    try:
                        call.take(sent, self._call("POST", "/v1/embeddings", **call.request(sent)).json())
                    except ServiceError as error:
                        waiting = call.after(sent, error) + waiting
                advance(len(batch))
        return embeddings_of(call.answers, call.errors)

    def stream(
        self,
        model: str,
        inputs: Any,
        *,
        pooling: str | None = None,
        layer: int | str | None = None,
        dimensions: int | None = None,
        sanity: str | None = None,
        deadline: float | None = None,
        on_error: OnError = "raise",
    ) -> RowStream:
        """Embed files or plain values, giving each sample's row as soon as it is there, in order.

        For files that hold more samples than one answer may, and for more vectors than memory does. A connection that
        breaks is taken up again after the last row that came.

        Args:
            model: Id of a served model.
            inputs: As for ``embed``.
            pooling: See ``embed``, as of the others.
            layer: See there.
            dimensions: See there.
            sanity: ``"flags"``; what else ``embed`` takes, a stream has not.
            deadline: Seconds without a row after which the service shall give up.
            on_error: ``"raise"`` at the first input that cannot be read to its end, or ``"collect"`` those in
                ``errors``, where samples that cannot be used always are.

        Returns:
            An iterable of rows, with what is known of them all: ``errors``, ``cost``, ``embedding_space``.

        Raises:
            ServiceError: The service refused, with its message, or could not be reached; while iterating.
            OSError: A file cannot be read.
        """
        parts, fields = parts_of(inputs), _fields(model, pooling, layer, dimensions, sanity)
        call = Streaming(fields, _headers(deadline), on_error, self._retries)
        return RowStream(self._http, self._sleep, lambda: self._batches(model, parts), call)

    def _batches(self, model: str, parts: Sequence[Part]) -> list[list[Part]]:
        if len(parts) > 1 and model not in self._limits:
            self._note_limits(model, self.model(model))
        return self._plan(model, parts)

    def run(self, model: str, task: str, inputs: Any) -> list[Any] | bytes:
        """Run one of the model's further tasks in one request.

        Returns:
            A list of results, one a sample, or a file's bytes when the result is one file.

        Raises:
            ServiceError: The service refused, with its message, or could not be reached.
            OSError: A file cannot be read.
        """
        request = _Collected({}, "raise", {}).request(parts_of(inputs))
        return task_results(self._call("POST", f"/v1/models/{model}/{task}", **request))

    def _call(self, method: str, path: str, **content: Any) -> httpx.Response:
        tried, waited = 0, 0.0
        while True:
            tried += 1
            outcome: httpx.Response | httpx.TransportError
            try:
                outcome = self._http.request(method, path, **content)
                self._met = True
                if outcome.is_success:
                    return outcome
            except httpx.TransportError as error:
                outcome = error
            wait = self._retries.wait(tried, outcome, waited, self._met)
            if wait is None:
                raise error_of(outcome) if isinstance(outcome, httpx.Response) else self._silence(outcome)
            waited += wait
            self._sleep(wait)


class AsyncClient(_Base):
    """`Client` with coroutines; ``embed`` keeps several requests in flight."""

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        timeout: float = 120.0,
        retries: Retries | None = None,
        concurrency: int = 4,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Coroutine[Any, Any, Any]] = asyncio.sleep,
    ) -> None:
        """Prepare to talk to the service at ``url``; see `Client`.

        Args:
            url: For example ``http://127.0.0.1:8000``.
            key: Where the service asks for one; the environment's ``FMHUB_API_KEY`` unless given.
            timeout: Seconds to wait for an answer.
            retries: When to try again; up to five times, in an outage for a minute, unless given.
            concurrency: Requests of one ``embed`` at once.
            transport: Of httpx.
            sleep: Waits between tries.
        """
        super().__init__(url, key, timeout, retries)
        self._http = httpx.AsyncClient(**self._options, transport=transport)
        self._concurrency = concurrency
        self._sleep = sleep

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def models(self) -> list[ModelEntry]:
        """Return the served models' entries."""
        return (await self._call("GET", "/v1/models")).json()["data"]

    async def model(self, name: str) -> ModelEntry:
        """Return a model's description."""
        return (await self._call("GET", f"/v1/models/{name}")).json()

    async def embed(
        self,
        model: str,
        inputs: Any,
        *,
        pooling: str | None = None,
        layer: int | str | None = None,
        dimensions: int | None = None,
        sanity: str | None = None,
        deadline: float | None = None,
        on_error: OnError = "raise",
        progress: bool = False,
    ) -> Embeddings:
        """Embed files or plain values; arguments, result and errors are those of `Client.embed`."""
        parts = parts_of(inputs)
        call = _Collected(_fields(model, pooling, layer, dimensions, sanity), on_error, _headers(deadline))
        plan = iter(await self._batches(model, parts))
        with _bar(len(parts), progress) as advance:

            async def worker() -> None:
                for batch in plan:
                    waiting = [batch]
                    while waiting:
                        sent = waiting.pop(0)
                        # Read in a thread: other requests go on meanwhile.
                        request = await asyncio.to_thread(call.request, sent)
                        try:
                            call.take(sent, (await self._call("POST", "/v1/embeddings", **request)).json())
                        except ServiceError as error:
                            waiting = call.after(sent, error) + waiting
                    advance(len(batch))

            await _all(worker() for _ in range(self._concurrency))
        return embeddings_of(call.answers, call.errors)

    def stream(
        self,
        model: str,
        inputs: Any,
        *,
        pooling: str | None = None,
        layer: int | str | None = None,
        dimensions: int | None = None,
        sanity: str | None = None,
        deadline: float | None = None,
        on_error: OnError = "raise",
    ) -> AsyncRowStream:
        """Embed, giving each sample's row as soon as it is there; see `Client.stream`."""
        parts, fields = parts_of(inputs), _fields(model, pooling, layer, dimensions, sanity)
        call = Streaming(fields, _headers(deadline), on_error, self._retries)
        return AsyncRowStream(self._http, self._sleep, lambda: self._batches(model, parts), call)

    async def _batches(self, model: str, parts: Sequence[Part]) -> list[list[Part]]:
        if len(parts) > 1 and model not in self._limits:
            self._note_limits(model, await self.model(model))
        return self._plan(model, parts)

    async def run(self, model: str, task: str, inputs: Any) -> list[Any] | bytes:
        """Run one of the model's further tasks; see `Client.run`."""
        request = await asyncio.to_thread(_Collected({}, "raise", {}).request, parts_of(inputs))
        return task_results(await self._call("POST", f"/v1/models/{model}/{task}", **request))

    async def _call(self, method: str, path: str, **content: Any) -> httpx.Response:
        tried, waited = 0, 0.0
        while True:
            tried += 1
            outcome: httpx.Response | httpx.TransportError
            try:
                outcome = await self._http.request(method, path, **content)
                self._met = True
                if outcome.is_success:
                    return outcome
            except httpx.TransportError as error:
                outcome = error
            wait = self._retries.wait(tried, outcome, waited, self._met)
            if wait is None:
                raise error_of(outcome) if isinstance(outcome, httpx.Response) else self._silence(outcome)
            waited += wait
            await self._sleep(wait)


async def _all(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run coroutines side by side; the first error ends the others and is raised as it is."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _fields(
    model: str, pooling: str | None, layer: int | str | None, dimensions: int | None, sanity: str | None
) -> dict[str, Any]:
    fields = {"model": model, "encoding_format": "base64"}
    return {**fields, "pooling": pooling, "layer": layer, "dimensions": dimensions, "sanity": sanity}


def _headers(deadline: float | None) -> dict[str, str]:
    return {} if deadline is None else {"X-Request-Timeout": f"{deadline:.6f}"}


@contextmanager
def _bar(total: int, shown: bool) -> Iterator[Callable[[int], None]]:
    """Give what is called with the number of inputs that have been dealt with."""
    if not shown:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("embedding", total=total)
        yield lambda count: progress.update(task, advance=count)
