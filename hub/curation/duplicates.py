"""Near-duplicates: of samples whose embeddings all but coincide, one stays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from hub.curation.clustering import Matrix, as_matrix, directions, kmeans
from hub.curation.selection import Rows, Scores, Selection, check_count, check_share

CLUSTER_ROWS = 4096
"""Rows a cluster has on average unless told otherwise; all pairs within one are compared."""

_BLOCK = 512


@dataclass(frozen=True)
class Duplicates:
    """Keep one of each group of near-duplicates: the first in order.

    Within clusters, as in SemDeDup (Abbas et al. 2023, "Data-efficient learning at web-scale through semantic
    deduplication", section 3): walking through the rows, one is left out when its cosine similarity to a row kept
    before it reaches the threshold. So no two rows kept in a cluster are that similar, and each row left out has one
    kept that is. Pairs that the clustering separated are not seen, except those that are equal number by number.

    Attributes:
        threshold: Cosine similarity from which two samples are the same.
        clusters: How many to look in; 0 for one in `CLUSTER_ROWS` samples, so up to so many all pairs are compared.
    """

    threshold: float = 0.999
    clusters: int = 0

    def __post_init__(self) -> None:
        """Raise InvalidRecipe on the first value that cannot be."""
        check_share("threshold", self.threshold)
        check_count("clusters", self.clusters)

    def __call__(self, vectors: ArrayLike, seed: int, target: ArrayLike | None = None) -> Selection:
        """Select rows of a ``(rows, dimension)`` matrix; the groups are in ``Selection.groups()``.

        Raises:
            InvalidInput: The matrix is empty or not finite.
            InvalidRecipe: There are fewer distinct rows than clusters.
        """
        matrix = as_matrix(vectors)
        first = _first_equal(matrix)
        distinct = np.flatnonzero(first == np.arange(len(matrix)))
        unit = directions(matrix[distinct])
        found = kmeans(unit, self.clusters or -(-len(unit) // CLUSTER_ROWS), seed)
        stands_for, scores, labels = np.arange(len(matrix)), np.ones(len(matrix), np.float32), np.zeros_like(first)
        labels[distinct] = found.labels
        by_cluster = np.argsort(found.labels, kind="stable")  # within a cluster in the order of the rows
        for members in np.split(by_cluster, np.cumsum(found.sizes)[:-1]):
            covered, similarity = _covered(unit[members], self.threshold)
            stands_for[distinct[members]] = distinct[members[covered]]
            scores[distinct[members]] = similarity
        stands_for = stands_for[first]
        return Selection(
            np.unique(stands_for),
            scores[first],
            labels[first],
            score="cosine similarity to the sample kept in its place",
            reason=f"near-duplicate: cosine similarity of at least {self.threshold:g} to a sample kept",
            stands_for=stands_for,
        )


def _first_equal(matrix: Matrix) -> Rows:
    """Return for each row the number of the first row that is equal to it."""
    seen: dict[bytes, int] = {}
    # Adding zero makes one of the two zeros.
    return np.array([seen.setdefault((row + 0.0).tobytes(), number) for number, row in enumerate(matrix)], np.int64)


def _covered(unit: Matrix, threshold: float) -> tuple[Rows, Scores]:
    """Return for each row the kept row that covers it (itself, where it is kept), and the similarity to it."""
    cover = np.arange(len(unit))
    similarity = np.ones(len(unit), np.float32)
    kept = np.zeros(len(unit), bool)
    for start in range(0, len(unit), _BLOCK):
        block = unit[start : start + _BLOCK]
        before = np.flatnonzero(kept)
        best, who = np.full(len(block), -np.inf, np.float32), np.zeros(len(block), np.int64)
        if len(before):
            to_kept = block @ unit[before].T
            best, who = to_kept.max(1), before[to_kept.argmax(1)]
        inside = block @ block.T
        for i in range(len(block)):
            if best[i] >= threshold:
                cover[start + i], similarity[start + i] = who[i], best[i]
                continue
            kept[start + i] = True
            nearer = inside[i] > best
            nearer[: i + 1] = False
            best[nearer], who[nearer] = inside[i][nearer], start + i
    return cover, np.minimum(similarity, 1)
