"""Reading for all models: streams of inputs given to reader processes, and carried over when one of them dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from hub.embedder import Intake
from serving.config import ServiceSettings
from serving.errors import InvalidSettings, Unavailable
from serving.inputs import Input
from serving.metrics import Metrics
from serving.readers.base import Pool, Readable, Stream
from serving.readers.caps import Caps
from serving.readers.processes import NurseryProcess
from serving.readers.stream import Order
from serving.readers.wire import Types
from serving.readers.work import ProcessStream, Reader, Work
from serving.readers.worker import CallRequest
from serving.spool import Scratch

logger = logging.getLogger("fmhub.serving")

RETRY_START_SECONDS = 1.0


class ProcessPool(Pool):
    """Reader processes; see `Pool`.

    What is kept here belongs to the event loop; a process is talked to in its own thread.
    """

    def __init__(self, settings: ServiceSettings, metrics: Metrics, scratch: Scratch) -> None:
        """Prepare; the nursery is started by the first model.

        Args:
            settings: Of the service.
            metrics: Where to count.
            scratch: Where processes get their folders.
        """
        self.width = settings.reader_workers
        self.threads = ThreadPoolExecutor(2, "reading")
        self.caps = Caps(settings.reader_output_bytes, settings.reader_timeout_s, settings.reader_memory_bytes)
        self._metrics = metrics
        self._scratch = scratch
        self._nursery: NurseryProcess | None = None
        self._readers: list[Reader] = []
        self._retries = asyncio.Semaphore(self.width)
        self._filling = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._streams = 0
        self._failed_at: float | None = None
        self._closed = False

    # --- models ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the nursery, which imports for some seconds."""
        if self._nursery is None and not self._closed:
            self._nursery = NurseryProcess.lease()
            self.threads.submit(self._nursery.start)

    async def add(self, intake: Intake, packages: Collection[str]) -> Readable:
        """Make a model's reader and processor known; see `Pool.add`."""
        self.start()
        if self._nursery is None:
            raise _no_readers()
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self.threads, self._nursery.clear_up, self._scratch.folder)
            number = await loop.run_in_executor(self.threads, self._nursery.load, intake)
        except Exception as error:
            raise InvalidSettings(
                f"the reader or processor cannot be sent to reader processes ({type(error).__name__}: {error}); "
                "reader_workers: 0 reads in threads"
            ) from error
        # Those that are there do not know it; in the nursery it is imported now, and the next ones have it from there.
        for reader in list(self._readers):
            self._retire(reader)
        await self._fill()
        return Readable(number, Types({*packages, type(intake.reader).__module__, type(intake.processor).__module__}))

    def remove(self, model: Readable) -> None:
        """Forget them."""
        if self._nursery is not None and not self._closed:
            self.threads.submit(self._nursery.forget, model.number)

    # --- processes ---------------------------------------------------------------------------------------

    async def _fill(self) -> None:
        """Start processes until there are as many as there should be."""
        async with self._filling:
            while not self._closed and sum(not r.retiring for r in self._readers) < self.width:
                await self._fork()

    async def _fork(self) -> Reader:
        """Start one more process.

        Raises:
            Unavailable: It cannot be started.
        """
        if self._nursery is None:
            raise _no_readers()
        loop = asyncio.get_running_loop()
        try:
            folder = self._scratch.subfolder("reader-")
            process = await loop.run_in_executor(self.threads, self._nursery.fork, self.caps, folder)
        except Exception as error:
            self._failed_at = time.monotonic()
            logger.error("no reader process can be started (%s)", type(error).__name__)
            raise _no_readers() from error
        reader = Reader(process)
        if self._closed:
            process.thread.submit(process.end, "closed")
            raise _no_readers()
        self._failed_at = None
        self._readers.append(reader)
        process.on_end = lambda reason: _tell(loop, self._died, reader, reason)
        # Who talks to it finds out when it dies; with nobody talking to it, nobody else would.
        loop.add_reader(process.handle, self._noticed, reader)
        self._metrics.reader_workers.set(len(self._readers))
        return reader

    def _noticed(self, reader: Reader) -> None:
        asyncio.get_running_loop().remove_reader(reader.process.handle)
        reader.process.thread.submit(reader.process.end, "died")

    def _died(self, reader: Reader, reason: str) -> None:
        """Let go of a process that has ended, and start another where one is missing."""
        asyncio.get_running_loop().remove_reader(reader.process.handle)
        reader.process.close()
        self._leave_out(reader)
        if reason == "closed":
            return
        self._metrics.reader_restarts.labels(reason).inc()
        logger.warning("a reader process has ended (%s); another takes its place", reason)
        self._in_background(self._fill())

    def _leave_out(self, reader: Reader) -> None:
        if reader.alive:
            reader.alive = False
            self._readers.remove(reader)
            self._metrics.reader_workers.set(len(self._readers))

    def _retire(self, reader: Reader) -> None:
        """Give a process no more work, and end it once it has none."""
        reader.retiring = True
        if not reader.users and reader.alive:
            self._leave_out(reader)
            reader.process.thread.submit(reader.process.end, "closed")

    def _in_background(self, work: Any) -> None:
        async def quietly() -> None:
            with contextlib.suppress(Unavailable):
                await work

        task = asyncio.get_running_loop().create_task(quietly())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def take(self, user: object) -> Reader:
        """Return the process with the least to do, for somebody to use.

        Raises:
            Unavailable: There is none, and none can be started.
        """
        free = [r for r in self._readers if not r.retiring]
        if not free:
            if self._failed_at is not None and time.monotonic() - self._failed_at < RETRY_START_SECONDS:
                raise _no_readers()
            await self._fill()
            free = [r for r in self._readers if not r.retiring]
            if not free:
                raise _no_readers()
        reader = min(free, key=lambda r: len(r.users))
        reader.users.add(user)
        return reader

    async def take_alone(self, user: object) -> Reader:
        """Return a new process that nobody else gets, for what another has died of."""
        await self._retries.acquire()
        try:
            reader = await self._fork()
        except BaseException:
            self._retries.release()
            raise
        reader.retiring = True
        reader.users.add(user)
        return reader

    def give_back(self, reader: Reader, user: object, alone: bool) -> None:
        """End the use of a process."""
        reader.users.discard(user)
        if alone:
            self._retries.release()
        if reader.retiring and not self._closed:
            self._retire(reader)

    def tired(self, reader: Reader) -> None:
        """Replace a process that keeps memory."""
        if not reader.retiring and reader.alive:
            self._metrics.reader_restarts.labels("memory").inc()
            self._retire(reader)
            self._in_background(self._fill())

    def new_number(self) -> int:
        """Return the number of a new stream."""
        self._streams += 1
        return self._streams

    # --- work --------------------------------------------------------------------------------------------

    def stream(self, model: Readable, order: Order) -> Stream:
        """Return a stream of what is to be read."""
        return ProcessStream(self, model, order)

    async def call(self, function: str, model: Readable, item: Input, place: str, **options: Any) -> Any:
        """Return what a function makes of an input; see `Pool.call`."""
        work = Work(self, model, {0: (item, place)})
        try:
            answer = await work.ask(lambda: CallRequest(function, model.number, item, place, options))
            return answer["result"]
        finally:
            work.close()

    # --- health and end ----------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise Unavailable when no process can be started."""
        if self._failed_at is not None and not self._readers:
            raise _no_readers()

    async def close(self) -> None:
        """End all processes."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        loop = asyncio.get_running_loop()
        readers, self._readers = self._readers, []
        for reader in readers:
            reader.alive = False
        # After the turn at hand, if there is one, for which nobody waits any more.
        await asyncio.gather(*(loop.run_in_executor(r.process.thread, r.process.end, "closed") for r in readers))
        nursery, self._nursery = self._nursery, None
        if nursery is not None:
            await loop.run_in_executor(self.threads, nursery.release)
        self.threads.shutdown(wait=False)


def _tell(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *values: Any) -> None:
    # A loop that was closed needs to hear no more.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function, *values)


def _no_readers() -> Unavailable:
    return Unavailable("files cannot be read now; try again later", code="no_readers")
