"""Confidence intervals: a t interval over folds, and a bootstrap over the test rows of a single split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
DRAWS = 1000

LEAST_GROUPS = 10
"""Whole groups are resampled where the test rows have at least this many; of fewer the spread cannot be told."""

Interval = tuple[float, float]
_CELLS = 2_000_000  # weights held at a time


def t_interval(values: Sequence[float], level: float = LEVEL) -> Interval | None:
    """Return the interval of the mean of independent values by Student's t; ``None`` for fewer than two.

    Folds of one set share most of their train rows, so over folds it is somewhat too narrow (Nadeau & Bengio 2003).

    Args:
        values: One a fold; those that are not finite are left out.
        level: Probability that the interval covers the mean.
    """
    from scipy.stats import t

    finite = [v for v in values if np.isfinite(v)]
    if len(finite) < 2:
        return None
    mean = float(np.mean(finite))
    half = float(t.ppf((1 + level) / 2, len(finite) - 1) * np.std(finite, ddof=1) / np.sqrt(len(finite)))
    return mean - half, mean + half


def percentile_interval(draws: NDArray[np.float64], level: float = LEVEL) -> Interval | None:
    """Return the middle part of bootstrap draws; ``None`` where fewer than two are finite.

    Args:
        draws: ``(draws,)`` of a figure.
        level: Share of the draws inside.
    """
    finite = draws[np.isfinite(draws)]
    if len(finite) < 2:
        return None
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def resampled_by_group(groups: NDArray[np.str_]) -> bool:
    """Whether the bootstrap draws whole groups: rows of one group are not independent of each other."""
    return len(np.unique(groups)) >= LEAST_GROUPS


def bootstrap_weights(groups: NDArray[np.str_], draws: int = DRAWS, seed: int = 0) -> Iterator[NDArray[np.float64]]:
    """Yield blocks of ``(some draws, rows)``: how often each test row was drawn, with replacement.

    Args:
        groups: ``(rows,)``, empty strings where there are none.
        draws: How many in all.
        seed: The same for every contender, so that differences are of the same draws.
    """
    generator = np.random.default_rng(seed)
    units = np.unique(groups, return_inverse=True)[1] if resampled_by_group(groups) else np.arange(len(groups))
    count = int(units.max()) + 1
    chances = np.full(count, 1 / count)
    block = max(1, _CELLS // len(groups))
    for start in range(0, draws, block):
        counts = generator.multinomial(count, chances, size=min(block, draws - start))
        yield counts[:, units].astype(np.float64)
