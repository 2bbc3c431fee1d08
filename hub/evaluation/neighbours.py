"""Weighted k nearest neighbours by cosine: each neighbour votes for its label with exp(similarity / T).

The usual training-free probe of self-supervised features (Wu et al. 2018, "Unsupervised feature learning via
non-parametric instance discrimination", section 3.4).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

DECIMALS = 9
"""Similarities nearer than this are ties: float64 products of the same two rows differ less, real ones more."""

_CHUNK = 1024  # queries at a time, so that memory grows with one side only


def unit_rows(features: ArrayLike) -> Floats:
    """Scale each row to length 1 in float64; a row of zeros stays, and is at similarity 0 to everything.

    Args:
        features: ``(rows, dimension)``.
    """
    # Divided by the largest entry first, so that squares neither overflow nor vanish.
    values = np.asarray(features, np.float64)
    values = values / _positive(np.abs(values).max(1, keepdims=True, initial=0.0))
    return values / _positive(np.linalg.norm(values, axis=1, keepdims=True))


def neighbour_votes(
    bank: ArrayLike, labels: NDArray[np.str_], queries: ArrayLike, k: int = 5, temperature: float = 0.1
) -> tuple[Floats, NDArray[np.str_]]:
    """Return each class's share of the votes of the k nearest rows.

    Rows that tie for the last places share them, so the order of the rows never matters.

    Args:
        bank: ``(rows, dimension)`` to look among.
        labels: ``(rows,)`` of the bank.
        queries: ``(queries, dimension)``.
        k: Number of neighbours; at most the rows of the bank are used.
        temperature: T in exp(similarity / T); smaller trusts the nearest more.

    Returns:
        ``(queries, classes)`` shares that sum to 1, and the sorted classes.

    Raises:
        ValueError: ``k`` or ``temperature`` is not positive, or the bank is empty.
    """
    if k < 1 or temperature <= 0:
        raise ValueError(f"k={k}, temperature={temperature}: both must be positive")
    classes, codes = np.unique(labels, return_inverse=True)
    if not len(classes):
        raise ValueError("there is no row to be a neighbour")
    members = np.eye(len(classes))[codes]
    bank, queries = unit_rows(bank), unit_rows(queries)
    k = min(k, len(bank))
    shares = [
        _votes(np.round(queries[start : start + _CHUNK] @ bank.T, DECIMALS), k, temperature) @ members
        for start in range(0, len(queries), _CHUNK)
    ]
    votes = np.concatenate(shares) if shares else np.zeros((0, len(classes)))
    return votes / votes.sum(1, keepdims=True), classes


def _votes(similarities: Floats, k: int, temperature: float) -> Floats:
    last = np.partition(similarities, -k, axis=1)[:, [-k]]
    nearer, tied = similarities > last, similarities == last
    seats = (k - nearer.sum(1, keepdims=True)) / tied.sum(1, keepdims=True)
    # Relative to the nearest, so that a small T cannot overflow.
    weights = np.exp((similarities - similarities.max(1, keepdims=True)) / temperature)
    return weights * (nearer + tied * seats)


def _positive(values: Floats) -> Floats:
    return np.where(values > 0, values, 1.0)
