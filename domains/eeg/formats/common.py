"""What every format has in common: the limits a header is held against, the parts it yields, and units."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from domains.eeg.recording import Annotation
from hub.errors import InvalidInput, TooLarge
from hub.reading import Span

KNOWN = (
    "EDF and EDF+, BDF, FIF, BrainVision (as a ZIP of its three files), EEGLAB .set, CSV and text tables, NumPy .npy "
    "(all by content, whatever the suffix)"
)

VOLTS = {"v": 1.0, "mv": 1e-3, "uv": 1e-6, "µv": 1e-6, "μv": 1e-6, "nv": 1e-9, "microvolt": 1e-6, "microvolts": 1e-6}
"""Volts in one unit, by its lower-case name; both code points of the micro sign are in use."""


Rows = NDArray[np.float64] | list[NDArray[np.float64]]


@dataclass(frozen=True)
class Limits:
    """How large a recording may be.

    Attributes:
        max_bytes: Largest file.
        max_channels: Most channels in a file.
        max_seconds: Longest recording, or part of one that is asked for.
        max_values: Most samples of all channels together.
        min_sampling_rate: Lowest rate, Hz.
        max_sampling_rate: Highest rate, Hz.
    """

    max_bytes: int
    max_channels: int
    max_seconds: float
    max_values: int
    min_sampling_rate: float
    max_sampling_rate: float

    def check_file(self, size: int) -> None:
        """Raise InvalidInput or TooLarge for a file that is not even opened."""
        if size == 0:
            raise InvalidInput("the file is empty", code="empty")
        if size > self.max_bytes:
            raise TooLarge(f"the file has {size:,} bytes; at most {self.max_bytes:,} are read")

    def check_channels(self, count: int) -> None:
        """Raise InvalidInput or TooLarge for a number of channels."""
        if count < 1:
            raise InvalidInput("there is no channel in the file", code="no_channel")
        if count > self.max_channels:
            raise TooLarge(f"{count:,} channels; at most {self.max_channels} are read", code="too_many_channels")

    def check_rate(self, rate: float) -> None:
        """Raise InvalidInput for a sampling rate that no EEG has."""
        if not self.min_sampling_rate <= rate <= self.max_sampling_rate:
            raise InvalidInput(
                f"a sampling rate of {rate:g} Hz; {self.min_sampling_rate:g} to {self.max_sampling_rate:g} Hz are read",
                code="bad_sampling_rate",
            )

    def check_size(self, channels: int, samples: float, rate: float) -> None:
        """Raise TooLarge for what would be decoded."""
        if samples > self.max_seconds * rate or channels * samples > self.max_values:
            raise TooLarge(
                f"{channels} channels for {samples / rate:,.0f} s at {rate:g} Hz; at most {self.max_seconds:,.0f} s "
                f"and {self.max_values:,} values are read at once: ask for a part of the recording (start, stop)",
                code="too_long",
            )


@dataclass
class Raw:
    """The channels of a file that are wanted, in volts.

    Attributes:
        rows: ``(channels, samples)`` float64, in volts; a list of rows where rates, and so lengths, differ.
        rates: Hz, one a channel.
        names: As the file has them.
        annotations: Onsets count from the first sample of the rows.
        warnings: What a user should know, one sentence each.
        start: Where the rows begin in the file, seconds.
    """

    rows: Rows = field(repr=False)
    rates: list[float]
    names: list[str]
    annotations: list[Annotation] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    start: float = 0.0


def sample_range(span: Span | None, samples: int, rate: float) -> tuple[int, int]:
    """Return the first sample of a span, and the one after its last.

    Raises:
        InvalidInput: The span begins where the recording has ended.
    """
    first = round((span.start or 0.0) * rate) if span else 0
    last = samples if span is None or span.stop is None else min(samples, round(span.stop * rate))
    if span is not None and first >= last:
        raise InvalidInput(
            f"the span starts at {first / rate:g} s; the recording lasts {samples / rate:.3f} s", code="empty_span"
        )
    return first, last


def volts_per(unit: str) -> float | None:
    """Return the volts in one of a unit, or ``None`` where it is no voltage."""
    # Headers are read as Latin-1, and some writers put the micro sign in as UTF-8.
    return VOLTS.get(unit.strip().lower().removeprefix("â"))
