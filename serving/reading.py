"""The reading stage: inputs to prepared samples in threads, in short turns.

A stream reads some inputs of one request, in order. It holds a thread for a few milliseconds at a time and then
goes to the back of the queue, so that a capture with a hundred thousand flows does not keep others waiting, and
it can pause between turns while the model is behind.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from hub.embedder import Embedder, Prepared
from hub.errors import InvalidInput
from hub.neighbourhood import views_of
from serving.errors import InputFailed
from serving.inputs import Input
from serving.jobs import Refused

TURN_SECONDS = 0.02
"""How long a stream keeps a thread, unless one sample takes longer: a few forwards of a small model."""


@dataclass(frozen=True)
class Turn:
    """What one turn brought.

    Attributes:
        prepared: (index of the input, prepared sample, or why a sample cannot be used), in order.
        finished: Whether the stream has come to its end.
        seconds: How long it took.
    """

    prepared: list[tuple[int, Prepared | Refused]]
    finished: bool
    seconds: float


class ReadingStream:
    """Some inputs of one request on their way to prepared samples."""

    def __init__(self, embedder: Embedder, inputs: Sequence[tuple[int, Input]], kind: str, views: int = 0) -> None:
        """Prepare to read; nothing is touched before the first turn.

        Args:
            embedder: Reads and prepares.
            inputs: (index in the request, input).
            kind: Name of the request's field, for error messages: ``input`` or ``file``.
            views: Changed copies to bring after each sample that can be used; see `hub.neighbourhood`.
        """
        self._samples = self._read(embedder, inputs, kind, views)
        self._lock = threading.Lock()
        self._closed = False

    @staticmethod
    def _read(
        embedder: Embedder, inputs: Sequence[tuple[int, Input]], kind: str, views: int
    ) -> Generator[tuple[int, Prepared | Refused]]:
        for index, item in inputs:
            place = f"{kind}[{index}]"
            label = item.filename or place
            usable = False
            refused: list[Refused] = []
            try:
                for sample in item.samples(embedder, place):
                    try:
                        prepared = embedder.prepare(sample, label)
                    except InvalidInput as error:
                        refused.append(Refused(sample.key, error))
                        if usable:
                            yield index, refused[-1]
                        continue
                    if not usable:
                        # Only now is it certain that the input as a whole can be used.
                        usable = True
                        for earlier in refused:
                            yield index, earlier
                    yield index, prepared
                    for view in views_of(embedder, prepared, views) if views else ():
                        yield index, view
                if not usable:
                    raise refused[0].error if refused else InvalidInput("it holds no sample", code="no_samples")
            except InvalidInput as error:
                raise InputFailed(error.at(label), param=place) from None
            except Exception as error:
                raise InputFailed(error, param=place) from error

    def turn(self) -> Turn:
        """Read for a few milliseconds; called in a thread.

        Raises:
            InputFailed: An input cannot be read or prepared; it says which.
        """
        started = time.perf_counter()
        prepared: list[tuple[int, Prepared | Refused]] = []
        with self._lock:
            while not self._closed and time.perf_counter() - started < TURN_SECONDS:
                entry = next(self._samples, None)
                if entry is None:
                    return Turn(prepared, True, time.perf_counter() - started)
                prepared.append(entry)
        return Turn(prepared, False, time.perf_counter() - started)

    def stop(self) -> None:
        """End the turn at hand after its current sample, and let no other begin."""
        self._closed = True

    def release(self) -> None:
        """Let go of an input that was not read to its end; called in a thread, for it waits for the turn at hand."""
        with self._lock:
            self._samples.close()
