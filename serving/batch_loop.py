"""Batch after batch through one loaded model, from the room where prepared samples wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager, contextmanager

from hub.embedder import Embedder
from serving.batching import MAX_PADDING, WaitingRoom
from serving.config import ServiceSettings
from serving.forwarding import forward_batch
from serving.jobs import Job, Waiting
from serving.metrics import Metrics

READING_AT_ONCE = 8
"""Streams of inputs that are read side by side. With all of them at once, as many requests as wait would share the
model, and all would be answered at the end, or be out of time together."""

LONGEST_FIRST = 5.0
"""Seconds after which a stream that is still being read lets another begin: a capture with a hundred thousand flows."""


class BatchLoop:
    """The waiting room of one loaded model and the task that empties it; it lives on the event loop."""

    def __init__(
        self, model: str, embedder: Embedder, budget: int, service: ServiceSettings, thread: Executor, metrics: Metrics
    ) -> None:
        """Start to take batches.

        Args:
            model: Id, for the metrics.
            embedder: It.
            budget: Padded cost of one forward.
            service: Of the service.
            thread: The one that the model runs in.
            metrics: Where to count.
        """
        self.room = WaitingRoom(budget, None if embedder.processor.joins else MAX_PADDING)
        self.service = service
        self._model = model
        self._embedder = embedder
        self._thread = thread
        self._metrics = metrics
        self._turns = 0
        self._news = asyncio.Event()
        self._readable = asyncio.Event()
        self._readable.set()
        self._reading = asyncio.Semaphore(READING_AT_ONCE)
        self._forward_since: float | None = None
        self._task = asyncio.create_task(self._run())

    # --- for who brings samples --------------------------------------------------------------------------

    @asynccontextmanager
    async def reading_in_order(self) -> AsyncIterator[None]:
        """Wait for one of the few places of those whose inputs are read; first come, first served."""
        await self._reading.acquire()
        late = asyncio.get_running_loop().call_later(LONGEST_FIRST, self._reading.release)
        try:
            yield
        finally:
            if not late.cancelled() and late.when() > asyncio.get_running_loop().time():
                late.cancel()
                self._reading.release()

    async def readable(self) -> None:
        """Wait until it makes sense to read further ahead of the model."""
        await self._readable.wait()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Mark that samples are being read, which a batch may wait for."""
        self._turns += 1
        try:
            yield
        finally:
            self._turns -= 1
            self._news.set()

    def put(self, samples: Sequence[Waiting]) -> None:
        """Let samples wait for the model."""
        for waiting in samples:
            self.room.put(waiting)
        self._note_room()
        self._news.set()

    # --- its state ---------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether a batch is in the model; it may outlast the requests that it was for."""
        return self._forward_since is not None

    @property
    def stopped(self) -> bool:
        """Whether no batch will be taken any more."""
        return self._task.done()

    @property
    def hangs(self) -> bool:
        """Whether a batch takes longer than a request may, and so has outlived everyone who waited for it."""
        since = self._forward_since
        return since is not None and time.monotonic() - since > self.service.request_timeout_s

    def rename(self, model: str) -> None:
        """Count under another id from here on."""
        self._model = model
        self._note_room()

    def stop(self) -> None:
        """Take no more batches."""
        self._task.cancel()

    # --- the loop ----------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            oldest = self.room.oldest()
            self._note_room()
            if oldest is None:
                self._news.clear()
                await self._news.wait()
                continue
            await self._let_fill(oldest)
            batch = self.room.take()
            self._note_room()
            if batch:
                await self._forward(batch)

    async def _let_fill(self, oldest: Waiting) -> None:
        """Wait a moment for samples that are being read right now; when none is, the batch goes at once."""
        deadline = oldest.since + self.service.max_wait_ms / 1000
        while self._turns and self.room.cost < self.room.budget:
            self._news.clear()
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    await self._news.wait()
            except TimeoutError:
                return

    async def _forward(self, batch: list[Waiting]) -> None:
        self._forward_since = started = time.monotonic()
        self._count(batch, started)
        loop = asyncio.get_running_loop()
        values = await loop.run_in_executor(self._thread, forward_batch, self._embedder, batch)
        took = time.monotonic() - started
        self._metrics.stage.labels(self._model, "forward").observe(took)
        costs: dict[Job, int] = {}
        for waiting in batch:
            costs[waiting.job] = costs.get(waiting.job, 0) + waiting.prepared.cost
        for job, cost in costs.items():
            job.call.add("forward", took, batch_samples=len(batch), cost=cost)
        self._forward_since = None
        for waiting, value in zip(batch, values, strict=True):
            if isinstance(value, Exception):
                waiting.job.spoil(waiting, value)
            elif not waiting.job.done:
                waiting.job.put(waiting, value)

    def _count(self, batch: Sequence[Waiting], now: float) -> None:
        costs = [w.prepared.cost for w in batch]
        real = sum(costs)
        padded = real if self._embedder.processor.joins else len(batch) * max(costs)
        metrics, model = self._metrics, self._model
        metrics.batch_size.labels(model).observe(len(batch))
        metrics.batch_cost.labels(model).observe(padded)
        metrics.cost.labels(model, "real").inc(real)
        metrics.cost.labels(model, "padding").inc(padded - real)
        waits: dict[Job, float] = {}
        for waiting in batch:
            wait = now - waiting.since
            metrics.stage.labels(model, "queue").observe(wait)
            waits[waiting.job] = max(wait, waits.get(waiting.job, 0.0))
        for job, wait in waits.items():
            job.call.longest("queue", wait)

    def _note_room(self) -> None:
        """Let the readers read on, or pause, by how much waits; and say so to the metrics."""
        if self.room.full:
            self._readable.clear()
        else:
            self._readable.set()
        self._metrics.queued_samples.labels(self._model).set(len(self.room))
