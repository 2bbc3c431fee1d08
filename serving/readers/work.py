"""One request's use of reader processes, carried over when one of them dies."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from hub.errors import InvalidInput
from serving.errors import InputFailed, ReaderFailed, SpoolFull
from serving.inputs import Input
from serving.readers.base import Readable, Stream
from serving.readers.processes import NotAsked, ReaderDied, ReaderProcess
from serving.readers.stream import Order, Turn
from serving.readers.worker import TurnRequest

if TYPE_CHECKING:
    from serving.readers.pool import ProcessPool

TRIES = 2
"""A process that dies while it reads an input may have died by chance; a second one did not."""
TRIES_WHEN_KILLED = 3
"""While all that happened is SIGKILL, which also comes from outside: an operator, or the kernel short of memory."""


@dataclass(eq=False)
class Reader:
    """A process and who uses it."""

    process: ReaderProcess
    users: set[object] = field(default_factory=set)
    alive: bool = True
    retiring: bool = False


class Work:
    """One use of reader processes: asked, carried over to another when one dies, and named when it is to blame."""

    def __init__(self, pool: ProcessPool, model: Readable, inputs: dict[int, tuple[Input, str]]) -> None:
        self._pool = pool
        self._model = model
        self._inputs = inputs
        self._reader: Reader | None = None
        self._alone = False
        self._deaths = 0
        self._only_killed = True
        self._gone: float | None = None

    @property
    def reader(self) -> Reader | None:
        """The process at work, if there is one."""
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

    async def _take(self) -> Reader:
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
        self._only_killed = self._only_killed and death.reason == "killed"
        if self._deaths >= (TRIES_WHEN_KILLED if self._only_killed else TRIES):
            error = InvalidInput(
                "the process that read it died each time: it is damaged in a way that its library does not survive",
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


class ProcessStream(Work, Stream):
    """A stream that is read in processes; see `Stream`."""

    def __init__(self, pool: ProcessPool, model: Readable, order: Order) -> None:
        super().__init__(pool, model, {i: (item, order.place(i)) for i, item in order.inputs})
        self._order = order
        self._number = 0
        self._opened = False
        self._delivered = 0
        self._finished = False

    def moved(self) -> None:
        """Another process is at work from now on: it is told everything anew."""
        self._number, self._opened = self._pool.new_number(), False

    async def turn(self) -> Turn:
        """Read for a few milliseconds."""
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
        """Let go of it."""
        reader = self.reader
        if reader is not None and reader.alive and self._opened and not self._finished:
            # At the very end the threads are gone already, and the processes with them.
            with contextlib.suppress(RuntimeError):
                reader.process.thread.submit(reader.process.drop, self._number)
        super().close()
