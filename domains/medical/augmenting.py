"""A mild change of an image that keeps what it shows: its borders, its contrast, and faint noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from domains.medical.image import MedicalImage
from hub.reading import Sample

KEPT = 0.9
"""Least share of each side that is kept."""
SMALLEST = 16
"""Voxels below which a side is not cut."""
CONTRAST = 0.1
"""Largest relative change of the values' distance from the lowest."""
NOISE = 0.01
"""Deviation of the noise beside that of the image."""


def augment(sample: Sample, generator: torch.Generator) -> Sample:
    """Return an image cut a little at its borders, with a little more or less contrast and faint noise.

    It is not turned or mirrored: organs lie on their sides.
    """
    image: MedicalImage = sample.data
    values = image.values
    for axis in (1, 2, 3):
        size = values.shape[axis]
        draws = torch.rand(2, generator=generator).tolist()
        if size * KEPT < SMALLEST:
            continue
        length = round(size * (KEPT + (1 - KEPT) * draws[0]))
        first = round((size - length) * draws[1])
        values = values.take(range(first, first + length), axis=axis)
    low, contrast = values.min(), 1 + CONTRAST * (2 * float(torch.rand((), generator=generator)) - 1)
    noise = torch.randn(values.shape, generator=generator).numpy() * np.float32(NOISE * values.std(dtype=np.float64))
    changed = low + np.float32(contrast) * (values - low) + noise
    # The place of the first voxel in the patient is no longer right, and no model reads it.
    return replace(sample, data=replace(image, values=changed.astype(np.float32)))
