"""A mild change of a SAR image that keeps its scene: its borders, its direction of view, and some more speckle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from domains.sar.raster import ArrayPixels, Raster
from hub.reading import Sample

KEPT = 0.85
"""Least share of each side that is kept."""
SMALLEST = 64
"""Pixels below which a side is not cut."""
LARGEST = 512
"""Pixels of a side that are looked at, in the middle of a larger image."""
LOOKS = 25.0
"""Of the speckle that is multiplied on the power: far less than the image has of its own."""


def augment(sample: Sample, generator: torch.Generator) -> Sample:
    """Return the middle of an image, cut a little, perhaps mirrored in both directions, with faint speckle."""
    raster: Raster = sample.data
    parts: list[slice] = []
    for size in raster.shape[1:]:
        side = min(size, LARGEST)
        draws = torch.rand(2, generator=generator).tolist()
        length = side if side * KEPT < SMALLEST else round(side * (KEPT + (1 - KEPT) * draws[0]))
        first = (size - side) // 2 + round((side - length) * draws[1])
        parts.append(slice(first, first + length))
    values = raster.read(parts[0], parts[1])
    for axis in (1, 2):
        if float(torch.rand((), generator=generator)) < 0.5:
            values = np.flip(values, axis=axis)
    seed = int(torch.randint(2**31, (), generator=generator))
    power = np.random.default_rng(seed).gamma(LOOKS, 1 / LOOKS, values.shape).astype(np.float32)
    values = _with_speckle(values, power, raster.quantity)
    return replace(sample, data=replace(raster, pixels=ArrayPixels(np.ascontiguousarray(values)), georeference=None))


def _with_speckle(values: np.ndarray, power: np.ndarray, quantity: str) -> np.ndarray:
    if quantity == "intensity":
        return values * power
    if quantity == "decibel":
        return values + np.float32(10) * np.log10(power)
    return values * np.sqrt(power)
