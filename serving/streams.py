"""A request whose answer leaves while its inputs are still being read: it holds few samples, however many there are.

Inputs are taken one after another, several are read side by side, and their rows leave in the order of the inputs and
of the samples in each. Whoever reads waits while enough rows are held that have not left, so a client that is slow to
take them slows the reading down. What goes wrong with a sample or an input is a row of its own; the others go on.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from hub.embedder import Prepared
from hub.errors import HubError
from serving.errors import InputFailed
from serving.inputs import Input
from serving.jobs import Call, Job, Output, Refused, Waiting

HELD_SAMPLES = 1024
"""Samples of one stream between reading and leaving: a few batches of a small model."""

HELD_BYTES = 32 * 1024 * 1024
"""Of their embeddings; token states of a long recording are megabytes each."""


@dataclass(frozen=True)
class Failed:
    """A sample that the model failed on, or, without a key, the rest of an input that cannot be read.

    Attributes:
        key: Which sample of its input it was.
        error: Why.
    """

    key: str | None
    error: Exception


@dataclass(frozen=True)
class Row:
    """What has come of one sample.

    Attributes:
        index: Of its input.
        filename: Of its input, if it has one.
        outcome: The embedding, or why there is none.
    """

    index: int
    filename: str | None
    outcome: Output | Refused | Failed


class InputJob(Job):
    """One input of a stream: the places of its samples that have not left yet."""

    def __init__(self, stream: SampleStream, index: int, filename: str | None) -> None:
        """Open it; no sample is known yet.

        Args:
            stream: It is part of.
            index: Its place among the stream's inputs.
            filename: Its name, if it has one.
        """
        super().__init__(stream.call.work, 0, stream.kind, sys.maxsize, stream.call)
        self.index = index
        self.filename = filename
        self.ended = False
        self._stream = stream
        self._places: deque[Output | Refused | Failed | None] = deque()
        self._left = 0

    @property
    def held(self) -> int:
        """Samples that have been read and have not left."""
        return len(self._places)

    @property
    def over(self) -> bool:
        """Whether all of its samples have left and no more will come."""
        return self.ended and not self._places

    async def room(self) -> None:
        """Wait until the stream has room for more samples of this input."""
        await self._stream.room(self)

    def add(self, index: int, prepared: Prepared) -> Waiting:
        """Open a place for a sample."""
        self._open(None)
        return Waiting(prepared, self, index, self._left + len(self._places) - 1)

    def refuse(self, index: int, refused: Refused) -> None:
        """Note a sample that cannot be used."""
        self._open(refused)

    def put(self, waiting: Waiting, value: Any) -> None:
        """Store the model's answer for one sample."""
        sample = waiting.prepared.sample
        self._settle(waiting, Output(value, sample.key, waiting.prepared.cost, sample.warnings, sample.metadata))

    def spoil(self, waiting: Waiting, error: Exception) -> None:
        """Note that the model could not answer for one sample; the others go on."""
        self._settle(waiting, Failed(waiting.prepared.sample.key, InputFailed(error, param=waiting.place)))

    def fail(self, error: Exception) -> None:
        """End the input with an error, after the samples that were read."""
        if not (self.ended or self.done):
            self.ended = True
            self._open(Failed(None, error))

    def end_reading(self) -> None:
        """Note that the input has been read to its end."""
        self.ended = True
        self._stream.note_news()

    def take(self, most: int) -> list[Row]:
        """Remove and return finished samples from the front, in order, up to the first that is not finished."""
        rows: list[Row] = []
        while self._places and self._places[0] is not None and len(rows) < most:
            outcome = self._places.popleft()
            assert outcome is not None
            self._left += 1
            self._stream.release(_bytes(outcome))
            rows.append(Row(self.index, self.filename, outcome))
        return rows

    def _open(self, outcome: Refused | Failed | None) -> None:
        self._places.append(outcome)
        self._stream.hold()

    def _settle(self, waiting: Waiting, outcome: Output | Failed) -> None:
        self._places[waiting.ordinal - self._left] = outcome
        self._stream.note_bytes(_bytes(outcome))


