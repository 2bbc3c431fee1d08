"""A recording as it was read, and the two steps from there to what a model takes: mono, and one rate.

They stand apart from reading, so that a processor states its rate and the kind of resampling it was made for, and saves
both in ``preprocessor_config.json``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import soxr

QUALITIES = ("QQ", "LQ", "MQ", "HQ", "VHQ")
"""Recipes of soxr: cubic interpolation, then linear-phase filters of 16, 16, 20 and 28 bits."""


@dataclass(frozen=True)
class Audio:
    """A recording, channels apart.

    Attributes:
        samples: ``(channels, samples)`` float32, finite; full scale is 1.
        sampling_rate: Hz, the file's own.
    """

    samples: np.ndarray
    sampling_rate: int

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.samples.shape[0])

    @property
    def frames(self) -> int:
        """Samples of one channel."""
        return int(self.samples.shape[1])

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.frames / self.sampling_rate


def to_mono(samples: np.ndarray) -> np.ndarray:
    """Return the mean over channels, ``(samples,)`` float32.

    Args:
        samples: ``(channels, samples)``.
    """
    if samples.shape[0] == 1:
        return samples[0]
    return samples.mean(axis=0, dtype=np.float32)


def resample(samples: np.ndarray, source: int, target: int, quality: str = "VHQ") -> np.ndarray:
    """Return a mono recording at another rate, float32, ``round(len(samples) * target / source)`` samples.

    Band-limited with linear phase: nothing is delayed, and what lies above the new Nyquist frequency is gone rather
    than mirrored. Any two rates will do: no table of filters grows with their common multiple.

    Args:
        samples: ``(samples,)``.
        source: Its rate, Hz.
        target: The wanted rate, Hz.
        quality: One of `QUALITIES`.

    Raises:
        ValueError: There is no such quality.
    """
    if quality not in QUALITIES:
        raise ValueError(f"quality {quality!r} is none of {', '.join(QUALITIES)}")
    if source == target:
        return samples
    return soxr.resample(samples, source, target, quality=quality).astype(np.float32, copy=False)


def mono_at(audio: Audio, sampling_rate: int, quality: str = "VHQ") -> np.ndarray:
    """Return a recording mixed to mono at a rate, ``(samples,)`` float32: both steps at once."""
    return resample(to_mono(audio.samples), audio.sampling_rate, sampling_rate, quality)
