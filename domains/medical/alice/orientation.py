"""Between the domain's axes and Alice's.

A `MedicalImage` is indexed by slice (foot to head), row (front to back) and column (right to left); Alice was trained
on RAS+ volumes, indexed by x (left to right), y (back to front) and z (foot to head).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from domains.medical.image import MedicalImage


def to_ras(values: NDArray[Any]) -> NDArray[Any]:
    """Turn ``(..., slices, rows, columns)`` to ``(..., x, y, z)``; a view, without copying."""
    return np.flip(np.swapaxes(values, -3, -1), axis=(-3, -2))


def from_ras(values: NDArray[Any]) -> NDArray[Any]:
    """Turn ``(..., x, y, z)`` to ``(..., slices, rows, columns)``; a view, without copying."""
    return np.swapaxes(np.flip(values, axis=(-3, -2)), -3, -1)


def describe_window(
    start: Sequence[int], roi: Sequence[int], bounds: Sequence[Sequence[int]], image: MedicalImage
) -> dict[str, Any]:
    """Say where in an image a window lies.

    Args:
        start: First voxel of the window along x, y and z, as the model saw the volume.
        roi: Its sides.
        bounds: First voxel of the volume itself, and the one after its last: it may have been resampled, and extended
            to fill a window.
        image: As it was read.

    Returns:
        ``start`` and ``size`` in voxels of the image (slice, row, column), without what was added around it, and
        ``centre`` in millimetres (RAS+), ``None`` without an affine.
    """
    inner, outer = np.asarray(bounds[0]), np.asarray(bounds[1])
    shape = np.asarray(image.values.shape[1:])
    scale = shape[::-1] / (outer - inner)
    low = (np.maximum(start, inner) - inner) * scale
    high = (np.minimum(np.add(start, roi), outer) - inner) * scale
    # Along x and y the image counts the other way.
    low[:2], high[:2] = shape[::-1][:2] - high[:2], shape[::-1][:2] - low[:2]
    low, high = low[::-1], high[::-1]
    first = np.floor(low + 1e-6).astype(int)
    last = np.ceil(high - 1e-6).astype(int)
    centre = None
    if image.affine is not None:
        # Indices count from the middle of the first voxel.
        centre = [round(float(v), 3) for v in (image.affine @ [*((low + high) / 2 - 0.5), 1.0])[:3]]
    return {"start": first.tolist(), "size": (last - first).tolist(), "centre": centre}
