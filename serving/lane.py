"""One model's way through the service: load, read, batch, forward, answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Literal

from hub.embedder import Embedder
from hub.modeling import Layer
from serving.batching import WaitingRoom
from serving.config import ModelSettings, ServiceSettings
from serving.errors import InputFailed, Overloaded, Unavailable
from serving.forwarding import forward_batch, limit_torch_threads
from serving.inputs import Input
from serving.jobs import Job, Output, Refused, Waiting, resolve_work
from serving.metrics import Metrics
from serving.reading import ReadingStream

logger = logging.getLogger("fmhub.serving")

RETRY_LOAD_SECONDS = 30.0
"""A model that failed to load is not tried again sooner: each try costs seconds and memory."""

State = Literal["not_loaded", "loading", "ready", "failed", "closed"]


class Lane:
    """One served model. While a batch is in the model, the samples of the next one are read and prepared.

    Everything but ``ReadingStream.turn`` (reading threads) and ``forward_batch`` (the model's one thread) runs on
    the event loop, so nothing here needs a lock.
    """

    def __init__(
        self,
        settings: ModelSettings,
        service: ServiceSettings,
        factory: Callable[..., Embedder],
        readers: Executor,
        loading: asyncio.Lock,
        metrics: Metrics,
    ) -> None:
        """Prepare to serve; nothing is loaded yet.

        Args:
            settings: Of this model.
            service: Of the service.
            factory: Loads the embedder; called as `hub.from_pretrained` is.
            readers: Threads that all lanes read in.
            loading: Held while any lane loads: transformers sets process-wide state meanwhile.
            metrics: Where to count.
        """
        self.settings = settings
        self.id = settings.id
        self.embedder: Embedder | None = None
        self.dimension = 0
        self.loaded_at = 0.0
        self._service = service
        self._factory = factory
        self._readers = readers
        self._loading = loading
        self._metrics = metrics
        threads = service.torch_threads or os.cpu_count() or 1
        self._thread = ThreadPoolExecutor(1, f"model-{self.id}", limit_torch_threads, (threads,))
        self._room = WaitingRoom(budget=1)
        self._started: dict[object, float] = {}
        self._jobs: set[Job] = set()
        self._turns = 0
        self._news = asyncio.Event()
        self._readable = asyncio.Event()
        self._load_task: asyncio.Task[Embedder] | None = None
        self._failed_at = -math.inf
        self._serve_task: asyncio.Task[None] | None = None
        self._forward_since: float | None = None
        self._closed = False

    # --- loading -----------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """Where the model is between not loaded and closed."""
        if self._closed:
            return "closed"
        if self.embedder is not None:
            return "ready"
        if self._load_task is None:
            return "not_loaded"
        return "failed" if self._load_task.done() else "loading"

    async def ready(self) -> Embedder:
        """Return the embedder, loaded and warmed; whoever asks first starts the loading.

        Raises:
            HubError: It could not be loaded.
        """
        if self.embedder is not None:
            return self.embedder
        tried = self._load_task is not None and self._load_task.done()
        if self._load_task is None or (tried and time.monotonic() > self._failed_at + RETRY_LOAD_SECONDS):
            self._load_task = asyncio.create_task(self._load())
        # Shielded: the loading goes on for others when one who waits for it gives up.
        return await asyncio.shield(self._load_task)

    async def _load(self) -> Embedder:
        loop = asyncio.get_running_loop()
        try:
            async with self._loading:
                embedder = await loop.run_in_executor(self._thread, self._load_in_thread)
                self.dimension = await loop.run_in_executor(self._thread, embedder.warm_up)
        except Exception:
            self._failed_at = time.monotonic()
            logger.exception("model %s could not be loaded", self.id)
            raise
        self._room = WaitingRoom(self.settings.batch_cost or embedder.processor.batch_cost)
        self._readable.set()
        self._serve_task = asyncio.create_task(self._serve(embedder))
        self.embedder, self.loaded_at = embedder, time.time()
        return embedder

    def _load_in_thread(self) -> Embedder:
        settings = self.settings
        return self._factory(settings.name, revision=settings.revision, device=settings.device, dtype=settings.dtype)

    def update(self, settings: ModelSettings, service: ServiceSettings) -> None:
        """Go on under other settings that leave the weights as they are."""
        self.settings, self._service = settings, service
        if self.embedder is not None:
            self._room.budget = settings.batch_cost or self.embedder.processor.batch_cost

    # --- requests ----------------------------------------------------------------------------------------

    @property
    def pending(self) -> int:
        """Requests waiting or in work."""
        return len(self._started)

    async def run(
        self,
        inputs: Sequence[Input],
        *,
        task: str | None = None,
        pooling: str | None = None,
        layer: Layer = None,
        kind: str = "input",
    ) -> list[list[Output | Refused]]:
        """Take one request through all stages.

        Args:
            inputs: Its inputs.
            task: One of the model's further tasks, or ``None`` for embeddings.
            pooling: See `hub.embedder.Embedder.embed`.
            layer: See there.
            kind: Name of the request's field that holds the inputs, for messages.

        Returns:
            For each input the outputs of its samples, in order; of an input that can be used in part, also what cannot.

        Raises:
            Overloaded: As many requests as are allowed are waiting already.
            UnsupportedOption: The model does not offer the task, pooling or layer.
            InputFailed: One of the inputs cannot be used, or the model failed on it.
            Unavailable: The model could not be loaded, or the service stops.
        """
        ticket = self._enter()
        try:
            embedder = await self._loaded()
            work = resolve_work(embedder, task=task, pooling=pooling, layer=layer)
            job = Job(work, len(inputs), kind, self._service.max_samples)
            parts = _split(inputs, self._service.reading_threads)
            job.begin_reading(len(parts))
            self._jobs.add(job)
            readers = [asyncio.create_task(self._read(embedder, job, part)) for part in parts]
            try:
                return await job.future
            finally:
                self._jobs.discard(job)
                job.give_up()
                for reader in readers:
                    reader.cancel()
        finally:
            del self._started[ticket]
            self._metrics.pending_requests.labels(self.id).set(self.pending)

    def _enter(self) -> object:
        if self._closed:
            raise _closing()
        limit = self.settings.max_queued_requests
        if self.pending >= limit:
            # The oldest request's age is about how long the queue takes.
            age = time.monotonic() - next(iter(self._started.values()))
            raise Overloaded(
                f"{limit} requests are waiting for {self.id} already; try again later",
                retry_after=min(max(1, math.ceil(age)), 30),
            )
        ticket = object()
        self._started[ticket] = time.monotonic()
        self._metrics.pending_requests.labels(self.id).set(self.pending)
        return ticket

    async def _loaded(self) -> Embedder:
        try:
            return await self.ready()
        except asyncio.CancelledError:
            if self._load_task is not None and self._load_task.cancelled():
                raise _closing() from None
            raise
        except Exception:
            # The reason may tell of this machine's folders, so it stays in the log.
            raise Unavailable(
                f"{self.id} could not be loaded; the server's log says why", code="model_not_loaded"
            ) from None

    async def _read(self, embedder: Embedder, job: Job, part: Sequence[tuple[int, Input]]) -> None:
        """Bring the samples of some inputs into the waiting room, turn by turn."""
        loop = asyncio.get_running_loop()
        stream = ReadingStream(embedder, part, job.kind)
        finished = False
        try:
            while not (finished or job.done):
                await self._readable.wait()
                self._turns += 1
                try:
                    turn = await loop.run_in_executor(self._readers, stream.turn)
                finally:
                    self._turns -= 1
                    self._news.set()
                self._metrics.stage.labels(self.id, "read").observe(turn.seconds)
                for index, prepared in turn.prepared:
                    if isinstance(prepared, Refused):
                        job.refuse(index, prepared)
                    else:
                        self._room.put(job.add(index, prepared))
                self._note_room()
                finished = turn.finished
            job.end_reading()
        except Exception as error:
            # What went wrong belongs to this request alone, whatever it was.
            finished = isinstance(error, InputFailed)
            job.fail(error)
        finally:
            if not finished:
                stream.stop()
                # At the very end the threads are gone already, and take the stream with them.
                with contextlib.suppress(RuntimeError):
                    self._readers.submit(stream.release)

    # --- the model ---------------------------------------------------------------------------------------

    async def _serve(self, embedder: Embedder) -> None:
        """Send batch after batch through the model, for as long as the lane is open."""
        while True:
            oldest = self._room.oldest()
            self._note_room()
            if oldest is None:
                self._news.clear()
                await self._news.wait()
                continue
            await self._let_fill(oldest)
            batch = self._room.take()
            self._note_room()
            if batch:
                await self._forward(embedder, batch)

    async def _let_fill(self, oldest: Waiting) -> None:
        """Wait a moment for samples that are being read right now; when none is, the batch goes at once."""
        deadline = oldest.since + self._service.max_wait_ms / 1000
        while self._turns and self._room.cost < self._room.budget:
            self._news.clear()
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    await self._news.wait()
            except TimeoutError:
                return

    async def _forward(self, embedder: Embedder, batch: list[Waiting]) -> None:
        started = self._forward_since = time.monotonic()
        costs = [w.prepared.cost for w in batch]
        self._metrics.batch_size.labels(self.id).observe(len(batch))
        self._metrics.batch_cost.labels(self.id).observe(len(batch) * max(costs))
        for waiting in batch:
            self._metrics.stage.labels(self.id, "queue").observe(started - waiting.since)
        loop = asyncio.get_running_loop()
        values = await loop.run_in_executor(self._thread, forward_batch, embedder, batch)
        self._metrics.stage.labels(self.id, "forward").observe(time.monotonic() - started)
        self._forward_since = None
        for waiting, value in zip(batch, values, strict=True):
            if isinstance(value, Exception):
                waiting.job.fail(InputFailed(value, param=waiting.place))
            elif not waiting.job.done:
                waiting.job.put(waiting, value)

    def _note_room(self) -> None:
        """Let the streams read on, or pause, by how much waits; and say so to the metrics."""
        if self._room.full:
            self._readable.clear()
        else:
            self._readable.set()
        self._metrics.queued_samples.labels(self.id).set(len(self._room))

    # --- health and end ----------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise Unavailable when the lane can no longer answer."""
        if self._serve_task is not None and self._serve_task.done() and not self._closed:
            raise Unavailable(f"{self.id} no longer takes batches", code="model_stopped")
        # A forward that takes longer than a request may has outlived everyone who waited for it.
        since = self._forward_since
        if since is not None and time.monotonic() - since > self._service.request_timeout_s:
            raise Unavailable(f"{self.id} has hung in one batch", code="model_hangs")

    async def close(self) -> None:
        """Take no more requests, finish those in work within the grace time, and let go of the model."""
        self._closed = True
        stop = time.monotonic() + self._service.shutdown_grace_s
        while self.pending and time.monotonic() < stop:
            await asyncio.sleep(0.01)
        for job in self._jobs:
            job.fail(_closing())
        for task in (self._load_task, self._serve_task):
            if task is not None and not task.done():
                task.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)
        self.embedder = None


def _closing() -> Unavailable:
    return Unavailable("the service is shutting down", code="shutting_down")


def _split(inputs: Sequence[Input], parts: int) -> list[list[tuple[int, Input]]]:
    """Deal the inputs to at most ``parts`` streams."""
    numbered = list(enumerate(inputs))
    return [numbered[i::parts] for i in range(min(parts, len(numbered)))]
