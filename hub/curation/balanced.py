"""Balanced sampling from a hierarchy of clusters: rare kinds keep their samples, common ones give theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from hub.curation.clustering import Clusters, Matrix, in_content_order, kmeans, rank_in_cluster, square_root
from hub.curation.selection import Rows, Selection, check_count, check_share, count_of
from hub.errors import InvalidRecipe


@dataclass(frozen=True)
class Balanced:
    """Keep the same number of samples from every cluster of a hierarchy, as far as each has them.

    Hierarchical k-means with resampling, then sampling from the top down (Vo et al. 2024, "Automatic data curation for
    self-supervised learning", section 3). Repeated during pretraining with the model's own embeddings, it is the
    curation of Nereus. What Nereus calls sampling diversity is not defined in public, so the definition is ours: the
    odds at which a cluster's farthest sample is drawn before its nearest.

    Attributes:
        keep: Share of the samples.
        levels: Clusters of each level, the finest first; empty for the square root of the number of samples, and the
            square root of that.
        diversity: Which samples of a cluster: 0 those nearest to its centroid, 1 the farthest, 0.5 any with equal
            chance; d in between draws the farthest with d / (1 - d) times the chance of the nearest.
        rounds: Times the centroids of a level are fitted anew on equally many rows of each cluster.
    """

    keep: float = 0.3
    levels: tuple[int, ...] = ()
    diversity: float = 0.5
    rounds: int = 10

    def __post_init__(self) -> None:
        """Raise InvalidRecipe on the first value that cannot be."""
        check_share("keep", self.keep)
        check_count("rounds", self.rounds)
        if not 0 <= self.diversity <= 1:
            raise InvalidRecipe(f"curation.diversity is {self.diversity}; it is from 0 to 1")
        for below, level in pairwise((*self.levels[:1], *self.levels)):
            check_count("levels", level, 1)
            if level > below:
                raise InvalidRecipe(
                    f"curation.levels are {list(self.levels)}; the finest comes first, the coarsest last"
                )

    def __call__(self, vectors: ArrayLike, seed: int, target: ArrayLike | None = None) -> Selection:
        """Select rows of a ``(rows, dimension)`` matrix; exactly the share that ``keep`` says.

        Raises:
            InvalidInput: The matrix is empty or not finite.
            InvalidRecipe: There are fewer rows than clusters.
        """
        unit, order = in_content_order(vectors)
        random = np.random.default_rng(seed)
        levels = self.levels or (square_root(len(unit)), square_root(square_root(len(unit))))
        finest, parents = hierarchy(unit, levels, self.rounds, seed)
        counts = balanced_counts(finest.sizes, parents, count_of(self.keep, len(unit)), random)
        return Selection(
            within_clusters(finest, counts, self.diversity, random),
            finest.distances,
            finest.labels,
            score="cosine distance to the centroid",
            reason="its cluster had more samples than its share",
        ).put_back(order)


def hierarchy(unit: Matrix, levels: Sequence[int], rounds: int, seed: int) -> tuple[Clusters, list[Rows]]:
    """Cluster the rows, then the centroids, and so on up.

    Args:
        unit: ``(rows, dimension)`` unit rows.
        levels: Clusters of each level, the finest first.
        rounds: See `kmeans`.
        seed: Of every level.

    Returns:
        The clusters of the rows, and for each further level the ``(clusters below,)`` number of each cluster's parent.
    """
    finest = kmeans(unit, levels[0], seed, rounds)
    parents = []
    below = finest.centroids
    for clusters in levels[1:]:
        level = kmeans(below, clusters, seed, rounds)
        parents.append(level.labels)
        below = level.centroids
    return finest, parents


def balanced_counts(sizes: Rows, parents: Sequence[Rows], target: int, random: np.random.Generator) -> Rows:
    """Share a number of samples out over a tree of clusters, evenly among the children of each node.

    Args:
        sizes: ``(clusters,)`` samples of each of the finest clusters.
        parents: For each level above, the ``(clusters below,)`` number of each cluster's parent.
        target: Samples to take in all, at most the sum of the sizes.
        random: Places what does not divide.

    Returns:
        ``(clusters,)`` samples to take of each of the finest clusters; they sum to ``target``.
    """
    tree = [sizes]
    for parent in parents:
        tree.append(np.bincount(parent, weights=tree[-1]).astype(np.int64))
    counts = water_fill(tree.pop(), target, random)
    for parent, below in zip(reversed(parents), reversed(tree), strict=True):
        shares = np.zeros_like(below)
        for node in np.unique(parent):
            children = parent == node
            shares[children] = water_fill(below[children], int(counts[node]), random)
        counts = shares
    return counts


def water_fill(sizes: Rows, target: int, random: np.random.Generator) -> Rows:
    """Take equally many samples from every cluster, as far as each has them.

    Args:
        sizes: ``(clusters,)`` samples of each.
        target: Samples to take in all, at most their sum.
        random: Draws the clusters that give one more where the target does not divide.

    Returns:
        ``(clusters,)`` samples to take of each: ``min(size, level)``, or one more; they sum to ``target``.
    """
    level = water_level(sizes, target)
    counts = np.minimum(sizes, level)
    larger = np.flatnonzero(sizes > level)
    counts[random.permutation(larger)[: target - counts.sum()]] += 1
    return counts


def water_level(sizes: Rows, target: int) -> int:
    """Return the largest whole number x with ``sum(min(x, size)) <= target`` (the largest size, if all fit)."""
    ascending = np.sort(sizes)
    below = np.cumsum(ascending) - ascending
    rest = np.arange(len(sizes), 0, -1)  # clusters at least as large as this one
    full = int(np.searchsorted(below + rest * ascending, target, side="right"))  # clusters taken whole
    return int(ascending[-1]) if full == len(sizes) else int((target - below[full]) // rest[full])


def within_clusters(clusters: Clusters, counts: Rows, diversity: float, random: np.random.Generator) -> Rows:
    """Choose samples inside each cluster.

    Args:
        clusters: Of the rows.
        counts: ``(clusters,)`` samples to take of each.
        diversity: See `Balanced`.
        random: Draws, unless diversity is 0 or 1.

    Returns:
        ``(sum of counts,)`` row numbers, ascending.
    """
    if diversity in (0, 1):
        keys = clusters.distances if diversity == 0 else -clusters.distances
    else:
        # Drawing without replacement by weights (d / (1 - d)) ** place, as the largest log-weights plus Gumbel noise.
        place = (
            rank_in_cluster(clusters.labels, clusters.distances) / np.maximum(clusters.sizes - 1, 1)[clusters.labels]
        )
        keys = -(place * np.log(diversity / (1 - diversity)) + random.gumbel(size=len(place)))
    return np.flatnonzero(rank_in_cluster(clusters.labels, keys) < counts[clusters.labels])
