"""Retrieval by cosine: does the neighbourhood of a row hold rows of its label?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hub.evaluation.neighbours import DECIMALS, unit_rows

RANKS = (1, 5, 10)

_CHUNK = 512  # queries at a time: their ranking is (queries, rows)


def retrieval(
    features: ArrayLike, labels: NDArray[np.str_], groups: NDArray[np.str_], ranks: Sequence[int] = RANKS
) -> dict[str, float]:
    """Let every row look for the rows of its label among all others.

    A query never retrieves itself, nor a row of its own group: two clips of one recording are near for reasons that
    have nothing to do with the label. Rows at equal similarity are ranked the wrong ones first, so that the order of
    the rows does not matter and a collapsed embedding finds nothing.

    Args:
        features: ``(rows, dimension)``.
        labels: ``(rows,)``.
        groups: ``(rows,)``, empty strings throughout where there are none.
        ranks: The k of recall@k.

    Returns:
        ``recall_at_K`` (share of the queries with a row of their label among the first K), ``map`` (mean over the
        queries of the average precision over the whole ranking), and ``queries``, the number of rows that have anything
        to find; where that is 0, the figures are NaN.
    """
    rows = unit_rows(features)
    grouped = bool((groups != "").any())
    hits: list[NDArray[np.bool_]] = []
    precisions: list[NDArray[np.float64]] = []
    for start in range(0, len(rows), _CHUNK):
        queries = np.arange(start, min(start + _CHUNK, len(rows)))
        similar = np.round(rows[queries] @ rows.T, DECIMALS)
        barred = groups[queries, None] == groups if grouped else np.zeros(similar.shape, bool)
        barred[np.arange(len(queries)), queries] = True
        relevant = (labels[queries, None] == labels) & ~barred
        # Barred rows go to the end, where they are counted as neither right nor wrong.
        order = np.lexsort((relevant, np.where(barred, np.inf, -similar)), axis=1)
        found = np.take_along_axis(relevant, order, axis=1)
        asked = found.any(1)
        found = found[asked]
        precision = np.cumsum(found, axis=1) / np.arange(1, len(rows) + 1)
        precisions.append((precision * found).sum(1) / found.sum(1))
        hits.append(np.stack([found[:, :k].any(1) for k in ranks], axis=1))
    average, reached = np.concatenate(precisions), np.concatenate(hits)
    count = len(average)
    means = reached.mean(0) if count else np.full(len(ranks), np.nan)
    return {
        **{f"recall_at_{k}": float(mean) for k, mean in zip(ranks, means, strict=True)},
        "map": float(average.mean()) if count else float("nan"),
        "queries": float(count),
    }
