"""The two front ends of TERA: waveform to normalised acoustic frames, one utterance at a time.

Everything here sees one utterance and never a padded batch, so that features do not depend on what else is in
a batch. `reference_batch` is the one exception: it repeats what the published code does to a batch, for
comparing numbers with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-10
KALDI_FLOOR = 1.1920928955078125e-07  # float32 machine epsilon, Kaldi's floor of a mel energy
KALDI_LOWEST = 20.0  # Hz
KALDI_PREEMPHASIS = 0.97
BLOCK_FRAMES = 8_192
"""Frames transformed at a time, which bounds the memory that a long recording takes."""


@dataclass(frozen=True)
class FrontEnd:
    """What turns a waveform to frames; a value, so that two processors with the same settings share filters.

    Attributes:
        kind: ``"mel"`` (log-mel of the level-normalised waveform) or ``"kaldi"`` (Kaldi's log filter bank).
        sampling_rate: Hz.
        n_mels: Mel bands.
        n_fft: FFT length of the mel front end, samples. Kaldi's is the next power of two above the window.
        window: Length of the analysis window, samples.
        hop: Step between frames, samples.
        level: Level to which the mel front end scales an utterance, dB relative to full scale.
        deltas: Orders of regression coefficients appended to the mel bands.
        delta_window: Frames of the regression, an odd number.
        cmvn: Normalise mean and variance of each column over the utterance.
    """

    kind: str = "mel"
    sampling_rate: int = 16_000
    n_mels: int = 80
    n_fft: int = 400
    window: int = 400
    hop: int = 160
    level: float = -25.0
    deltas: int = 0
    delta_window: int = 5
    cmvn: bool = True

    @property
    def dim(self) -> int:
        """Features of a frame."""
        return self.n_mels * (1 + self.deltas)

    @property
    def min_samples(self) -> int:
        """Fewest samples that give the two frames which a variance over time needs."""
        return self.n_fft // 2 + 1 if self.kind == "mel" else self.window + self.hop

    def frames(self, samples: int) -> int:
        """Return how many frames a waveform of so many samples gives."""
        if self.kind == "mel":
            return samples // self.hop + 1
        return max(0, 1 + (samples - self.window) // self.hop)

    def scale(self, waveform: Tensor) -> Tensor:
        """Return the waveform at the level that `spectrum` expects; Kaldi's filter bank takes it as it is."""
        return scale_level(waveform, self.level) if self.kind == "mel" else waveform

    def spectrum(self, scaled: Tensor) -> Tensor:
        """Return log filter-bank energies of a scaled waveform, ``(samples,)`` to ``(frames, n_mels)``."""
        if self.kind == "mel":
            frames = centred_frames(scaled, self.n_fft, self.hop)
            blocks = [self._log_mel(block) for block in frames.split(BLOCK_FRAMES)]
        else:
            frames = scaled.unfold(0, self.window, self.hop)
            blocks = [self._log_kaldi(block) for block in frames.split(BLOCK_FRAMES)]
        return torch.cat(blocks)

    def _log_mel(self, frames: Tensor) -> Tensor:
        filters = mel_filters(self.n_fft, self.n_mels, self.sampling_rate).double()
        return torch.log(power_spectrum(frames, self.window) @ filters + EPSILON).float()

    def _log_kaldi(self, frames: Tensor) -> Tensor:
        power = kaldi_power_spectrum(frames)
        filters = kaldi_filters(2 * (power.shape[1] - 1), self.n_mels, self.sampling_rate).double()
        return torch.log((power @ filters).clamp(min=KALDI_FLOOR)).float()

    def frames_of(self, scaled: Tensor) -> Tensor:
        """Return final features of a waveform that is scaled already (a crop keeps its recording's level)."""
        features = append_deltas(self.spectrum(scaled), self.deltas, self.delta_window)
        return normalise_columns(features) if self.cmvn else features

    def __call__(self, waveform: Tensor) -> Tensor:
        """Return final features, ``(samples,)`` to ``(frames, dim)``, float32."""
        return self.frames_of(self.scale(waveform))


def scale_level(waveform: Tensor, level: float) -> Tensor:
    """Scale a waveform so that its root mean square lies at ``level`` dB; silence stays silence."""
    return waveform * (10 ** (level / 20) / (waveform.square().mean().sqrt() + EPSILON))


def centred_frames(waveform: Tensor, size: int, hop: int) -> Tensor:
    """Return frames centred on every ``hop``-th sample, the ends mirrored.

    ``(samples,)``, more than ``size // 2`` of them, to ``(frames, size)``; a view, for recordings may last an
    hour.
    """
    reach = size // 2
    return F.pad(waveform[None], (reach, reach), mode="reflect")[0].unfold(0, size, hop)


def power_spectrum(frames: Tensor, window: int) -> Tensor:
    """Return the power of each frame under a periodic Hann window in its middle.

    In float64: in quiet bands the rounding of a float32 transform shows after the logarithm.

    Args:
        frames: ``(frames, n_fft)``.
        window: Length of the window, at most ``n_fft``.

    Returns:
        ``(frames, n_fft // 2 + 1)`` float64.
    """
    spare = frames.shape[1] - window
    weights = F.pad(hann_window(window), (spare // 2, spare - spare // 2))
    return torch.fft.rfft(frames.double() * weights).abs().square()


def kaldi_power_spectrum(frames: Tensor) -> Tensor:
    """Return the power of each frame as Kaldi computes it, without dither.

    A frame loses its mean, is pre-emphasised (its first sample as if preceded by itself), weighted with
    Povey's window, and padded to a power of two.

    Args:
        frames: ``(frames, window)``; Kaldi leaves out frames that do not fit whole.

    Returns:
        ``(frames, n_fft // 2 + 1)`` float64.
    """
    frames = frames.double()
    frames = frames - frames.mean(dim=1, keepdim=True)
    previous = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
    frames = (frames - KALDI_PREEMPHASIS * previous) * povey_window(frames.shape[1])
    return torch.fft.rfft(frames, 1 << (frames.shape[1] - 1).bit_length()).abs().square()


def append_deltas(features: Tensor, orders: int, window: int = 5) -> Tensor:
    """Append regression coefficients over time, then those of the coefficients, and so on.

    ``d[t] = sum(n * (c[t + n] - c[t - n])) / (2 * sum(n * n))``, n from 1 to ``window // 2``; edges are
    repeated.

    Args:
        features: ``(frames, columns)``.
        orders: How many orders to append.
        window: Frames of the regression.

    Returns:
        ``(frames, columns * (1 + orders))``.
    """
    reach = window // 2
    norm = 2 * sum(n * n for n in range(1, reach + 1))
    kernel = torch.arange(-reach, reach + 1, dtype=features.dtype) / norm
    parts = [features]
    for _ in range(orders):
        columns = parts[-1].T.unsqueeze(1)  # (columns, 1, frames)
        padded = F.pad(columns, (reach, reach), mode="replicate")
        parts.append(F.conv1d(padded, kernel.view(1, 1, -1)).squeeze(1).T)
    return torch.cat(parts, dim=1)


def normalise_columns(features: Tensor) -> Tensor:
    """Give each column of ``(frames, columns)`` zero mean and unit variance (the unbiased one) over time.

    A column that never changes (digital silence) becomes exactly zero: dividing its rounding error by EPSILON
    would make large numbers of nothing.
    """
    normal = (features - features.mean(dim=0)) / (features.std(dim=0) + EPSILON)
    return torch.where(features.amax(dim=0) == features.amin(dim=0), torch.zeros_like(normal), normal)


def reference_batch(waveforms: Sequence[Tensor], front_end: FrontEnd) -> tuple[Tensor, Tensor]:
    """Featurise a batch as the published code does, where an utterance's features depend on its neighbours.

    Its mel front end pads the scaled waveforms with zeros, transforms the padded batch, and keeps
    ``round(samples * frames / longest)`` frames of each before normalising; its Kaldi front end goes one by
    one. Only for reproducing numbers made with that code.

    Args:
        waveforms: Each ``(samples,)``.
        front_end: The front end to apply.

    Returns:
        ``(batch, frames, dim)`` features, zero where padded, and ``(batch, frames)`` bool mask.
    """
    if front_end.kind == "mel":
        padded = torch.nn.utils.rnn.pad_sequence([front_end.scale(w) for w in waveforms], batch_first=True)
        whole = [append_deltas(front_end.spectrum(w), front_end.deltas, front_end.delta_window) for w in padded]
        per_sample = len(whole[0]) / padded.shape[1]
        features = [f[: round(len(w) * per_sample)] for f, w in zip(whole, waveforms, strict=True)]
        if front_end.cmvn:
            features = [normalise_columns(f) for f in features]
    else:
        features = [front_end(w) for w in waveforms]
    return pad_frames(features)


def pad_frames(features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Pad to the longest: ``(batch, frames, dim)``, and the ``(batch, frames)`` bool mask of real frames."""
    padded = torch.nn.utils.rnn.pad_sequence(list(features), batch_first=True)
    lengths = torch.tensor([len(f) for f in features])
    return padded, torch.arange(padded.shape[1]) < lengths.unsqueeze(1)


@lru_cache(maxsize=8)
def hann_window(length: int) -> Tensor:
    """Return the periodic Hann window, ``(length,)``."""
    with torch.inference_mode(False):
        return torch.hann_window(length)


@lru_cache(maxsize=8)
def povey_window(length: int) -> Tensor:
    """Return Povey's window, a symmetric Hann window to the power 0.85, ``(length,)``."""
    with torch.inference_mode(False):
        return torch.hann_window(length, periodic=False).pow(0.85)


@lru_cache(maxsize=8)
def mel_filters(n_fft: int, n_mels: int, sampling_rate: int) -> Tensor:
    """Return triangular filters on the HTK mel scale up to half the rate, ``(n_fft // 2 + 1, n_mels)``."""
    with torch.inference_mode(False):
        highest = 2595.0 * math.log10(1.0 + sampling_rate / 2 / 700.0)
        edges = 700.0 * (10.0 ** (torch.linspace(0.0, highest, n_mels + 2) / 2595.0) - 1.0)  # Hz
        return _triangles(torch.linspace(0, sampling_rate // 2, n_fft // 2 + 1), edges)


@lru_cache(maxsize=8)
def kaldi_filters(n_fft: int, n_mels: int, sampling_rate: int) -> Tensor:
    """Return Kaldi's filters, triangular on its mel scale, ``(n_fft // 2 + 1, n_mels)``."""
    with torch.inference_mode(False):
        lowest, highest = (1127.0 * math.log(1.0 + f / 700.0) for f in (KALDI_LOWEST, sampling_rate / 2))
        edges = lowest + torch.arange(n_mels + 2) * ((highest - lowest) / (n_mels + 1))  # mel
        hertz = sampling_rate / n_fft * torch.arange(n_fft // 2 + 1)
        return _triangles(1127.0 * (1.0 + hertz / 700.0).log(), edges)


def _triangles(positions: Tensor, edges: Tensor) -> Tensor:
    """Return triangles that rise from one edge to the next and fall to the one after, read at ``positions``.

    In float32 like the filters the published models were trained with: in quiet bands float64 ones differ by
    2e-4 after the logarithm.
    """
    distance = edges - positions.unsqueeze(1)
    widths = edges[1:] - edges[:-1]
    return torch.minimum(-distance[:, :-2] / widths[:-1], distance[:, 2:] / widths[1:]).clamp(min=0)
