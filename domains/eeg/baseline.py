"""The simple features that an EEG model's embeddings are held against: power in the classical bands."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.signal import welch

from domains.eeg.recording import Recording
from hub.reading import Sample

BANDS = ((1.0, 4.0), (4.0, 8.0), (8.0, 13.0), (13.0, 30.0), (30.0, 45.0))
"""Delta, theta, alpha, beta and low gamma, Hz; a frequency on a border belongs to the band above it."""
SEGMENT_SECONDS = 2.0
FLOOR = 1e-6
"""Square microvolts per Hz, far below any amplifier's noise: keeps the logarithm of a flat channel finite."""


def band_power(recording: Recording) -> NDArray[np.float64]:
    """Return the mean power density of every band, ``(channels, 5)`` in square microvolts per Hz.

    Welch's method: Hann-windowed segments of two seconds (or the whole of a shorter recording) that overlap by half.
    """
    length = min(round(SEGMENT_SECONDS * recording.sampling_rate), recording.signal.shape[1])
    frequencies, density = welch(recording.microvolts, recording.sampling_rate, nperseg=length)
    bands = [density[:, (frequencies >= low) & (frequencies < high)].mean(axis=1) for low, high in BANDS]
    return np.stack(bands, axis=1) + FLOOR


def log_band_power(sample: Sample) -> dict[str, NDArray[np.float32]]:
    """Return the logarithm of each channel's band powers, ``(5,)`` float32 by the channel's name."""
    recording: Recording = sample.data
    return _by_channel(recording, np.log(band_power(recording)))


def relative_band_power(sample: Sample) -> dict[str, NDArray[np.float32]]:
    """Return the logarithm of each band's share of its channel's power, ``(5,)`` by name: nothing of amplitude."""
    recording: Recording = sample.data
    power = band_power(recording)
    return _by_channel(recording, np.log(power / power.sum(axis=1, keepdims=True)))


def _by_channel(recording: Recording, values: NDArray[np.float64]) -> dict[str, NDArray[np.float32]]:
    return dict(zip(recording.channels, values.astype(np.float32), strict=True))
