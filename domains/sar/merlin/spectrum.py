"""Centring a tile's spectrum, without which its real and imaginary parts are not independent.

A symmetric, real transfer function makes the two parts of fully developed speckle independent at every lag (Dalsasso,
Denis, Tupin 2022, section II). A Doppler centroid off zero, or a range band off its centre, breaks that; rolling the
spectrum in frequency is a phase ramp in space, so amplitudes stay as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor

WIDTH = 0.2
"""Standard deviation of the window that tells a centred profile from one rolled by half its length, in lengths."""


def centring_shift(profile: Tensor) -> Tensor:
    """Return by how many bins each profile is to be rolled.

    Args:
        profile: ``(batch, bins)``, mean magnitude of the spectrum along one axis, zero frequency in the middle.

    Returns:
        ``(batch,)`` int64. Of the two rolls that make a profile as symmetric as it can be, the one that has its
        power in the middle.
    """
    bins = profile.shape[-1]
    mirrored = torch.fft.fft(profile.flip(-1))
    correlation = torch.fft.ifft(torch.fft.fft(profile) * mirrored.conj()).real
    lag = correlation.argmax(-1).to(torch.float64)
    # Half-way cases round to even, as in the published code.
    candidates = [(-(lag - 1 - turn) / 2).round().remainder(bins) + bins // 2 for turn in (0, bins)]
    places = torch.arange(bins, device=profile.device, dtype=torch.float64)
    window = torch.exp(-0.5 * ((places - (bins - 1) / 2) / (WIDTH * bins)).square())
    scores = [(_rolled(profile, c.long(), -1) * window).sum(-1) for c in candidates]
    chosen = torch.where(scores[0] >= scores[1], candidates[0], candidates[1])
    return (chosen / bins * bins).long()


def symmetrise(tiles: Tensor) -> Tensor:
    """Centre the spectrum of each tile in azimuth, then in range.

    Args:
        tiles: ``(batch, rows, columns)`` complex.

    Returns:
        The same shape and type; magnitudes are unchanged up to rounding.
    """
    spectrum = torch.fft.fftshift(torch.fft.fft2(tiles.to(torch.complex128)), dim=(-2, -1))
    for axis, other in ((-2, -1), (-1, -2)):
        spectrum = _rolled(spectrum, centring_shift(spectrum.abs().mean(other)), axis)
    return torch.fft.ifft2(torch.fft.ifftshift(spectrum, dim=(-2, -1))).to(tiles.dtype)


def _rolled(values: Tensor, shifts: Tensor, axis: int) -> Tensor:
    """Roll each item of a batch by its own shift along one axis."""
    length = values.shape[axis]
    places = (torch.arange(length, device=values.device) - shifts.unsqueeze(-1)).remainder(length)
    if values.ndim == 3:
        places = places.unsqueeze(-1 if axis == -2 else -2).expand(values.shape)
    return values.gather(axis, places)
