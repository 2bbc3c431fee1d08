"""Pruning by prototypicality: keep what is far from its prototype, or what is near."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from hub.curation.clustering import in_content_order, kmeans, square_root
from hub.curation.selection import Rows, Scores, Selection, check_count, check_share, count_of
from hub.errors import InvalidRecipe

PREFERENCES = ("hard", "easy")


@dataclass(frozen=True)
class Prototype:
    """Keep the hardest or easiest samples, by the cosine distance to the centroid of their own cluster.

    The label-free metric of Sorscher et al. 2022 ("Beyond neural scaling laws: beating power law scaling via data
    pruning", section 5): hard samples where data is plentiful, easy ones where it is scarce.

    Attributes:
        keep: Share of the samples.
        prefer: ``hard`` keeps the farthest, ``easy`` the nearest.
        clusters: How many prototypes; 0 for the square root of the number of samples.
    """

    keep: float = 0.8
    prefer: str = "hard"
    clusters: int = 0

    def __post_init__(self) -> None:
        """Raise InvalidRecipe on the first value that cannot be."""
        check_share("keep", self.keep)
        check_count("clusters", self.clusters)
        if self.prefer not in PREFERENCES:
            raise InvalidRecipe(f"curation.prefer {self.prefer!r} is none of {', '.join(PREFERENCES)}")

    def __call__(self, vectors: ArrayLike, seed: int, target: ArrayLike | None = None) -> Selection:
        """Select rows of a ``(rows, dimension)`` matrix; exactly the share that ``keep`` says.

        Raises:
            InvalidInput: The matrix is empty or not finite.
            InvalidRecipe: There are fewer rows than clusters.
        """
        unit, order = in_content_order(vectors)
        found = kmeans(unit, self.clusters or square_root(len(unit)), seed)
        kept = by_distance(found.distances, count_of(self.keep, len(unit)), far=self.prefer == "hard")
        side = "nearer to" if self.prefer == "hard" else "farther from"
        return Selection(
            kept,
            found.distances,
            found.labels,
            score="cosine distance to the centroid",
            reason=f"{side} its prototype than the samples kept",
        ).put_back(order)


def by_distance(distances: Scores, count: int, *, far: bool) -> Rows:
    """Return the numbers of the ``count`` rows farthest from (or nearest to) their centroid, ascending."""
    order = np.argsort(-distances if far else distances, kind="stable")
    return np.sort(order[:count])
