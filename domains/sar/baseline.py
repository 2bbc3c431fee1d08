"""The simple features that a SAR model's embeddings are held against."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from domains.sar.raster import Raster
from hub.reading import Sample

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def intensity_statistics(sample: Sample) -> NDArray[np.float32]:
    """Return nine figures of the first band's log amplitude, in decibels, ``(9,)`` float32.

    Mean, standard deviation, five quantiles, the coefficient of variation of the amplitude, and the mean absolute
    difference of neighbours along the rows. Nothing in it depends on the image's size.
    """
    raster: Raster = sample.data
    values = raster.band(0).values
    amplitude = raster.amplitude(values)[0]
    valid = raster.valid(values)[0] & (amplitude > 0)
    kept = amplitude[valid].astype(np.float64)
    if not kept.size:
        return np.zeros(9, np.float32)
    level = 20 * np.log10(kept)
    neighbours = valid[:, 1:] & valid[:, :-1]
    steps = np.abs(np.diff(20 * np.log10(np.where(valid, amplitude, 1.0)), axis=1))[neighbours]
    figures = [level.mean(), level.std(), *np.quantile(level, QUANTILES), kept.std() / kept.mean()]
    return np.array([*figures, steps.mean() if steps.size else 0.0], np.float32)
