"""What is checked in every recording, whatever file it came from."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from domains.eeg.channels import is_electrode, shown
from domains.eeg.recording import Recording
from hub.errors import InvalidInput

TOO_SMALL = 1e-3
"""Microvolts below which the typical deviation is no EEG: the numbers are volts, most likely."""
TOO_LARGE = 1e5
"""Microvolts above which it is none either: digital units, most likely."""


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
    return recording.pick(kept), [f"{repeats} channels are there twice with the same samples; each is used once."]


def check_signal(recording: Recording) -> Iterator[str]:
    """Yield what speaks against a recording that is accepted.

    Raises:
        InvalidInput: A sample is not finite; the text names the channel and the moment.
    """
    # Row by row, since a long recording is large and its deviations would be as large again.
    flat, deviations = [], []
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
        deviations.append(float(np.median(np.abs(some - np.median(some)))) * 1e6)
        if signal.min() == signal.max():
            flat.append(row)
    if len(flat) == len(recording.channels):
        yield "The recording is one constant value; the embedding carries nothing."
        return
    if flat:
        names = ", ".join(shown(recording.channels, row) for row in flat[:8])
        yield f"{len(flat)} of {len(recording.channels)} channels are flat (constant): {names}."
    typical = float(np.median([d for row, d in enumerate(deviations) if row not in flat]))
    if typical < TOO_SMALL:
        yield (
            f"The signal deviates by {typical:.2g} microvolts from its median: the numbers seem to be volts, and were "
            "taken as the unit that the file or the request states (microvolts where it states none)."
        )
    elif typical > TOO_LARGE:
        yield (
            f"The signal deviates by {typical:.2g} microvolts from its median: the numbers seem to be digital units, "
            "and not the voltage that the file or the request states (microvolts where it states none)."
        )
