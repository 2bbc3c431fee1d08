"""The simple features that a speech model's embeddings are held against."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.signal import resample_poly

from domains.speech.reading import Waveform
from domains.speech.tera.features import FrontEnd
from hub.reading import Sample

SAMPLING_RATE = 16_000
_FRONT_END = FrontEnd(kind="mel", sampling_rate=SAMPLING_RATE, n_mels=80)


def log_mel_statistics(sample: Sample) -> np.ndarray:
    """Return mean and standard deviation over time of 80 log-mel bands, ``(160,)`` float32.

    Without level and mean normalisation: normalised bands have mean zero by construction, which says nothing.
    """
    waveform: Waveform = sample.data
    shared = math.gcd(SAMPLING_RATE, waveform.sampling_rate)
    # The resampler with which the published numbers of this baseline were made. It leaves a faint mirror
    # image above the old Nyquist frequency, which a few points of accuracy on telephone-rate recordings rest
    # on.
    samples = resample_poly(waveform.samples, SAMPLING_RATE // shared, waveform.sampling_rate // shared)
    with torch.inference_mode():
        bands = _FRONT_END.spectrum(torch.tensor(samples, dtype=torch.float32))
        return torch.cat([bands.mean(0), bands.std(0, correction=0)]).numpy()
