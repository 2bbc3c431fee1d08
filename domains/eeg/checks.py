"""What is checked in every recording, whatever file it came from."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from domains.eeg.channels import is_electrode, shown
from domains.eeg.recording import Recording
from hub.doubts import Doubt
from hub.errors import InvalidInput

TOO_SMALL = 1e-3
"""Microvolts below which the typical deviation is no EEG: the numbers are volts, most likely."""
TOO_LARGE = 1e5
"""Microvolts above which it is none either: digital units, most likely."""
RAILED_SHARE = 0.05
"""Share of moments at a channel's highest or lowest value from which on it stands at its rail."""
HUM_SHARE = 0.5
"""Share of the power above 1 Hz from which on hum is what a recording mostly shows."""
HUM_SAMPLES = 8_192
"""Samples in the middle that are looked at for hum."""


def without_repeats(recording: Recording) -> tuple[Recording, list[str]]:
    """Return a recording in which every channel name stands for one signal.

    A channel that is there twice with the same samples is kept once.

    Raises:
        InvalidInput: Two channels have one name and different samples.
    """
    seen: dict[str, int] = {}
    kept = []
    for row, name in enumerate(recording.channels):
        first = seen.setdefault(name, row)
        if first == row:
            kept.append(row)
        elif not np.array_equal(recording.signal[first], recording.signal[row]):
            called = f" ({name})" if is_electrode(name) else ""
            raise InvalidInput(
                f"channels {first + 1} and {row + 1} have the same name{called}, and their samples differ: rename one",
                code="duplicate_channels",
            )
    repeats = len(recording.channels) - len(kept)
    if not repeats:
        return recording, []
    text = f"{repeats} channels are there twice with the same samples; each is used once."
    return recording.pick(kept), [Doubt(text, "repeated_part")]


def check_signal(recording: Recording) -> Iterator[Doubt]:
    """Yield what speaks against a recording that is accepted.

    Raises:
        InvalidInput: A sample is not finite; the text names the channel and the moment.
    """
    # Row by row, since a long recording is large and its deviations would be as large again.
    flat, railed, deviations = [], 0, []
    for row, signal in enumerate(recording.signal):
        finite = np.isfinite(signal)
        if not finite.all():
            moment = int(np.argmin(finite)) / recording.sampling_rate
            raise InvalidInput(
                f"{shown(recording.channels, row)} is not finite at {recording.start + moment:.3f} s; one such sample "
                "spoils all",
                code="not_finite",
            )
        # A thousand moments tell the scale of a signal.
        some = signal[:: max(1, len(signal) // 1000)]
        middle, low, high = float(np.median(some)), signal.min(), signal.max()
        deviations.append(float(np.median(np.abs(some - middle))) * 1e6)
        if low == high:
            flat.append(row)
            continue
        railed += float(((some == low) | (some == high)).mean()) >= RAILED_SHARE
    if len(flat) == len(recording.channels):
        silent = not recording.signal.any()
        text = (
            f"The recording is {'zero throughout' if silent else 'one constant value'}; the embedding carries nothing."
        )
        yield Doubt(text, "silent" if silent else "constant")
        return
    if flat:
        names = ", ".join(shown(recording.channels, row) for row in flat[:8])
        text = f"{len(flat)} of {len(recording.channels)} channels are flat (constant): {names}."
        yield Doubt(text, "flat_channels")
    if railed:
        text = f"{railed} channels stand at their highest or lowest value for much of the time: overdriven, or cut off."
        yield Doubt(text, "clipped")
    typical = float(np.median([d for row, d in enumerate(deviations) if row not in flat]))
    if typical < TOO_SMALL:
        text = (
            f"The signal deviates by {typical:.2g} microvolts from its median: the numbers seem to be volts, and were "
            "taken as the unit that the file or the request states (microvolts where it states none)."
        )
        yield Doubt(text, "scale_implausible")
    elif typical > TOO_LARGE:
        text = (
            f"The signal deviates by {typical:.2g} microvolts from its median: the numbers seem to be digital units, "
            "and not the voltage that the file or the request states (microvolts where it states none)."
        )
        yield Doubt(text, "scale_implausible")
    mains, share = _mains(recording, [row for row in range(len(recording.channels)) if row not in flat])
    if share > HUM_SHARE:
        yield Doubt(f"{share:.0%} of the power is the mains' {mains:g} Hz: use a notch filter.", "mains_hum")


def _mains(recording: Recording, rows: list[int]) -> tuple[float, float]:
    """Return the mains' frequency, Hz, and its share of the power above 1 Hz in the median channel."""
    rate, signal = recording.sampling_rate, recording.signal
    length = min(signal.shape[1], HUM_SAMPLES)
    first = (signal.shape[1] - length) // 2
    part = signal[rows, first : first + length]
    power = np.square(np.abs(np.fft.rfft((part - part.mean(axis=1, keepdims=True)) * np.hanning(length))))
    hertz = np.fft.rfftfreq(length, 1 / rate)
    whole = np.maximum(power[:, hertz >= 1].sum(axis=1), np.finfo(float).tiny)
    shares = {
        mains: float(np.median(power[:, np.abs(hertz - mains) <= 1].sum(axis=1) / whole))
        for mains in (50.0, 60.0)
        if mains + 1 < rate / 2
    }
    return max(shares.items(), key=lambda entry: entry[1], default=(0.0, 0.0))