class SampleStream:
    """The inputs of a stream that have not left yet, in order. It lives on the event loop."""

    def __init__(self, call: Call, kind: str) -> None:
        """Start without inputs.

        Args:
            call: The request that it is for, with what the model is to do.
            kind: Name of the request's field that holds the inputs, for messages.
        """
        self.call = call
        self.kind = kind
        self._jobs: deque[InputJob] = deque()
        self._samples = self._bytes = self._inputs = 0
        self._exhausted = self._closed = False
        self._error: Exception | None = None
        self._last: HubError | None = None
        self._taking = asyncio.Lock()
        self._news = asyncio.Event()
        self._space = asyncio.Event()

    # --- for who brings samples --------------------------------------------------------------------------

    async def feed(
        self, inputs: AsyncIterator[Input | HubError], read: Callable[[InputJob, Input], Awaitable[None]]
    ) -> None:
        """Read input after input, beside others who do the same, until there are none.

        Args:
            inputs: Shared by all who feed.
            read: Brings the samples of one input, and returns whatever happens.
        """
        try:
            while (taken := await self._next(inputs)) is not None:
                job, item = taken
                if isinstance(item, HubError):
                    job.fail(InputFailed(item, param=f"{self.kind}[{job.index}]"))
                else:
                    await read(job, item)
        except HubError as error:
            # What came before it is good.
            self._last = error
            self._exhausted = True
            self.note_news()
        except Exception as error:
            self.fail(error)

    async def _next(self, inputs: AsyncIterator[Input | HubError]) -> tuple[InputJob, Input | HubError] | None:
        async with self._taking:
            await self.room(None)
            item = None if self._exhausted or self._closed else await anext(inputs, None)
            if item is None:
                self._exhausted = True
                self.note_news()
                return None
            job = InputJob(self, self._inputs, item.filename if isinstance(item, Input) else None)
            self._inputs += 1
            self._jobs.append(job)
            return job, item

    async def room(self, job: InputJob | None) -> None:
        """Wait until there is room for samples of an input, or of a further one.

        The input whose rows leave now may always fill a stream's worth, whatever those behind it hold: they wait for
        it, so it must never wait for them.
        """
        while not self._closed and self._full(job):
            self._space.clear()
            await self._space.wait()

    def _full(self, job: InputJob | None) -> bool:
        if self._jobs and job is self._jobs[0] and job.held < HELD_SAMPLES:
            return self._bytes >= HELD_BYTES and job.held > 0
        return self._samples >= HELD_SAMPLES or self._bytes >= HELD_BYTES

    def hold(self) -> None:
        """Count a sample in."""
        self._samples += 1
        self.note_news()

    def note_bytes(self, size: int) -> None:
        """Count the bytes of an answer."""
        self._bytes += size
        self.note_news()

    def release(self, size: int) -> None:
        """Count a sample and its bytes out."""
        self._samples -= 1
        self._bytes -= size
        self._space.set()

    def note_news(self) -> None:
        """Let whoever sends the rows look again."""
        self._news.set()

    # --- for who sends the rows --------------------------------------------------------------------------

    async def rows(self, most: int) -> list[Row]:
        """Wait for the next rows and return them, in order, as many as there are up to ``most``; none at the end.

        Raises:
            HubError: The stream cannot go on, and all rows before that have left.
        """
        while True:
            found = self._take(most)
            if found:
                return found
            if self._error is not None:
                raise self._error
            if self._exhausted and not self._jobs:
                if self._last is not None:
                    raise self._last
                return []
            self._news.clear()
            await self._news.wait()

    def _take(self, most: int) -> list[Row]:
        rows: list[Row] = []
        while self._jobs and len(rows) < most:
            rows += self._jobs[0].take(most - len(rows))
            if not self._jobs[0].over:
                break
            self._jobs.popleft()
            self._space.set()
        return rows

    def fail(self, error: Exception) -> None:
        """End the stream with an error."""
        self._error = self._error or error
        self.note_news()

    def close(self) -> None:
        """Let go of everything: nobody takes rows any more."""
        self._closed = True
        self._space.set()
        for job in self._jobs:
            job.give_up()


def _bytes(outcome: Output | Refused | Failed) -> int:
    return outcome.value.nbytes if isinstance(outcome, Output) else 0
