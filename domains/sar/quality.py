"""How good a despeckled image is, and the classical filters that it is held against."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

Image = NDArray[np.floating]


def boxcar(intensity: Image, side: int) -> Image:
    """Return the mean intensity of a square window, mirrored at the borders."""
    return uniform_filter(intensity.astype(np.float64), side, mode="mirror")


def lee(intensity: Image, side: int, looks: float = 1.0) -> Image:
    """Return Lee's local linear estimate of the reflectivity (Lee, IEEE PAMI 2, 1980).

    Args:
        intensity: ``(rows, columns)``.
        side: Of the window that mean and variance are taken from, pixels.
        looks: Of the image; speckle has the variance mean^2 / looks.
    """
    mean = boxcar(intensity, side)
    variance = boxcar(np.square(intensity, dtype=np.float64), side) - mean**2
    speckle = mean**2 / looks
    weight = np.clip(variance - speckle, 0, None) / np.maximum((1 + 1 / looks) * variance, np.finfo(float).tiny)
    return mean + weight * (intensity - mean)


def psnr(reference: Image, estimate: Image) -> float:
    """Return the peak signal-to-noise ratio of amplitudes, dB; the peak is the reference's 99 % quantile."""
    peak = np.quantile(reference, 0.99)
    error = np.square(np.subtract(reference, estimate, dtype=np.float64)).mean()
    return float(10 * np.log10(peak**2 / error))


def equivalent_looks(intensity: Image) -> float:
    """Return the equivalent number of looks of a homogeneous area: mean^2 / variance of the intensity."""
    return float(np.square(intensity.mean(dtype=np.float64)) / intensity.var(dtype=np.float64))


def homogeneous_areas(intensity: Image, side: int = 24, count: int = 10) -> list[tuple[slice, slice]]:
    """Return the squares with the least relative variance, side by side at most, best first.

    Chosen on an image that is to be measured itself, they flatter it: choose them on another one.
    """
    rows, columns = (n // side for n in intensity.shape)
    blocks = intensity[: rows * side, : columns * side].reshape(rows, side, columns, side).swapaxes(1, 2)
    relative = blocks.var((2, 3)) / np.square(blocks.mean((2, 3)))
    best = np.argsort(relative, axis=None)[:count]
    places = zip(*np.unravel_index(best, relative.shape), strict=True)
    return [(slice(r * side, (r + 1) * side), slice(c * side, (c + 1) * side)) for r, c in places]
