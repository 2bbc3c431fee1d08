"""Inputs to prepared samples in short turns: the work itself, wherever it is done.

A stream reads some inputs of one request, in order. It takes a few milliseconds at a time and then lets others have
their turn, so that a capture with a hundred thousand flows does not keep them waiting, and it can pause between turns
while the model is behind.
"""

from __future__ import annotations

import dataclasses
import errno
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hub.embedder import Intake, Prepared
from hub.errors import InvalidInput, TooLarge
from hub.neighbourhood import views_of
from serving.errors import InputFailed, SpoolFull
from serving.inputs import Input
from serving.jobs import Refused
from serving.readers.caps import Caps

TURN_SECONDS = 0.02
"""How long a turn takes, unless one sample takes longer: a few forwards of a small model."""
TURN_BYTES = 1 << 24
"""How much a turn may bring, unless one sample is larger: many small answers keep memory flat."""
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


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


@dataclass(frozen=True)
class Order:
    """What a stream is to read.

    Attributes:
        inputs: (index in the request, input).
        kind: Name of the request's field, for error messages: ``input`` or ``file``.
        with_data: Whether what the reader made of a sample is needed beside its features, as tasks do.
        skip: Entries at the start to leave out, because they came before.
        views: Changed copies to bring after each sample that can be used; see `hub.neighbourhood`.
    """

    inputs: Sequence[tuple[int, Input]]
    kind: str
    with_data: bool
    skip: int = 0
    views: int = 0

    def place(self, index: int) -> str:
        """Return where in the request an input stands."""
        return f"{self.kind}[{index}]"


class ReadingStream:
    """Some inputs of one request on their way to prepared samples."""

    def __init__(self, intake: Intake, order: Order, caps: Caps, on_input: Callable[[int], None] | None = None) -> None:
        """Prepare to read; nothing is touched before the first turn.

        Args:
            intake: Reads and prepares.
            order: What.
            caps: On what it may take.
            on_input: Called with the index of each input before it is read.
        """
        self._samples = self._read(intake, order, caps, on_input)
        self._skip = order.skip
        self._lock = threading.Lock()
        self._closed = False

    @staticmethod
    def _read(
        intake: Intake, order: Order, caps: Caps, on_input: Callable[[int], None] | None
    ) -> Generator[tuple[int, Prepared | Refused, int]]:
        for index, item in order.inputs:
            if on_input is not None:
                on_input(index)
            place = order.place(index)
            label = item.filename or place
            usable, total = False, 0
            refused: list[Refused] = []
            try:
                for sample in item.samples(intake, place):
                    try:
                        prepared = intake.prepare(sample, label)
                    except InvalidInput as error:
                        refused.append(Refused(sample.key, error))
                        if usable:
                            yield index, refused[-1], 0
                        continue
                    views = views_of(intake, prepared, order.views) if order.views else []
                    if not order.with_data:
                        prepared, *views = map(_without_data, (prepared, *views))
                    size = bytes_of(prepared)
                    total += size + sum(map(bytes_of, views))
                    if total > caps.output_bytes:
                        raise TooLarge(
                            f"prepared for the model it takes more than {caps.output_bytes:,} bytes, the most that one "
                            "input may; send a part of it",
                            code="too_much_output",
                        )
                    if not usable:
                        # Only now is it certain that the input as a whole can be used.
                        usable = True
                        for earlier in refused:
                            yield index, earlier, 0
                    yield index, prepared, size
                    for view in views:
                        yield index, view, size
                if not usable:
                    raise refused[0].error if refused else InvalidInput("it holds no sample", code="no_samples")
            except InvalidInput as error:
                raise InputFailed(error.at(label), param=place) from None
            except Exception as error:
                raise InputFailed(blamed(error, label, caps), param=place) from error

    def turn(self) -> Turn:
        """Read for a few milliseconds.

        Raises:
            InputFailed: An input cannot be read or prepared; it says which.
        """
        started, size = time.perf_counter(), 0
        prepared: list[tuple[int, Prepared | Refused]] = []
        with self._lock:
            while not self._closed and time.perf_counter() - started < TURN_SECONDS and size < TURN_BYTES:
                entry = next(self._samples, None)
                if entry is None:
                    return Turn(prepared, True, time.perf_counter() - started)
                if self._skip:
                    self._skip -= 1
                    continue
                prepared.append(entry[:2])
                size += entry[2]
        return Turn(prepared, False, time.perf_counter() - started)

    def stop(self) -> None:
        """End the turn at hand after its current sample, and let no other begin."""
        self._closed = True

    def release(self) -> None:
        """Let go of an input that was not read to its end; it waits for the turn at hand."""
        with self._lock:
            self._samples.close()


def _without_data(prepared: Prepared) -> Prepared:
    return dataclasses.replace(prepared, sample=dataclasses.replace(prepared.sample, data=None))


def blamed(error: Exception, label: str, caps: Caps) -> Exception:
    """Return what an error that no reader foresaw comes from, where that is one of the caps."""
    # Torch raises a RuntimeError of its own.
    if isinstance(error, MemoryError) or "allocate memory" in str(error):
        most = f"the {caps.memory_bytes:,} bytes of memory that a reader may take" if caps.memory_bytes else "there is"
        return TooLarge(f"reading it takes more than {most}", code="too_much_memory", source=label)
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        return TooLarge("unpacked it is larger than a reader's files may be", code="too_much_output", source=label)
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        return SpoolFull()
    return error


def bytes_of(value: Any) -> int:
    """Return about how many bytes of arrays, texts and lists a value holds."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return int(value.nbytes)
    if isinstance(value, str | bytes | bytearray):
        return len(value)
    if isinstance(value, list | tuple):
        if value and isinstance(value[0], int | float):
            return 8 * len(value)
        return sum(map(bytes_of, value))
    if isinstance(value, Mapping):
        return sum(map(bytes_of, value.values()))
    if dataclasses.is_dataclass(value):
        return sum(map(bytes_of, vars(value).values())) if hasattr(value, "__dict__") else 0
    return 0
