"""Random views of a SAR image: crops, speckle, smoothing and gain in place of the colour changes of photographs.

Everything random comes from the given generator. Speckle multiplies power; smoothing averages it, as more looks would;
gain and contrast act on decibels. Mirroring is along the azimuth alone, since the radar looks from one side: mirrored
in range, a shadow would fall towards it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from domains.sar.nereus.intensity import decibels, grow, shrink

TRIES = 10
"""Draws of a crop's shape before the largest centred one of the image's own shape is taken."""


@dataclass(frozen=True)
class View:
    """How one kind of view is drawn.

    Attributes:
        size: Side of the view, pixels.
        scale: Smallest and largest share of the image's area.
        mirror: Probability of mirroring columns, which are taken to lie along the azimuth.
        speckle: Probability of more speckle.
        looks: Smallest and largest number of looks of that speckle.
        smooth: Probability of smoothing.
        blur: Smallest and largest standard deviation of the smoothing, pixels of the view.
        gain: Standard deviation of the added level, dB.
        contrast: Largest relative change of the levels' spread around their mean.
    """

    size: int
    scale: tuple[float, float]
    mirror: float
    speckle: float
    looks: tuple[int, int]
    smooth: float
    blur: tuple[float, float]
    gain: float
    contrast: float

    def draw(self, power: Tensor, generator: Generator) -> Tensor:
        """Return one view in decibels, ``(size, size)``.

        Args:
            power: ``(rows, columns)``.
            generator: Decides everything.
        """
        rows, columns = random_box(power.shape[0], power.shape[1], self.scale, generator)
        patch = power[rows, columns]
        if _chance(self.mirror, generator):
            patch = patch.flip(1)
        patch = shrink(patch, self.size)
        if _chance(self.speckle, generator):
            looks = int(torch.randint(self.looks[0], self.looks[1] + 1, (), generator=generator))
            patch = patch * speckle(patch.shape, looks, generator)
        if _chance(self.smooth, generator):
            patch = gaussian(patch, _between(*self.blur, generator))
        levels = grow(decibels(patch), self.size)
        mean = levels.mean()
        factor = 1 + self.contrast * _between(-1, 1, generator)
        return mean + factor * (levels - mean) + self.gain * float(torch.randn((), generator=generator))


def random_box(height: int, width: int, scale: tuple[float, float], generator: Generator) -> tuple[slice, slice]:
    """Return rows and columns of a random crop of 3:4 to 4:3 shape.

    Args:
        height: Of the image.
        width: Of the image.
        scale: Smallest and largest share of its area.
        generator: Decides.
    """
    for _ in range(TRIES):
        area = height * width * _between(*scale, generator)
        ratio = math.exp(_between(math.log(3 / 4), math.log(4 / 3), generator))
        rows, columns = max(1, round(math.sqrt(area / ratio))), max(1, round(math.sqrt(area * ratio)))
        if rows <= height and columns <= width:
            top = int(torch.randint(height - rows + 1, (), generator=generator))
            left = int(torch.randint(width - columns + 1, (), generator=generator))
            return slice(top, top + rows), slice(left, left + columns)
    share = math.sqrt(scale[1])
    rows, columns = max(1, round(height * share)), max(1, round(width * share))
    top, left = (height - rows) // 2, (width - columns) // 2
    return slice(top, top + rows), slice(left, left + columns)


def speckle(shape: torch.Size, looks: int, generator: Generator) -> Tensor:
    """Return multiplicative speckle of mean 1 and variance ``1 / looks``, white: the mean of so many exponentials."""
    return torch.empty(looks, *shape).exponential_(generator=generator).mean(0)


def gaussian(image: Tensor, sigma: float) -> Tensor:
    """Smooth ``(rows, columns)`` with a Gaussian of this standard deviation in pixels; its mean stays, but at edges."""
    reach = min(math.ceil(3 * sigma), min(image.shape) - 1)
    if reach < 1:
        return image
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma).square())
    kernel = kernel / kernel.sum()
    padded = F.pad(image[None, None], [reach] * 4, mode="reflect")
    return F.conv2d(F.conv2d(padded, kernel[None, None, None, :]), kernel[None, None, :, None])[0, 0]


def _chance(probability: float, generator: Generator) -> bool:
    return float(torch.rand((), generator=generator)) < probability


def _between(low: float, high: float, generator: Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))
