"""The simple features that a medical model's embeddings are held against."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import sobel
from scipy.stats import kurtosis, skew
from skimage.feature import hog
from skimage.transform import resize

from domains.medical.image import MedicalImage
from hub.reading import Sample

SIDE = 128
"""Rows and columns of the slice that gradients are counted on."""
BINS = 16
GRADIENTS = 8 * 8 * 9
FIGURES = BINS + 7


def image_statistics(sample: Sample) -> NDArray[np.float32]:
    """Return gradient histograms of a slice, or intensity statistics of a volume, in one vector.

    A slice fills the first part: HOG of its 128 x 128 pixels, 9 orientations in cells of 16 pixels. A volume fills the
    second: a histogram of 16 bins, mean, standard deviation, skewness and kurtosis, and the mean Sobel response along
    each axis, of values scaled by their 0.5 and 99.5 percentiles. The part of the other kind is zero.

    Returns:
        ``(599,)`` float32.
    """
    image: MedicalImage = sample.data
    grey = image.values.mean(axis=0)
    if image.is_volume:
        return np.concatenate([np.zeros(GRADIENTS, np.float32), _intensities(grey)])
    return np.concatenate([_gradients(grey[0]), np.zeros(FIGURES, np.float32)])


def _scaled(values: NDArray[np.float32]) -> NDArray[np.float32]:
    low, high = np.percentile(values, (0.5, 99.5))
    if high <= low:
        low, high = values.min(), values.max()
    return np.clip((values - low) / (high - low), 0, 1).astype(np.float32)


def _gradients(values: NDArray[np.float32]) -> NDArray[np.float32]:
    square = resize(_scaled(values), (SIDE, SIDE), anti_aliasing=True)
    return hog(square, orientations=9, pixels_per_cell=(16, 16), cells_per_block=(1, 1)).astype(np.float32)


def _intensities(values: NDArray[np.float32]) -> NDArray[np.float32]:
    scaled = _scaled(values).astype(np.float64)
    histogram = np.histogram(scaled, BINS, (0, 1))[0] / scaled.size
    flat = scaled.ravel()
    edges = [np.abs(sobel(scaled, axis)).mean() for axis in range(3)]
    return np.array([*histogram, flat.mean(), flat.std(), skew(flat), kurtosis(flat), *edges], np.float32)
