"""EEGFormer's front end: windows of a signal to normalised spectra, cut to the pieces that become tokens."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SPECTRA = ("amplitude", "log_amplitude", "complex")
SCOPES = ("window", "frame")
AXES = ("frequency", "time")
TAPERS = ("none", "hann")
LOG_FLOOR = 1e-8
"""What an amplitude of exactly zero counts as before the logarithm."""


def spectrum(signal: NDArray[np.float64], kind: str = "amplitude") -> NDArray[np.float64]:
    """Return the first half of the bins of the real FFT, DC among them and the Nyquist frequency not.

    Args:
        signal: ``(..., samples)``.
        kind: One of `SPECTRA`; ``log_amplitude`` is the natural logarithm.

    Returns:
        ``(..., samples // 2, parts)``; two parts, real and imaginary, for ``complex``, else one.
    """
    bins = np.fft.rfft(signal)[..., : signal.shape[-1] // 2]
    if kind == "complex":
        return np.stack([bins.real, bins.imag], axis=-1)
    amplitude = np.abs(bins)[..., None]
    return np.log(np.where(amplitude == 0, LOG_FLOOR, amplitude)) if kind == "log_amplitude" else amplitude


def instance_norm(values: Tensor, eps: float, dims: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise over the last axes, with the biased variance.

    Args:
        values: ``(..., *normalised)``.
        eps: Added to the variance.
        dims: How many axes are normalised over.

    Returns:
        Values of mean 0 and variance 1; the mean and the standard deviation that were removed, ``(...)``.
    """
    over = tuple(range(-dims, 0))
    variance, mean = torch.var_mean(values, dim=over, correction=0, keepdim=True)
    deviation = (variance + eps).sqrt()
    return (values - mean) / deviation, mean.flatten(-dims).squeeze(-1), deviation.flatten(-dims).squeeze(-1)


def patches(values: Tensor, size: int, stride: int) -> Tensor:
    """Cut a sequence to overlapping patches, the end padded by its last value ``stride`` times (as PatchTST does).

    Args:
        values: ``(..., length, parts)``.
        size: Steps in a patch; at most ``length + stride``.
        stride: Steps from one patch to the next.

    Returns:
        ``(..., (length - size) // stride + 2, size * parts)``.
    """
    end = values[..., -1:, :].expand(*values.shape[:-2], stride, values.shape[-1])
    cut = torch.cat([values, end], dim=-2).unfold(-2, size, stride)
    return cut.transpose(-1, -2).flatten(-2)


@dataclass(frozen=True)
class Spectra:
    """Spectra of the channels of some windows, cut to tokens. A row is a sequence that is encoded by itself.

    Attributes:
        values: ``(rows, tokens, values)`` float32; rows in the order of windows, then frames (where the tokens run
            along the frequencies of single frames), then channels.
        amplitude: ``(rows, 2)`` float32: what the instance normalisation removed, the logarithms of mean and standard
            deviation of the amplitudes (of their logarithms: mean, and logarithm of the standard deviation).
    """

    values: Tensor
    amplitude: Tensor


@dataclass(frozen=True)
class FrontEnd:
    """How a signal becomes tokens. The paper leaves most of it open: every choice is a field.

    Attributes:
        sampling_rate: Hz of the signal.
        window_seconds: Length of a window.
        spectrum: One of `SPECTRA`.
        fft_scope: ``window`` (one transform of the whole window: the paper's patches need one long frequency axis) or
            ``frame`` (short transforms, from which a moment in time can be told).
        frame_seconds: Length of a frame.
        frame_stride_seconds: From one frame to the next.
        taper: ``none``, or ``hann``, which keeps drifts and mains out of other bins; with it each frame's mean and
            linear trend are removed before.
        freq_min: Hz; lowest bin kept.
        freq_max: Hz; highest bin kept.
        token_axis: ``frequency`` (a token is a patch of neighbouring bins) or ``time`` (a token is a frame).
        patch_size: Bins in a patch, for the frequency axis.
        stride: Bins from one patch to the next.
        instance_norm_eps: Added to the variance of a channel's spectrum.
    """

    sampling_rate: float = 250.0
    window_seconds: float = 12.0
    spectrum: str = "amplitude"
    fft_scope: str = "window"
    frame_seconds: float = 2.0
    frame_stride_seconds: float = 0.5
    taper: str = "none"
    freq_min: float = 0.0
    freq_max: float = 100.0
    token_axis: str = "frequency"
    patch_size: int = 32
    stride: int = 32
    instance_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        """Raise ValueError on the first choice that cannot be."""
        for name, known in (("spectrum", SPECTRA), ("fft_scope", SCOPES), ("token_axis", AXES), ("taper", TAPERS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r}: choose one of {', '.join(known)}")
        if self.token_axis == "time" and self.fft_scope == "window":
            raise ValueError("token_axis='time' needs fft_scope='frame': one transform of a window has no time axis")
        for name in ("sampling_rate", "window_seconds", "patch_size", "stride", "instance_norm_eps"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)}: must be above 0")
        if not 0 < self.frame_seconds <= self.window_seconds or self.frame_stride_seconds <= 0:
            raise ValueError("frames must be longer than 0 s, at most as long as a window, and move on")
        if not 0 <= self.freq_min < self.freq_max:
            raise ValueError(f"freq_min={self.freq_min} and freq_max={self.freq_max}: need 0 <= freq_min < freq_max")
        if self.bins < 2 or (self.token_axis == "frequency" and self.patch_size > self.bins):
            raise ValueError(
                f"{self.bins} bins from {self.freq_min} to {self.freq_max} Hz are fewer than a token takes"
            )

    @property
    def transformed(self) -> int:
        """Samples in one transform."""
        seconds = self.window_seconds if self.fft_scope == "window" else self.frame_seconds
        return max(1, round(seconds * self.sampling_rate))

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return max(1, round(self.frame_stride_seconds * self.sampling_rate))

    @cached_property
    def frequencies(self) -> NDArray[np.float64]:
        """Hz of the bins that are kept, ascending."""
        all_bins = np.arange(self.transformed // 2, dtype=np.float64) * (self.sampling_rate / self.transformed)
        # A bin is not lost to the rounding of its frequency.
        slack = 1e-6 * self.sampling_rate / self.transformed
        return all_bins[(all_bins >= self.freq_min - slack) & (all_bins <= self.freq_max + slack)]

    @property
    def bins(self) -> int:
        """Bins that are kept."""
        return len(self.frequencies)

    @property
    def parts(self) -> int:
        """Numbers a bin."""
        return 2 if self.spectrum == "complex" else 1

    @property
    def values(self) -> int:
        """Numbers a token holds."""
        return self.parts * (self.bins if self.token_axis == "time" else self.patch_size)

    @property
    def shortest(self) -> float:
        """Seconds that a window must have at least."""
        return self.transformed / self.sampling_rate

    def frames(self, samples: int) -> int:
        """Return the number of transforms in a window of so many samples."""
        return 1 if self.fft_scope == "window" else (samples - self.transformed) // self.hop + 1

    def rows_and_tokens(self, samples: int) -> tuple[int, int]:
        """Return the rows of one channel of a window of so many samples, and the tokens in each."""
        frames = self.frames(samples)
        if self.token_axis == "time":
            return 1, frames
        return frames, (self.bins - self.patch_size) // self.stride + 2

    @property
    def tokens(self) -> int:
        """Tokens in a row of a full window."""
        return self.rows_and_tokens(round(self.window_seconds * self.sampling_rate))[1]

    def token_span(self, token: int) -> tuple[float, float]:
        """Return where a token lies: seconds after the window's beginning (time axis), or Hz."""
        if self.token_axis == "time":
            start = token * self.hop / self.sampling_rate
            return start, start + self.transformed / self.sampling_rate
        first = min(token * self.stride, self.bins - 1)
        last = min(first + self.patch_size, self.bins) - 1
        return float(self.frequencies[first]), float(self.frequencies[last])

    def raw(self, windows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return spectra before normalisation.

        Args:
            windows: ``(..., samples)``, of at least ``shortest`` seconds; for one transform a window, of exactly that.

        Returns:
            ``(..., frames, bins, parts)``.
        """
        signal = windows[..., None, :]
        if self.fft_scope == "frame":
            signal = np.lib.stride_tricks.sliding_window_view(windows, self.transformed, axis=-1)[..., :: self.hop, :]
        if self.taper == "hann":
            from scipy.signal import detrend, get_window

            signal = detrend(signal, axis=-1) * get_window("hann", self.transformed)
        first = round(float(self.frequencies[0]) * self.transformed / self.sampling_rate)
        return spectrum(signal, self.spectrum)[..., first : first + self.bins, :]

    def __call__(self, windows: NDArray[np.float64]) -> Spectra:
        """Return the tokens of some windows.

        Each channel of a window is normalised by itself, over all its frames and bins.

        Args:
            windows: ``(windows, channels, samples)``, microvolts.
        """
        values, mean, deviation = instance_norm(torch.from_numpy(self.raw(windows)), self.instance_norm_eps, dims=3)
        level = mean if self.spectrum == "log_amplitude" else mean.abs().clamp(min=LOG_FLOOR).log()
        amplitude = torch.stack([level, deviation.log()], dim=-1)
        if self.token_axis == "time":
            rows = values.flatten(3).flatten(0, 1)
        else:
            # (windows, channels, frames, ...) to rows by window, frame, channel.
            rows = patches(values, self.patch_size, self.stride).transpose(1, 2).flatten(0, 2)
            amplitude = amplitude[:, None].expand(-1, values.shape[2], -1, -1)
        return Spectra(rows.float(), amplitude.reshape(-1, 2).float())
