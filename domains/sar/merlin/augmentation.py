"""One real image as many: changes of a complex patch that leave its two parts independent.

A real gain for each pixel, a real and symmetric filter, a constant phase and the symmetries of the square all keep the
parts of fully developed speckle independent at every lag, so the likelihood of one given the other stays as true as it
was.
"""

from __future__ import annotations

import torch
from torch import Tensor

TEXTURE = (0.5, 8.0)
"""Shortest and longest correlation length of a texture laid over a patch, pixels."""


def modulated(patches: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Give each patch further content: a random texture and a straight edge, multiplied onto its amplitude.

    One image shows few kinds of ground. Speckle stays the sensor's own.

    Args:
        patches: ``(batch, rows, columns)`` complex.
        strength: Standard deviation, over patches, of the contrast of texture and edge, in natural logarithms of
            amplitude.
        generator: Source of the draws.
    """
    batch, rows, columns = patches.shape
    down, across = torch.fft.fftfreq(rows)[:, None], torch.fft.fftfreq(columns)
    shortest, longest = TEXTURE
    length = shortest * (longest / shortest) ** torch.rand(batch, 1, 1, generator=generator)
    smoothing = torch.exp(-2 * (torch.pi * length).square() * (down.square() + across.square()))
    texture = torch.fft.ifft2(torch.fft.fft2(torch.randn(patches.shape, generator=generator)) * smoothing).real
    texture = texture / texture.std((1, 2), keepdim=True)
    angle = torch.pi * torch.rand(batch, 1, 1, generator=generator)
    place = torch.linspace(-1, 1, rows)[:, None] * angle.cos() + torch.linspace(-1, 1, columns) * angle.sin()
    edge = (place > 2 * torch.rand(batch, 1, 1, generator=generator) - 1).float()
    contrast = strength * torch.randn(2, batch, 1, 1, generator=generator)
    gain = (contrast[0] * texture + 2 * contrast[1] * edge).exp()
    return patches * gain / gain.square().mean((1, 2), keepdim=True).sqrt()


def weighted(patches: Tensor, bandwidth: Tensor, hamming: Tensor) -> Tensor:
    """Give each patch the system response of another processor: a Hamming window over part of the spectrum.

    The correlation of speckle over neighbouring pixels, which a network learns to look through, is that of the
    response. Power is kept.

    Args:
        patches: ``(batch, rows, columns)`` complex, with centred spectra.
        bandwidth: ``(batch, 2)``, for azimuth and range, the share of the sampling frequency that passes.
        hamming: ``(batch, 2)``, the window's constant part; 1 is a plain box, 0.54 the textbook's window.
    """
    spectrum = torch.fft.fft2(patches)
    for axis, length in enumerate(patches.shape[1:]):
        share, constant = bandwidth[:, axis, None], hamming[:, axis, None]
        frequency = torch.fft.fftfreq(length, device=patches.device)
        window = constant + (1 - constant) * torch.cos(2 * torch.pi * frequency / share)
        window = torch.where(frequency.abs() <= share / 2, window, 0)
        spectrum = spectrum * window.unsqueeze(2 - axis)
    changed = torch.fft.ifft2(spectrum)
    tiny = torch.finfo(torch.float32).tiny
    power, kept = (p.abs().square().mean((1, 2), keepdim=True).clamp(min=tiny) for p in (patches, changed))
    return changed * (power / kept).sqrt()


def turned(patches: Tensor, valid: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Turn and mirror square patches alike in one of eight ways, and turn the phase of each by an angle of its own.

    Args:
        patches: ``(batch, side, side)`` complex.
        valid: Which pixels hold data, same shape.
        generator: Source of the draws.
    """
    way = int(torch.randint(8, (), generator=generator))
    patches, valid = (p.rot90(way % 4, (1, 2)) for p in (patches, valid))
    if way >= 4:
        patches, valid = patches.flip(1), valid.flip(1)
    angle = 2 * torch.pi * torch.rand(len(patches), 1, 1, generator=generator)
    return patches * torch.polar(torch.ones_like(angle), angle), valid
