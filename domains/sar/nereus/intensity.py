"""From an image to what Nereus sees: power, averaged down, in decibels, resized.

The order matters (Corley et al. 2024, "Revisiting pre-trained remote sensing model benchmarks: resizing and
normalization matters"): speckle averages to the mean in power alone, so images shrink in power and grow in decibels.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from domains.sar.raster import Raster
from hub.errors import InvalidInput

STRIP_PIXELS = 1 << 24
"""Pixels of a large scene that are held at once while it is averaged down."""

FAINTEST, BRIGHTEST = 1e-30, 1e30
"""Powers that decibels are taken of, at least and at most, lest one be infinite; far beyond any clip."""


def centred(length: int, wanted: int) -> slice:
    """Return the ``wanted`` central elements of a side, all of them where it is shorter or 0 is wanted."""
    if not 0 < wanted < length:
        return slice(0, length)
    first = (length - wanted) // 2
    return slice(first, first + wanted)


def read_power(image: Raster, crop: int, at_least: int) -> tuple[NDArray[np.float64], float]:
    """Read the power of a one-band image, large ones averaged down by whole factors as they are read.

    Args:
        image: One band, of any quantity.
        crop: Side of the centre crop, pixels; 0 for all.
        at_least: Sides of the result are at least this long, as far as the image is.

    Returns:
        ``(rows, columns)`` float64 power; and the share of pixels without data. Pixels that are marked as missing take
        the mean of the others. Empty areas of exact zeros stay zero, because in 8-bit chips they are radar shadow; that
        mean leaves them out.

    Raises:
        InvalidInput: The values contradict what they are said to be, or none of them is there.
    """
    rows, columns = (centred(length, crop) for length in image.shape[1:])
    height, width = rows.stop - rows.start, columns.stop - columns.start
    factor = max(1, min(height, width) // at_least)
    strip = factor * max(1, STRIP_PIXELS // (width * factor))
    height, width = height - height % factor, width - width % factor
    sums: list[NDArray[np.float64]] = []
    counts: list[NDArray[np.int64]] = []
    there = 0
    for first in range(0, height, strip):
        last = min(first + strip, height)
        values = image.read(slice(rows.start + first, rows.start + last), columns)[:, :, :width]
        valid = image.valid(values)[0]
        if image.quantity in ("amplitude", "intensity") and bool((values[0] < 0).any(where=valid)):
            raise InvalidInput(
                f"an {image.quantity} image has negative values, which look like decibels; say what they are, or "
                "convert them before",
                code="wrong_scale",
            )
        with np.errstate(invalid="ignore"):
            power = np.square(image.amplitude(values)[0].astype(np.float64))
        blocks = (-1, factor, width // factor, factor)
        sums.append(np.where(valid, power, 0.0).reshape(blocks).sum((1, 3)))
        counts.append((valid | (values[0] == 0)).reshape(blocks).sum((1, 3)))
        there += int(valid.sum())
    total, count = np.concatenate(sums), np.concatenate(counts)
    if not there or not total.any():
        raise InvalidInput("the image holds no signal: its pixels are zero or missing", code="no_signal")
    mean = total.sum() / there
    filled = np.where(count > 0, total / np.maximum(count, 1), mean)
    return filled, 1 - there / (height * width)


def decibels(power: Tensor) -> Tensor:
    """Return power in decibels, same shape."""
    return 10 * torch.log10(power.clamp(min=FAINTEST))


def shrink(power: Tensor, side: int) -> Tensor:
    """Average ``(rows, columns)`` power down to at most ``side`` on each axis; shorter axes stay."""
    size = [min(length, side) for length in power.shape]
    if size == list(power.shape):
        return power
    return F.interpolate(power[None, None], size, mode="bilinear", antialias=True, align_corners=False)[0, 0]


def grow(levels: Tensor, side: int) -> Tensor:
    """Interpolate ``(rows, columns)`` decibels up to ``(side, side)``."""
    if list(levels.shape) == [side, side]:
        return levels
    return F.interpolate(levels[None, None], (side, side), mode="bilinear", align_corners=False)[0, 0]
