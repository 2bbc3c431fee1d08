"""Reading in threads of the server: no caps on memory and time, and a crash in a library takes the server along."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
from collections.abc import Collection
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

from hub.embedder import Intake
from serving.config import ServiceSettings
from serving.forwarding import limit_torch_threads
from serving.inputs import Input
from serving.readers.base import Pool, Readable, Stream
from serving.readers.caps import Caps
from serving.readers.stream import Order, ReadingStream, Turn
from serving.readers.wire import Types
from serving.readers.worker import call


class ThreadPool(Pool):
    """Threads of this process; see `Pool`."""

    def __init__(self, settings: ServiceSettings) -> None:
        """Prepare.

        Args:
            settings: Of the service.
        """
        self.width = min(4, os.cpu_count() or 1)
        # One torch thread a reader: several of them read at once, beside the model.
        self._pool = ThreadPoolExecutor(self.width, "reading", limit_torch_threads, (1,))
        self.threads = self._pool
        self._caps = Caps(settings.reader_output_bytes)
        self._intakes: dict[int, Intake] = {}
        self._added = 0

    def start(self) -> None:
        """Threads start by themselves."""

    async def add(self, intake: Intake, packages: Collection[str]) -> Readable:
        """Make a model's reader and processor known."""
        self._added += 1
        self._intakes[self._added] = intake
        return Readable(self._added, Types(packages))

    def remove(self, model: Readable) -> None:
        """Forget them."""
        self._intakes.pop(model.number, None)

    def stream(self, model: Readable, order: Order) -> Stream:
        """Return a stream of what is to be read."""
        return _ThreadStream(self.threads, ReadingStream(self._intakes[model.number], order, self._caps))

    async def call(self, function: str, model: Readable, item: Input, place: str, **options: Any) -> Any:
        """Return what a function makes of an input; see `Pool.call`."""
        loop, intake = asyncio.get_running_loop(), self._intakes[model.number]
        return await loop.run_in_executor(self.threads, call, function, intake, item, place, options, self._caps)

    def check(self) -> None:
        """Threads are always there."""

    async def close(self) -> None:
        """Let go of the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class _ThreadStream(Stream):
    def __init__(self, threads: Executor, stream: ReadingStream) -> None:
        self._threads = threads
        self._stream = stream
        self._finished = False
        # With it the request's id, for what is logged in the thread.
        self._context = contextvars.copy_context()

    async def turn(self) -> Turn:
        loop = asyncio.get_running_loop()
        turn = await loop.run_in_executor(self._threads, self._context.run, self._stream.turn)
        self._finished = turn.finished
        return turn

    def close(self) -> None:
        if not self._finished:
            self._stream.stop()
            # At the very end the threads are gone already, and take the stream with them.
            with contextlib.suppress(RuntimeError):
                self._threads.submit(self._stream.release)
