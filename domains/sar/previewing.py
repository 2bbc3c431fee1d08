"""A picture of a SAR image: its amplitude in decibels around its own level, in grey."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from domains.sar.raster import Raster
from hub.drawing import image_file
from hub.modeling import TaskFile
from hub.reading import Sample

SIDE, SMALL_SIDE = 640, 160
"""Most pixels of a side."""
BELOW, ABOVE = 18.0, 12.0
"""Decibels shown on either side of the level, so that an image and its despeckled version look alike."""
STRIP_PIXELS = 4_000_000
"""Read at a time."""
ALL_PIXELS = 64_000_000
"""About so many are read of an image with more: some rows of each of the picture's."""


def preview(sample: Sample, small: bool = False) -> TaskFile:
    """Return a PNG of the first band, large images averaged in intensity; missing pixels are black.

    Args:
        sample: Of the domain's reader.
        small: For a list.
    """
    raster: Raster = sample.data
    power = _reduced(raster.band(0), SMALL_SIDE if small else SIDE)
    present = np.isfinite(power) & (power > 0)
    pixels = np.zeros(power.shape, np.uint8)
    if present.any():
        # Few bright targets carry most of the power of some scenes, and should not darken the rest.
        level = 10 * np.log10(np.mean(power[present & (power <= np.quantile(power[present], 0.95))]))
        shade = (10 * np.log10(power[present]) - level + BELOW) / (BELOW + ABOVE)
        pixels[present] = np.round(8 + 247 * shade.clip(0, 1))
    factor = (SMALL_SIDE if small else SIDE) // max(power.shape)
    if factor > 1:
        enlarged = (factor * power.shape[1], factor * power.shape[0])
        pixels = np.asarray(Image.fromarray(pixels).resize(enlarged, Image.Resampling.NEAREST))
    return image_file(pixels)


def _reduced(band: Raster, side: int) -> NDArray[np.float64]:
    """Return mean intensities ``(rows, columns)`` of at most ``side`` each, NaN where there is no data."""
    rows, columns = band.shape[1:]
    step = -(-max(rows, columns) // side)
    strip = taken = max(step, STRIP_PIXELS // columns // step * step)
    if rows * columns > ALL_PIXELS:
        strip, taken = step, max(1, step * ALL_PIXELS // (rows * columns))
    parts = []
    for top in range(0, rows, strip):
        values = band.read(slice(top, min(top + taken, rows)), slice(0, columns))
        amplitude = band.amplitude(values)[0].astype(np.float64)
        amplitude[~band.valid(values)[0]] = np.nan
        parts.append(_means(np.square(amplitude), step))
    return np.concatenate(parts)


def _means(power: NDArray[np.float64], step: int) -> NDArray[np.float64]:
    """Return the mean of the data in each square of ``step`` pixels, smaller at the far ends."""
    present = np.isfinite(power)
    starts = [np.arange(0, side, step) for side in power.shape]
    total, count = (
        np.add.reduceat(np.add.reduceat(part, starts[0], axis=0), starts[1], axis=1)
        for part in (np.where(present, power, 0.0), present.astype(np.float64))
    )
    with np.errstate(invalid="ignore"):
        return np.where(count > 0, total / count, np.nan)
