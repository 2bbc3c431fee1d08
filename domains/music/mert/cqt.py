"""The constant-Q spectrum that MERT predicts (paper, section 3.2), and that one variant reads.

Magnitudes of the waveform's correlation with windowed complex exponentials of geometrically spaced frequencies, each as
long as so many of its periods (Brown 1991). Conventions of the library that MERT was trained with: Hann windows,
kernels of unit L1 norm, results times the square root of the kernel's length, zeros outside the recording.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from scipy.signal import get_window
from torch import Tensor
from torch.nn import functional as F

LOWEST = 32.7
"""Hz of the first bin: C1, to the digits MERT gives it."""
OCTAVES = 7
SILENCE = 0.01
"""Of the folded spectrum's length, about 60 dB below a tone in a recording of unit variance: there it fades."""


class Kernels(NamedTuple):
    """Neighbouring bins, whose kernels are of similar length.

    Attributes:
        weight: ``(2 * bins, 1, taps)``: real parts, then imaginary parts, centred.
        scale: ``(bins, 1)``: square roots of the lengths.
    """

    weight: Tensor
    scale: Tensor


def bin_frequencies(bins: int) -> np.ndarray:
    """Return the centre frequencies of that many bins over seven octaves, Hz."""
    return LOWEST * 2.0 ** (np.arange(bins) / (bins // OCTAVES))


def kernel_lengths(sampling_rate: int, bins: int) -> np.ndarray:
    """Return the samples of each bin's kernel."""
    quality = 1 / (2 ** (1 / (bins // OCTAVES)) - 1)
    return np.ceil(quality * sampling_rate / bin_frequencies(bins)).astype(int)


@lru_cache(maxsize=8)
def kernels(sampling_rate: int, bins: int, device: torch.device) -> tuple[Kernels, ...]:
    """Return the kernels in groups of half an octave: padding all to the longest would cost six times the work."""
    frequencies, lengths = bin_frequencies(bins), kernel_lengths(sampling_rate, bins)
    size = max(1, bins // OCTAVES // 2)
    groups = []
    for first in range(0, bins, size):
        chosen = range(first, min(first + size, bins))
        half = math.ceil(lengths[first] / 2)
        weight = np.zeros((2, len(chosen), 2 * half), np.float32)
        for row, k in enumerate(chosen):
            start = -math.ceil(lengths[k] / 2)
            time = np.arange(start, start + lengths[k])
            window = get_window("hann", int(lengths[k]), fftbins=True)
            kernel = window / window.sum() * np.exp(2j * np.pi * frequencies[k] / sampling_rate * time)
            weight[:, row, half + start : half + start + lengths[k]] = kernel.real, -kernel.imag
        scale = torch.tensor(np.sqrt(lengths[list(chosen)]), dtype=torch.float32)[:, None]
        taps = torch.from_numpy(weight.reshape(2 * len(chosen), 1, 2 * half))
        groups.append(Kernels(taps.to(device), scale.to(device)))
    return tuple(groups)


def constant_q(waveforms: Tensor, sampling_rate: int, hop: int, bins: int) -> Tensor:
    """Return constant-Q magnitudes, float32 under any autocast.

    Args:
        waveforms: ``(batch, samples)``.
        sampling_rate: Hz.
        hop: Samples between frames; frame t is centred on sample ``t * hop``.
        bins: A multiple of seven, spread over seven octaves.

    Returns:
        ``(batch, samples // hop + 1, bins)``.
    """
    spectra = []
    with torch.autocast(waveforms.device.type, enabled=False):
        signal = waveforms.float().unsqueeze(1)
        for group in kernels(sampling_rate, bins, waveforms.device):
            parts = F.conv1d(F.pad(signal, [group.weight.shape[-1] // 2] * 2), group.weight, stride=hop)
            spectra.append(torch.hypot(*parts.chunk(2, dim=1)) * group.scale)
    return torch.cat(spectra, dim=1).transpose(1, 2)


def folded(magnitudes: Tensor) -> Tensor:
    """Return a constant-Q spectrum with its octaves on top of each other, of unit length in each frame that sounds.

    Args:
        magnitudes: ``(..., bins)``, not compressed, of recordings of unit variance.

    Returns:
        ``(..., bins // 7)``: the root of each pitch class's energy; nothing of the level is left.
    """
    energy = magnitudes.square().unflatten(-1, (OCTAVES, -1)).sum(-2)
    return (energy / (energy.sum(-1, keepdim=True) + SILENCE**2)).sqrt()
