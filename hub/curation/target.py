"""Coreset by target similarity: of an open pool, what resembles a small target set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from hub.curation.clustering import Matrix, assign, in_content_order, kmeans
from hub.curation.selection import Rows, Selection, check_count, check_share, count_of
from hub.errors import InvalidInput, InvalidRecipe


@dataclass(frozen=True)
class Target:
    """Keep the samples of a pool that are nearest to the centroids of a target set.

    SimCore (Kim, Bae and Yun 2023, "Coreset sampling from open-set for fine-grained self-supervised learning",
    section 3). The embeddings should come from a model trained on the target set.

    Attributes:
        keep: Share of the pool, at most.
        clusters: Centroids of the target set; each of its samples is one where it has fewer.
        stop: Taking ends with the first round whose mean similarity is below this share of that of round ``patience``;
            0 to take all that ``keep`` allows.
        patience: Number of that round.
    """

    keep: float = 0.3
    clusters: int = 100
    stop: float = 0.95
    patience: int = 20

    def __post_init__(self) -> None:
        """Raise InvalidRecipe on the first value that cannot be."""
        check_share("keep", self.keep)
        check_count("clusters", self.clusters, 1)
        check_count("patience", self.patience, 1)
        if not 0 <= self.stop <= 1:
            raise InvalidRecipe(f"curation.stop is {self.stop}; it is a share, from 0 to 1")

    def __call__(self, vectors: ArrayLike, seed: int, target: ArrayLike | None = None) -> Selection:
        """Select rows of a ``(rows, dimension)`` pool, by a ``(targets, dimension)`` target set of the same model.

        Raises:
            InvalidInput: A matrix is empty or not finite, or the two differ in dimension.
            InvalidRecipe: There is no target set.
        """
        if target is None:
            raise InvalidRecipe("curation by target needs the embeddings of a target set")
        (unit, order), (wanted, _) = in_content_order(vectors), in_content_order(target)
        if unit.shape[1] != wanted.shape[1]:
            raise InvalidInput(
                f"the pool's embeddings have {unit.shape[1]} dimensions and the target set's {wanted.shape[1]}; "
                "embed both with the same model"
            )
        centroids = wanted if len(wanted) <= self.clusters else kmeans(wanted, self.clusters, seed).centroids
        kept = similar_in_rounds(unit @ centroids.T, count_of(self.keep, len(unit)), self.stop, self.patience)
        labels, distances = assign(unit, centroids)
        return Selection(
            kept,
            1 - distances,
            labels,
            score="cosine similarity to the nearest target centroid",
            reason="less similar to the target set than the samples kept",
        ).put_back(order)


def similar_in_rounds(similarities: Matrix, budget: int, stop: float = 0.0, patience: int = 20) -> Rows:
    """Let each centroid in turn take the row that is most similar to it, round after round.

    In a round every centroid takes one of the rows left at its start, so one that is wanted by several counts once. A
    round that would exceed the budget is cut to its most similar rows.

    Args:
        similarities: ``(rows, centroids)``.
        budget: Rows to take, at most.
        stop: See `Target`; a round that falls below is not taken.
        patience: See `Target`.

    Returns:
        Row numbers, ascending.
    """
    rows, centroids = similarities.shape
    # No centroid looks past the rows that all of them together can take.
    columns = np.arange(centroids)
    queues = np.stack([np.argsort(-similarities[:, c], kind="stable")[:budget].astype(np.int32) for c in columns], 1)
    heads = np.zeros(centroids, np.int64)
    taken = np.zeros(rows, bool)
    left, number, floor = min(budget, rows), 1, -np.inf
    while left:
        while (behind := taken[queues[heads, columns]]).any():
            heads += behind
        chosen = queues[heads, columns]
        values = similarities[chosen, columns]
        if stop and number == patience:
            floor = stop * values.mean()
        if values.mean() < floor:
            break
        best = chosen[np.argsort(-values, kind="stable")]
        _, first = np.unique(best, return_index=True)
        fresh = best[np.sort(first)][:left]
        taken[fresh] = True
        left -= len(fresh)
        number += 1
    return np.flatnonzero(taken)
