"""A mild change of a recording that keeps the state of the brain: its cut, its amplitude, and faint noise."""

from __future__ import annotations

from dataclasses import replace

import torch

from domains.eeg.recording import Recording
from hub.reading import Sample

KEPT = 0.9
"""Least share of the recording that is kept."""
SHORTEST = 4.0
"""Seconds below which nothing is cut off."""
GAIN = 0.1
"""Largest relative change of amplitude, the same for all channels."""
NOISE = 0.05
"""Deviation of the noise beside that of each channel."""


def augment(sample: Sample, generator: torch.Generator) -> Sample:
    """Return a recording cut a little at both ends, a little stronger or weaker, with faint white noise."""
    recording: Recording = sample.data
    draws = torch.rand(3, generator=generator).tolist()
    total = recording.signal.shape[1]
    length = total if recording.seconds * KEPT < SHORTEST else round(total * (KEPT + (1 - KEPT) * draws[0]))
    first = round((total - length) * draws[1])
    part = recording.crop(first, first + length)
    noise = torch.randn(part.signal.shape, generator=generator, dtype=torch.float64).numpy()
    gain = 1 + GAIN * (2 * draws[2] - 1)
    signal = gain * (part.signal + NOISE * part.signal.std(axis=1, keepdims=True) * noise)
    return replace(sample, data=replace(part, signal=signal))
