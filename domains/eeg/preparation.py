"""Resampling, filters, references and windows on arrays: what processors store as their configuration.

Thin, quiet and deterministic faces of ``mne.filter``, which designs the filters. Everything is float64, channels by
samples, and leaves its input as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from domains.eeg.recording import Annotation
from hub.errors import InvalidInput

Signal = NDArray[np.float64]

LONGITUDINAL = (
    ("Fp1", "F7"), ("F7", "T7"), ("T7", "P7"), ("P7", "O1"),
    ("Fp2", "F8"), ("F8", "T8"), ("T8", "P8"), ("P8", "O2"),
    ("Fp1", "F3"), ("F3", "C3"), ("C3", "P3"), ("P3", "O1"),
    ("Fp2", "F4"), ("F4", "C4"), ("C4", "P4"), ("P4", "O2"),
)  # fmt: skip
"""The longitudinal bipolar montage ("double banana"): each electrode minus the one behind it."""


def resample(
    signal: Signal, sampling_rate: float, target: float, method: Literal["fft", "polyphase"] = "fft"
) -> Signal:
    """Return a signal at another rate, protected against aliasing; moments are kept to within half a sample.

    Args:
        signal: ``(channels, samples)``.
        sampling_rate: Hz.
        target: Hz.
        method: ``fft`` takes any ratio of rates; ``polyphase`` has shorter echoes of steps, and rounds the rates to
            1/1000 Hz to find a ratio.

    Returns:
        ``(channels, round(samples * target / sampling_rate))``.
    """
    if sampling_rate == target:
        return signal
    import mne

    up, down = target, sampling_rate
    if method == "polyphase":
        whole = np.array([round(target * 1000), round(sampling_rate * 1000)])
        up, down = (int(n) for n in whole // np.gcd(*whole))
    return np.asarray(mne.filter.resample(signal, up=up, down=down, npad="auto", method=method, verbose="ERROR"))


def bandpass(
    signal: Signal,
    sampling_rate: float,
    low: float | None,
    high: float | None,
    method: Literal["fir", "iir"] = "fir",
) -> Signal:
    """Return a signal without what lies below ``low`` and above ``high``, with no delay (zero phase).

    Args:
        signal: ``(channels, samples)``.
        sampling_rate: Hz.
        low: Hz; ``None`` keeps everything below.
        high: Hz; ``None``, or a frequency that the rate cannot hold, keeps everything above.
        method: ``fir``, a Hamming-windowed filter whose length follows from ``low``, or ``iir``, a Butterworth filter
            of fourth order run forward and backward, for signals shorter than that.
    """
    if high is not None and high >= sampling_rate / 2:
        high = None
    if low is None and high is None:
        return signal
    import mne

    options = {"iir_params": {"order": 4, "ftype": "butter"}} if method == "iir" else {}
    return np.asarray(
        mne.filter.filter_data(signal, sampling_rate, low, high, method=method, verbose="ERROR", **options)
    )


def notch(signal: Signal, sampling_rate: float, mains: float) -> Signal:
    """Return a signal without the mains frequency (50 or 60 Hz) and its harmonics; FIR, zero phase.

    A rate that cannot hold the mains frequency leaves the signal as it is.
    """
    # The stop band is 1 Hz wide on either side, and has to end below the Nyquist frequency.
    frequencies = np.arange(mains, sampling_rate / 2 - 1, mains)
    if not frequencies.size:
        return signal
    import mne

    return np.asarray(mne.filter.notch_filter(signal, sampling_rate, frequencies, verbose="ERROR"))


def rereference(signal: Signal, channels: Sequence[str], reference: str) -> tuple[Signal, list[str]]:
    """Return a signal against another reference, and the names of its rows.

    Args:
        signal: ``(channels, samples)``.
        channels: Canonical names.
        reference: ``recorded`` (as it is), ``average`` (of all channels), ``longitudinal`` (the bipolar montage: a
            row for each pair of neighbours that is there, or as it is where derivations are there already), or
            electrodes: ``Cz``, ``A1+A2``. An electrode that serves as the reference is left out of the rows.

    Raises:
        InvalidInput: There is no such electrode, or not one pair of the montage.
    """
    names = list(channels)
    if reference == "recorded":
        return signal, names
    if reference == "average":
        # The average of one channel is the channel.
        return (signal - signal.mean(axis=0), names) if len(names) > 1 else (signal, names)
    place = {name: i for i, name in enumerate(names)}
    if reference == "longitudinal":
        pairs = [pair for pair in LONGITUDINAL if pair[0] in place and pair[1] in place]
        derived = [i for i, name in enumerate(names) if name in {f"{a}-{b}" for a, b in LONGITUDINAL}]
        if not pairs and derived:
            return signal[derived], [names[i] for i in derived]
        if not pairs:
            raise InvalidInput(
                "no two neighbours of the longitudinal montage (Fp1-F7, F7-T7, ...) are among the channels "
                f"{', '.join(names[:8])}",
                code="no_montage",
            )
        rows = [signal[place[a]] - signal[place[b]] for a, b in pairs]
        return np.stack(rows), [f"{a}-{b}" for a, b in pairs]
    electrodes = reference.split("+")
    absent = [e for e in electrodes if e not in place]
    if absent:
        raise InvalidInput(
            f"the reference {absent[0]} is not among the channels {', '.join(names[:8])}", code="no_reference"
        )
    kept = [i for i, name in enumerate(names) if name not in electrodes]
    if not kept:
        raise InvalidInput("the reference leaves no other channel", code="no_reference")
    against = signal[[place[e] for e in electrodes]].mean(axis=0)
    return signal[kept] - against, [names[i] for i in kept]


@dataclass(frozen=True)
class Windows:
    """Stretches of equal length cut from a recording.

    Attributes:
        signal: ``(windows, channels, samples)``, a view of what it was cut from.
        starts: ``(windows,)``, seconds after the first sample.
        seconds: Length of each.
        labels: One a window; empty where no annotation covers half of it.
    """

    signal: Signal
    starts: NDArray[np.float64]
    seconds: float
    labels: list[str]


def windows(
    signal: Signal,
    sampling_rate: float,
    window_seconds: float,
    stride_seconds: float,
    annotations: Sequence[Annotation] = (),
) -> Windows:
    """Cut a signal to windows; what is left at the end is dropped.

    Args:
        signal: ``(channels, samples)``.
        sampling_rate: Hz.
        window_seconds: Length of a window, rounded to whole samples.
        stride_seconds: From one beginning to the next, rounded to whole samples.
        annotations: Of the signal; see `label_of`.

    Raises:
        InvalidInput: The signal is shorter than one window.
    """
    length = max(1, round(window_seconds * sampling_rate))
    stride = max(1, round(stride_seconds * sampling_rate))
    if signal.shape[1] < length:
        raise InvalidInput(
            f"the recording lasts {signal.shape[1] / sampling_rate:.3g} s; at least {window_seconds:g} s are needed",
            code="too_short",
        )
    cut = np.lib.stride_tricks.sliding_window_view(signal, length, axis=1)[:, ::stride].swapaxes(0, 1)
    starts = np.arange(len(cut), dtype=np.float64) * (stride / sampling_rate)
    seconds = length / sampling_rate
    return Windows(cut, starts, seconds, [label_of(start, start + seconds, annotations) for start in starts])


def label_of(start: float, stop: float, annotations: Sequence[Annotation]) -> str:
    """Return the label whose annotations together cover at least half of a window, or an empty one.

    Args:
        start: Of the window, seconds.
        stop: Of the window, seconds.
        annotations: Two that overlap each other count twice.
    """
    covered: dict[str, float] = {}
    for note in annotations:
        overlap = min(stop, note.onset + note.duration) - max(start, note.onset)
        if overlap > 0:
            covered[note.label] = covered.get(note.label, 0.0) + overlap
    label, seconds = max(covered.items(), key=lambda item: item[1], default=("", 0.0))
    return label if seconds >= (stop - start) / 2 else ""
