"""Reading for all models: streams of inputs given to reader processes, and carried over when one of them dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from hub.embedder import Intake
from hub.errors import InvalidInput
from serving.config import ServiceSettings
from serving.errors import InputFailed, InvalidSettings, ReaderFailed, SpoolFull, Unavailable
from serving.inputs import Input
from serving.metrics import Metrics
from serving.readers.caps import Caps
from serving.readers.processes import NotAsked, NurseryProcess, ReaderDied, ReaderProcess
from serving.readers.stream import Order, Turn
from serving.readers.wire import Types
from serving.readers.worker import CallRequest, TurnRequest
from serving.spool import Scratch

logger = logging.getLogger("fmhub.serving")

TRIES = 2
"""A process that dies while it reads an input may have been killed by chance; a second one was not."""
RETRY_START_SECONDS = 1.0


@dataclass(frozen=True)
class Readable:
    """A model's reader and processor, as a pool knows them.

    Attributes:
        number: Of the model, in this pool.
        types: What answers about it may hold.
    """

    number: int
    types: Types


class Stream(ABC):
    """Some inputs of one request on their way to prepared samples."""

    @abstractmethod
    async def turn(self) -> Turn:
        """Read for a few milliseconds.

        Raises:
            InputFailed: An input cannot be read or prepared; it says which.
            Unavailable: Nothing can be read now.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of it, at its end or before; a turn at hand ends soon."""


class Pool(ABC):
    """Where inputs are read. Used on one event loop.

    Attributes:
        width: How many streams a request is dealt to.
        threads: For other work that must not stop the event loop.
    """

    width: int
    threads: Executor

    @abstractmethod
    def start(self) -> None:
        """Prepare for the first model, while it is being loaded; it can be called again."""

    @abstractmethod
    async def add(self, intake: Intake, packages: Collection[str]) -> Readable:
        """Make a model's reader and processor known.

        Args:
            intake: The two.
            packages: Of the domain: what they make may be of these packages' types.

        Raises:
            InvalidSettings: They cannot be used where inputs are read.
        """

    @abstractmethod
    def remove(self, model: Readable) -> None:
        """Forget them."""

    @abstractmethod
    def stream(self, model: Readable, order: Order) -> Stream:
        """Return a stream of what is to be read."""

    @abstractmethod
    async def call(self, function: str, model: Readable, item: Input, place: str, **options: Any) -> Any:
        """Return what a function makes of an input, under the same caps.

        Args:
            function: ``module:name``, called as ``(intake, item, place, **options)``; it returns plain values, arrays
                or a `TaskFile`.
            model: Whose reader to use.
            item: The input.
            place: Where in the request it stands, for messages.
            options: Plain values.

        Raises:
            InputFailed: It cannot be read, or the function refuses it; ``cause`` says why.
            Unavailable: Nothing can be read now.
        """

    @abstractmethod
    def check(self) -> None:
        """Raise Unavailable when nothing can be read any more; for health checks."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of everything."""


@dataclass(eq=False)
class _Reader:
    """A process and who uses it."""

    process: ReaderProcess
    users: set[object] = field(default_factory=set)
    alive: bool = True
    retiring: bool = False


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
        self._readers: list[_Reader] = []
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

    async def _fork(self) -> _Reader:
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
        reader = _Reader(process)
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

    def _noticed(self, reader: _Reader) -> None:
        asyncio.get_running_loop().remove_reader(reader.process.handle)
        reader.process.thread.submit(reader.process.end, "died")

    def _died(self, reader: _Reader, reason: str) -> None:
        """Let go of a process that has ended, and start another where one is missing."""
        asyncio.get_running_loop().remove_reader(reader.process.handle)
        reader.process.close()
        self._leave_out(reader)
        if reason == "closed":
            return
        self._metrics.reader_restarts.labels(reason).inc()
        logger.warning("a reader process has ended (%s); another takes its place", reason)
        self._in_background(self._fill())

    def _leave_out(self, reader: _Reader) -> None:
        if reader.alive:
            reader.alive = False
            self._readers.remove(reader)
            self._metrics.reader_workers.set(len(self._readers))

    def _retire(self, reader: _Reader) -> None:
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

    async def take(self, user: object) -> _Reader:
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

    async def take_alone(self, user: object) -> _Reader:
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

    def give_back(self, reader: _Reader, user: object, alone: bool) -> None:
        """End the use of a process."""
        reader.users.discard(user)
        if alone:
            self._retries.release()
        if reader.retiring and not self._closed:
            self._retire(reader)

    def tired(self, reader: _Reader) -> None:
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
        return _ProcessStream(self, model, order)

    async def call(self, function: str, model: Readable, item: Input, place: str, **options: Any) -> Any:
        """Return what a function makes of an input; see `Pool.call`."""
        work = _Work(self, model, {0: (item, place)})
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


