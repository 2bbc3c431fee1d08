"""EEG files to windows: a recording is conditioned whole, then cut, and each window gets a vector of its own."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from domains.eeg.preparation import bandpass, label_of, notch, rereference, resample
from domains.eeg.reading import EegReader
from domains.eeg.recording import Recording
from hub.doubts import Doubt
from hub.errors import InvalidInput
from hub.reading import Reader, Sample, Source, Span

SETTLING_SECONDS = 5.0
"""Read on either side of a stretch that is to be filtered, and dropped afterwards."""


@dataclass(frozen=True)
class Window(Recording):
    """A stretch of a recording that has been brought to a processor's reference, band and rate.

    Attributes:
        origin: The same number for all windows of one recording, and hardly ever for those of two.
        label: The annotation that covers half of it, if one does: for training; no answer holds it.
    """

    origin: int = 0
    label: str = ""


@dataclass(frozen=True)
class Conditioning:
    """What is done to a whole recording before it is cut: filters need more than a window to settle.

    Attributes:
        sampling_rate: Hz that recordings are brought to.
        reference: See `domains.eeg.preparation.rereference`.
        low: Hz; what lies below is filtered out. ``None`` for nothing.
        high: Hz; what lies above is filtered out. ``None`` for nothing.
        notch: Hz of the mains, filtered out with its harmonics. ``None`` for nothing.
    """

    sampling_rate: float = 250.0
    reference: str = "recorded"
    low: float | None = None
    high: float | None = None
    notch: float | None = None

    @property
    def filters(self) -> bool:
        """Whether anything is filtered out."""
        return any(edge is not None for edge in (self.low, self.high, self.notch))

    def __call__(self, recording: Recording) -> Window:
        """Return a recording in this condition; what is in it already stays as it is.

        Raises:
            InvalidInput: The reference is not among the channels.
        """
        if isinstance(recording, Window):
            return recording
        signal, names = rereference(recording.signal, recording.channels, self.reference)
        if self.notch is not None:
            signal = notch(signal, recording.sampling_rate, self.notch)
        signal = bandpass(signal, recording.sampling_rate, self.low, self.high, method="iir")
        signal = resample(signal, recording.sampling_rate, self.sampling_rate)
        known = {f.name: getattr(recording, f.name) for f in fields(Recording)}
        kept = [recording.channels.index(n) for n in names] if set(names) <= set(recording.channels) else []
        known |= {
            "signal": signal,
            "sampling_rate": self.sampling_rate,
            "channels": names,
            "original_names": [recording.original_names[i] for i in kept if recording.original_names],
            "kinds": [recording.kinds[i] for i in kept if recording.kinds],
        }
        return Window(**known, origin=zlib.crc32(np.ascontiguousarray(signal).tobytes()))


def covering(samples: int, window: int) -> list[int]:
    """Return the first samples of the fewest windows that cover a stretch, evenly spread; ``[0]`` for a short one."""
    count = max(1, -(-samples // window))
    return [int(start) for start in np.linspace(0, max(samples - window, 0), count).round()]


def cut(signal: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Return the windows that cover a signal, ``(windows, channels, samples)``; see `covering`."""
    window = min(window, signal.shape[-1])
    return np.stack([signal[:, start : start + window] for start in covering(signal.shape[-1], window)])


@dataclass
class WindowReader(Reader):
    """An EEG reader whose samples are windows.

    Of a whole file each window is a sample, named by its seconds in the file (``12-24s``); what is left at the end is
    dropped, of which the last window warns, and a recording shorter than a window is one sample. A stretch that is
    asked for by start or stop is one sample, however long: that is how a manifest labels trials, or recordings.

    Attributes:
        reader: Reads the files.
        conditioning: Brings them to one reference, band and rate.
        window_seconds: Length of a window.
        stride_seconds: From one window to the next.
    """

    reader: EegReader
    conditioning: Conditioning
    window_seconds: float
    stride_seconds: float

    plain_form: ClassVar[str] = EegReader.plain_form

    def read(self, source: Source, span: Span | None = None) -> Iterator[Sample]:
        """Yield the windows of a file, or the one stretch asked for; see `Reader.read`."""
        for sample in self.reader.read(source, self._widened(span)):
            try:
                yield from self._windows(sample, span)
            except InvalidInput as error:
                raise error.at(source.name) from None

    def parse(self, value: Any, name: str = "input") -> Iterator[Sample]:
        """Yield the windows of a plain form; see `Reader.parse`."""
        for sample in self.reader.parse(value, name):
            try:
                yield from self._windows(sample)
            except InvalidInput as error:
                raise error.at(name) from None

    def find(self, folder: Path, suffixes: Collection[str]) -> list[Path]:
        """Return what to read below a folder; see `Reader.find`."""
        return self.reader.find(folder, suffixes)

    def limits(self) -> dict[str, int | float]:
        """Return the limits of the reader of files."""
        return self.reader.limits()

    def _widened(self, span: Span | None) -> Span | None:
        if span is None or not self.conditioning.filters:
            return span
        stop = None if span.stop is None else span.stop + SETTLING_SECONDS
        return Span(max((span.start or 0.0) - SETTLING_SECONDS, 0.0), stop)

    def _windows(self, sample: Sample, span: Span | None = None) -> Iterator[Sample]:
        recording = self.conditioning(sample.data)
        if span is not None and self.conditioning.filters:
            recording = _within(recording, span)
            own = {"seconds": round(recording.seconds, 4), "annotations": len(recording.annotations)}
            sample = replace(sample, metadata={**sample.metadata, **own})
        rate, total = recording.sampling_rate, recording.signal.shape[1]
        size, stride = round(self.window_seconds * rate), max(1, round(self.stride_seconds * rate))
        starts = [0] if span is not None or total <= size else range(0, total - size + 1, stride)
        for first in starts:
            last = total if span is not None else min(first + size, total)
            window = cast(Window, recording.crop(first, last))
            begin, end = window.start, window.start + window.seconds
            facts = {**sample.metadata, "start": round(begin, 3), "stop": round(end, 3)}
            window = replace(window, label=label_of(0.0, window.seconds, window.annotations))
            warnings = sample.warnings
            # Resampling rounds a length to whole samples: one of them is nothing that was recorded.
            if first == starts[-1] and total - last > 1:
                text = (
                    f"The last {(total - last) / rate:.3g} s of the recording were left out: they fill no further "
                    f"window of {self.window_seconds:g} s."
                )
                warnings += (Doubt(text, "dropped_part"),)
            key = f"{begin:.6g}-{end:.6g}s"
            yield replace(sample, data=window, key=key, metadata=facts, warnings=warnings)


def _within(recording: Window, span: Span) -> Window:
    """Return the part of a wider stretch that was asked for; see `WindowReader._widened`."""
    rate, total = recording.sampling_rate, recording.signal.shape[1]
    first = max(round(((span.start or 0.0) - recording.start) * rate), 0)
    last = total if span.stop is None else min(round((span.stop - recording.start) * rate), total)
    if first >= last:
        end = recording.start + recording.seconds
        raise InvalidInput(f"the span starts at {span.start:g} s; the recording lasts {end:.3f} s", code="empty_span")
    return cast(Window, recording.crop(first, last))
