"""A mild change of a recording that keeps its music: its cut, its level, and faint noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from domains.music.audio import Audio
from hub.reading import Sample

KEPT = 0.85
"""Least share of the recording that is kept."""
SHORTEST = 0.25
"""Seconds below which nothing is cut off."""
GAIN_DB = 3.0
NOISE_DB = -40.0
"""Level of the noise beside the recording's own; between notes music is quieter than speech's rooms."""


def augment(sample: Sample, generator: torch.Generator) -> Sample:
    """Return a recording cut a little at both ends, a little louder or softer, with faint white noise."""
    audio: Audio = sample.data
    draws = torch.rand(3, generator=generator).tolist()
    length = audio.frames if audio.seconds * KEPT < SHORTEST else round(audio.frames * (KEPT + (1 - KEPT) * draws[0]))
    first = round((audio.frames - length) * draws[1])
    part = audio.samples[:, first : first + length]
    level = float(np.sqrt(np.square(part, dtype=np.float64).mean()))
    noise = torch.randn(part.shape, generator=generator).numpy() * np.float32(level * 10 ** (NOISE_DB / 20))
    gain = np.float32(10 ** ((2 * draws[2] - 1) * GAIN_DB / 20))
    return replace(sample, data=Audio(gain * (part + noise), audio.sampling_rate))
