"""What one EEG file holds, once it is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Annotation(NamedTuple):
    """A marked stretch of a recording: a stimulus, a sleep stage, a seizure."""

    onset: float
    """Seconds after the first sample of the signal it belongs to."""
    duration: float
    """Seconds; 0 for a moment."""
    label: str


def cut_annotations(annotations: Sequence[Annotation], start: float, stop: float) -> list[Annotation]:
    """Return the annotations that touch a stretch, in order, their onsets counted from its beginning.

    One that began before has a negative onset; one whose onset is no number is left out.
    """
    kept = [
        note._replace(onset=note.onset - start)
        for note in annotations
        if note.onset < stop and (note.onset >= start or note.onset + note.duration > start)
    ]
    return sorted(kept)


@dataclass(frozen=True)
class Recording:
    """A multi-channel recording; the ``data`` of an EEG `Sample`.

    Attributes:
        signal: ``(channels, samples)`` float64, finite, in volts.
        sampling_rate: Hz; need not be whole (173.61).
        channels: Canonical names, one a row: the 10-05 system's spelling (``Fp1``, ``T7``), ``Fp1-F7`` for a bipolar
            derivation, the name as the file has it where it names no electrode.
        original_names: The names as the file has them.
        kinds: One a row: ``eeg``, ``eog``, ``emg``, ``ecg``, ``misc``.
        annotations: In the order of their onsets.
        start: Where the signal begins in its file, seconds; above 0 for a part of a recording.
    """

    signal: NDArray[np.float64] = field(repr=False)
    sampling_rate: float
    channels: list[str]
    original_names: list[str] = field(default_factory=list, repr=False)
    kinds: list[str] = field(default_factory=list, repr=False)
    annotations: list[Annotation] = field(default_factory=list, repr=False)
    start: float = 0.0

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.signal.shape[1] / self.sampling_rate

    @property
    def microvolts(self) -> NDArray[np.float64]:
        """The signal in microvolts, a copy."""
        return self.signal * 1e6

    def crop(self, first: int, last: int) -> Recording:
        """Return the samples from ``first`` up to ``last``, with the annotations that touch them.

        The signal is a view; see `cut_annotations` for the onsets.
        """
        begin, end = first / self.sampling_rate, last / self.sampling_rate
        touching = cut_annotations(self.annotations, begin, end)
        return replace(self, signal=self.signal[:, first:last], annotations=touching, start=self.start + begin)

    def pick(self, rows: Sequence[int]) -> Recording:
        """Return some channels, in the order given."""
        chosen = list(rows)
        return replace(
            self,
            signal=self.signal[chosen],
            channels=[self.channels[i] for i in chosen],
            original_names=[self.original_names[i] for i in chosen if self.original_names],
            kinds=[self.kinds[i] for i in chosen if self.kinds],
        )
