"""Random views of an image: crop, flip, contrast, blur; and where the cells of a view lie in the whole image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as images

TRIES = 10
"""Draws of a crop's shape before the whole image is taken, as torchvision does."""


@dataclass(frozen=True)
class Augmentation:
    """How views are drawn; probabilities and ranges.

    Attributes:
        size: Side of a view, pixels.
        scale: Smallest and largest share of the image's area in a crop.
        ratio: Smallest and largest quotient of a crop's width and height, in shares of the image's.
        flip: Probability of a horizontal flip.
        jitter: Probability of another contrast.
        brightness: Largest relative change of the brightness.
        contrast: Of the contrast.
        saturation: Of a colour image's saturation.
        hue: Largest shift of its hue, turns.
        gamma: Largest factor of the exponent of a gamma curve, or its inverse; 1 for no such curve.
        grey: Probability that a colour image loses its colour.
        blur: Probability of a Gaussian blur.
        sigma: Smallest and largest width of the blur, pixels of a view of 224; of smaller views in proportion.
        noise: Largest standard deviation of white noise, of the range of values; drawn evenly from 0.
    """

    size: int
    scale: tuple[float, float] = (0.4, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.8
    contrast: float = 0.8
    saturation: float = 0.8
    hue: float = 0.2
    gamma: float = 1.0
    grey: float = 0.2
    blur: float = 0.5
    sigma: tuple[float, float] = (0.1, 2.0)
    noise: float = 0.0

    def draw(self, image: Tensor, side: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Return a view and where its cells lie.

        Args:
            image: ``(channels, rows, columns)`` in the range 0 to 1.
            side: Cells along a side of the encoder's map of a view.
            generator: Where all randomness comes from.

        Returns:
            ``(channels, size, size)``, and ``(side * side, 2)`` the centre of each cell in the image: row and column as
            shares of its height and width.
        """
        top, left, height, width = self._crop(generator)
        rows, columns = image.shape[1:]
        box = (round(top * rows), round(left * columns), max(1, round(height * rows)), max(1, round(width * columns)))
        view = image[:, box[0] : box[0] + box[2], box[1] : box[1] + box[3]]
        view = F.interpolate(view[None], size=(self.size, self.size), mode="bilinear", antialias=True)[0]
        flipped = _chance(self.flip, generator)
        if flipped:
            view = view.flip(2)
        return self._alter(view, generator), places(top, left, height, width, side, flipped)

    def _crop(self, generator: Generator) -> tuple[float, float, float, float]:
        """Draw top, left, height and width as shares of the image."""
        for _ in range(TRIES):
            area = _between(*self.scale, generator)
            aspect = math.exp(_between(math.log(self.ratio[0]), math.log(self.ratio[1]), generator))
            height, width = math.sqrt(area / aspect), math.sqrt(area * aspect)
            if height <= 1 and width <= 1:
                return _between(0, 1 - height, generator), _between(0, 1 - width, generator), height, width
        return 0.0, 0.0, 1.0, 1.0

    def _alter(self, view: Tensor, generator: Generator) -> Tensor:
        colour = len(view) == 3
        if _chance(self.jitter, generator):
            view = images.adjust_brightness(view, _factor(self.brightness, generator))
            view = images.adjust_contrast(view, _factor(self.contrast, generator))
            if colour:
                view = images.adjust_saturation(view, _factor(self.saturation, generator))
                view = images.adjust_hue(view, _between(-self.hue, self.hue, generator))
        if self.gamma > 1:
            view = view.clamp(0, 1) ** (self.gamma ** _between(-1, 1, generator))
        if colour and _chance(self.grey, generator):
            view = images.rgb_to_grayscale(view, num_output_channels=3)
        if _chance(self.blur, generator):
            sigma = _between(*self.sigma, generator) * self.size / 224
            view = images.gaussian_blur(view, kernel_size=2 * math.ceil(3 * sigma) + 1, sigma=[sigma, sigma])
        if self.noise:
            view = view + _between(0, self.noise, generator) * torch.randn(view.shape, generator=generator)
        return view.clamp(0, 1)


def places(top: float, left: float, height: float, width: float, side: int, flipped: bool = False) -> Tensor:
    """Return where the centres of a view's cells lie in the image.

    Args:
        top: First row of the crop, in whatever unit the result shall have.
        left: First column.
        height: Of the crop.
        width: Of the crop.
        side: Cells along each side of the map.
        flipped: Whether the view is mirrored. (The released code leaves the grid as it is then, by default.)

    Returns:
        ``(side * side, 2)`` row and column, the cells in the order of the map.
    """
    steps = (torch.arange(side) + 0.5) / side
    rows, columns = top + steps * height, left + steps * width
    if flipped:
        columns = columns.flip(0)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)


def _between(low: float, high: float, generator: Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _chance(probability: float, generator: Generator) -> bool:
    return float(torch.rand((), generator=generator)) < probability


def _factor(change: float, generator: Generator) -> float:
    return _between(max(0.0, 1 - change), 1 + change, generator)