class _Work:
    """One use of reader processes: asked, carried over to another when one dies, and named when it is to blame."""

    def __init__(self, pool: ProcessPool, model: Readable, inputs: dict[int, tuple[Input, str]]) -> None:
        self._pool = pool
        self._model = model
        self._inputs = inputs
        self._reader: _Reader | None = None
        self._alone = False
        self._deaths = 0
        self._gone: float | None = None

    @property
    def reader(self) -> _Reader | None:
        return self._reader

    async def ask(self, request: Any) -> Any:
        """Return the answer to a request.

        Args:
            request: Makes it; called with nothing, once for each process that is asked.

        Raises:
            InputFailed: An input is to blame.
        """
        loop = asyncio.get_running_loop()
        while True:
            reader = await self._take()
            try:
                # Shielded: a turn for nobody has to be seen to its end all the same.
                answer = await asyncio.shield(
                    loop.run_in_executor(
                        reader.process.thread, reader.process.ask, request(), self._model.types, lambda: self._gone
                    )
                )
            except ReaderDied as death:
                self._give_back()
                self._judge(death)
                continue
            except (NotAsked, RuntimeError):
                # RuntimeError: its thread was shut down meanwhile.
                if reader.alive:
                    raise
                self._give_back()
                continue
            if answer.get("tired"):
                self._pool.tired(reader)
            if "failed" in answer:
                raise self._failure(answer)
            return answer

    async def _take(self) -> _Reader:
        if self._reader is not None and not self._reader.alive:
            self._give_back()
        if self._reader is None:
            self._alone = self._deaths > 0
            self._reader = await (self._pool.take_alone(self) if self._alone else self._pool.take(self))
            self.moved()
        return self._reader

    def moved(self) -> None:
        """Another process is at work from now on."""

    def _give_back(self) -> None:
        if self._reader is not None:
            reader, self._reader = self._reader, None
            self._pool.give_back(reader, self, self._alone)

    def _judge(self, death: ReaderDied) -> None:
        """Raise InputFailed when a death was an input's doing."""
        self._deaths += 1
        index = death.place if death.place in self._inputs else next(iter(self._inputs))
        item, place = self._inputs[index]
        if death.reason == "timeout":
            seconds = self._pool.caps.seconds
            error = InvalidInput(
                f"reading one sample of it took more than {seconds:g} s, the most that one may take",
                code="reading_timeout",
                source=item.filename or place,
            )
            raise InputFailed(error, param=place)
        if self._deaths >= TRIES:
            error = InvalidInput(
                "the process that read it died, twice: it is damaged in a way that its library does not survive",
                code="reader_crashed",
                source=item.filename or place,
            )
            raise InputFailed(error, param=place)

    def _failure(self, answer: Any) -> Exception:
        kind, *rest = answer["failed"]
        param = str(answer["param"]) if answer["param"] is not None else next(iter(self._inputs.values()))[1]
        cause: Exception = ReaderFailed(str(rest[0])[:1000] if rest else "of an unknown kind")
        if kind == "refused" and isinstance(rest[0], InvalidInput):
            cause = rest[0]
        elif kind == "no_room":
            cause = SpoolFull()
        return InputFailed(cause, param=param)

    def close(self) -> None:
        """Let go of the process."""
        if self._gone is None:
            self._gone = time.monotonic()
        self._give_back()


class _ProcessStream(_Work, Stream):
    def __init__(self, pool: ProcessPool, model: Readable, order: Order) -> None:
        super().__init__(pool, model, {i: (item, order.place(i)) for i, item in order.inputs})
        self._order = order
        self._number = 0
        self._opened = False
        self._delivered = 0
        self._finished = False

    def moved(self) -> None:
        self._number, self._opened = self._pool.new_number(), False

    async def turn(self) -> Turn:
        answer = await self.ask(self._request)
        turn = Turn([(int(i), p) for i, p in answer["prepared"]], bool(answer["finished"]), float(answer["seconds"]))
        self._delivered += len(turn.prepared)
        self._finished = turn.finished
        return turn

    def _request(self) -> TurnRequest:
        order = None if self._opened else replace(self._order, skip=self._delivered)
        self._opened = True
        return TurnRequest(self._number, self._model.number, order)

    def close(self) -> None:
        reader = self.reader
        if reader is not None and reader.alive and self._opened and not self._finished:
            # At the very end the threads are gone already, and the processes with them.
            with contextlib.suppress(RuntimeError):
                reader.process.thread.submit(reader.process.drop, self._number)
        super().close()


def _tell(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *values: Any) -> None:
    # A loop that was closed needs to hear no more.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function, *values)


def _no_readers() -> Unavailable:
    return Unavailable("files cannot be read now; try again later", code="no_readers")
