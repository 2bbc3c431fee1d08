"""A mild change of a recording that keeps what was said: its cut, its level, and faint noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from domains.speech.reading import Waveform
from hub.reading import Sample

KEPT = 0.85
"""Least share of the recording that is kept."""
SHORTEST = 0.1
"""Seconds below which nothing is cut off."""
GAIN_DB = 3.0
NOISE_DB = -30.0
"""Level of the noise beside the recording's own."""


def augment(sample: Sample, generator: torch.Generator) -> Sample:
    """Return a recording cut a little at both ends, a little louder or softer, with faint white noise."""
    wave: Waveform = sample.data
    draws = torch.rand(3, generator=generator).tolist()
    total = len(wave.samples)
    length = total if wave.seconds * KEPT < SHORTEST else round(total * (KEPT + (1 - KEPT) * draws[0]))
    first = round((total - length) * draws[1])
    part = wave.samples[first : first + length]
    level = float(np.sqrt(np.square(part, dtype=np.float64).mean()))
    noise = torch.randn(length, generator=generator).numpy() * np.float32(level * 10 ** (NOISE_DB / 20))
    gain = np.float32(10 ** ((2 * draws[2] - 1) * GAIN_DB / 20))
    return replace(sample, data=Waveform(gain * (part + noise), wave.sampling_rate))
