"""What every strategy returns: the rows kept, and for each row why."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hub.errors import InvalidRecipe

Rows = NDArray[np.int64]
Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Selection:
    """Rows of an embedding matrix that were kept.

    Attributes:
        kept: ``(kept,)`` row numbers, ascending.
        scores: ``(rows,)`` number that decided, of every row.
        clusters: ``(rows,)`` cluster of every row.
        score: What the scores are.
        reason: Why the other rows were left out.
        stands_for: ``(rows,)`` kept row that stands for each row (itself, where it is kept); only of near-duplicates.
    """

    kept: Rows
    scores: Scores
    clusters: Rows
    score: str
    reason: str
    stands_for: Rows | None = None

    @property
    def dropped(self) -> Rows:
        """``(rows - kept,)`` row numbers that were left out, ascending."""
        kept = np.zeros(len(self.scores), bool)
        kept[self.kept] = True
        return np.flatnonzero(~kept)

    def put_back(self, order: Rows) -> Selection:
        """Return the selection of a matrix whose row ``order[n]`` was row n of the one selected from."""
        scores, clusters = np.empty_like(self.scores), np.empty_like(self.clusters)
        scores[order], clusters[order] = self.scores, self.clusters
        return replace(self, kept=np.sort(order[self.kept]), scores=scores, clusters=clusters)

    def groups(self) -> list[Rows]:
        """Groups of near-duplicates, the largest first; each begins with the row that was kept."""
        if self.stands_for is None:
            return []
        # Stable: equal keys keep the order of the rows, and the kept row is the first of its group.
        order = np.argsort(self.stands_for, kind="stable")
        starts = np.flatnonzero(np.diff(self.stands_for[order])) + 1
        groups = [group for group in np.split(order, starts) if len(group) > 1]
        return sorted(groups, key=lambda group: (-len(group), int(group[0])))


def count_of(share: float, rows: int) -> int:
    """Return how many of ``rows`` a share of them is; at least one."""
    return max(1, round(share * rows))


def check_share(name: str, value: float) -> None:
    """Raise InvalidRecipe unless ``value`` is a share above 0 and up to 1."""
    if not 0 < value <= 1:
        raise InvalidRecipe(f"curation.{name} is {value}; it is a share, above 0 and at most 1")


def check_count(name: str, value: int, least: int = 0) -> None:
    """Raise InvalidRecipe unless ``value`` is at least ``least``."""
    if value < least:
        raise InvalidRecipe(f"curation.{name} is {value}; it must be at least {least}")
