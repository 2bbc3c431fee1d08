"""Label-free figures of an embedding matrix: how many dimensions it uses and how evenly it fills them.

All are computed in float64: RankMe's eps is below the resolution of float32.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hub.evaluation.neighbours import unit_rows

Floats = NDArray[np.float64]

DEAD = 1e-6
"""A dimension that varies less than this share of the liveliest one is dead."""


def rankme(features: ArrayLike, eps: float = 1e-7) -> float:
    """Effective rank: the exponential of the entropy of the singular values, neither centred nor normalised.

    Between 1 and min(rows, dimension), up to eps. Only for comparing runs of one method on one set of inputs; stable
    from some 25,000 rows on. Garrido et al. 2023, "RankMe", equation 1.

    Args:
        features: ``(rows, dimension)``, at least one row. All zeros have effective rank 1.
        eps: Added to each share of the sum of the singular values.

    Raises:
        ValueError: There is no row or no dimension.
    """
    singular = np.linalg.svd(_matrix(features), compute_uv=False)
    # Scaled by the largest first: a sum of denormal numbers would not be one.
    singular = singular / (singular[0] or 1.0)
    shares = singular / (singular.sum() or 1.0) + eps
    shares = shares[shares > 0]
    # All zeros leave eps alone (or nothing), whose entropy says nothing: a single point is of rank 1.
    return float(np.exp(-(shares * np.log(shares)).sum())) if singular.any() else 1.0


def alignment(first: ArrayLike, second: ArrayLike, power: float = 2.0) -> float:
    """Mean distance of positive pairs on the unit sphere, to a power; 0 is perfect, and 2 is that of random pairs.

    Wang & Isola 2020, "Understanding contrastive representation learning", equation 1.

    Args:
        first: ``(pairs, dimension)``.
        second: ``(pairs, dimension)``: of each row its positive partner.
        power: Of the Euclidean distance.

    Raises:
        ValueError: There is no pair, or the shapes differ.
    """
    one, other = unit_rows(_matrix(first)), unit_rows(_matrix(second))
    if one.shape != other.shape:
        raise ValueError(f"pairs need two matrices of one shape, not {one.shape} and {other.shape}")
    return float((np.linalg.norm(one - other, axis=1) ** power).mean())


def uniformity(features: ArrayLike, temperature: float = 2.0) -> float:
    """Log of the mean Gaussian potential over all pairs of rows on the unit sphere.

    0 where all rows point one way; lower is more even, about -2 * temperature for evenly spread rows in many
    dimensions. Wang & Isola 2020, equation 2. Takes memory for rows * (rows - 1) / 2 numbers.

    Args:
        features: ``(rows, dimension)``.
        temperature: t in exp(-t * squared distance).

    Raises:
        ValueError: There are fewer than two rows.
    """
    from scipy.spatial.distance import pdist
    from scipy.special import logsumexp

    rows = unit_rows(_matrix(features))
    if len(rows) < 2:
        raise ValueError("uniformity is of pairs: it needs at least two rows")
    distances = pdist(rows, "sqeuclidean")
    return float(logsumexp(-temperature * distances) - np.log(len(distances)))


def dimension_spread(features: ArrayLike) -> Floats:
    """Population standard deviation of each dimension, ``(dimension,)``.

    Args:
        features: ``(rows, dimension)``, at least one row.
    """
    return _matrix(features).std(0)


def unit_spread(features: ArrayLike) -> float:
    """Mean standard deviation of the unit rows' dimensions times sqrt(dimension).

    Near 1 where the directions are spread evenly, 0 after a collapse. Chen & He 2021, "Exploring simple Siamese
    representation learning", section 4.1.

    Args:
        features: ``(rows, dimension)``, at least one row.
    """
    values = _matrix(features)
    return float(dimension_spread(unit_rows(values)).mean() * np.sqrt(values.shape[1]))


def off_diagonal_correlation(features: ArrayLike) -> float:
    """Mean absolute correlation between two different dimensions; 1 where one dimension tells all others.

    Dimensions that do not vary have no correlation and are left out; 1 when fewer than two vary.

    Args:
        features: ``(rows, dimension)``, at least two rows.
    """
    values = _matrix(features)
    spread = dimension_spread(values)
    varying = values[:, spread > DEAD * max(spread.max(), np.finfo(np.float64).tiny)]
    count = varying.shape[1]
    if count < 2:
        return 1.0
    correlations = np.corrcoef(varying, rowvar=False)
    return float((np.abs(correlations).sum() - count) / (count * (count - 1)))


def label_free_figures(features: ArrayLike, rows: int = 2000, seed: int = 0) -> dict[str, float]:
    """Return the figures by name.

    ``rankme``; ``uniformity`` (of a seeded sample of at most ``rows`` rows); ``std_min``, ``std_median`` and
    ``std_max`` over the dimensions; ``dead_dimensions``, their number; and ``unit_std``, the mean standard deviation of
    the unit rows times sqrt(dimension), which is near 1 where the directions are spread evenly and 0 after a collapse.

    Args:
        features: ``(rows, dimension)``, at least two rows.
        rows: Bound of what is computed on pairs.
        seed: Of the sample.
    """
    values = _matrix(features)
    spread = dimension_spread(values)
    some = values
    if len(values) > rows:
        some = values[np.random.default_rng(seed).choice(len(values), rows, replace=False)]
    return {
        "rankme": rankme(values),
        "uniformity": uniformity(some),
        "std_min": float(spread.min()),
        "std_median": float(np.median(spread)),
        "std_max": float(spread.max()),
        "dead_dimensions": float((spread <= DEAD * spread.max()).sum()),
        "unit_std": unit_spread(values),
    }


def label_pairs(labels: NDArray[np.str_], seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pair each row with one other row of its label, seeded; rows of a label with a single row have no partner.

    What alignment compares where there are labels but no second views.

    Args:
        labels: ``(rows,)``.
        seed: Of the pairing.

    Returns:
        ``(pairs,)`` row numbers of each side.
    """
    generator = np.random.default_rng(seed)
    first, second = [], []
    for label in np.unique(labels):
        own = generator.permutation(np.flatnonzero(labels == label))
        if len(own) > 1:
            first.append(own)
            second.append(np.roll(own, 1))
    empty = [np.zeros(0, np.int64)]
    return np.concatenate(first or empty), np.concatenate(second or empty)


def _matrix(features: ArrayLike) -> Floats:
    values = np.asarray(features, np.float64)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"an embedding matrix is (rows, dimension), at least one each, not {values.shape}")
    return values
