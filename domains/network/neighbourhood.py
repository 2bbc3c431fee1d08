"""Flows by their nearest known flows: labels to explain a flow by, and how far it is from what is usual."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Neighbours:
    """The nearest known flows of some flows.

    Attributes:
        rows: ``(flows, k)`` numbers of the known flows, the nearest first.
        distances: ``(flows, k)`` root mean square difference of the standardised features.
    """

    rows: NDArray[np.int64]
    distances: Floats


class KnownFlows:
    """Embeddings of known flows, to look for the nearest of others.

    Features are standardised by the known flows, since a few large ones would otherwise decide alone. The distance is
    not that of angles: what is out of the common is so by its size.
    """

    def __init__(self, embeddings: ArrayLike) -> None:
        """Index ``(flows, features)``.

        Raises:
            ValueError: There are fewer than two flows, so nothing to measure a distance by.
        """
        values = np.asarray(embeddings, np.float64)
        if len(values) < 2:
            raise ValueError(f"{len(values)} known flows; at least 2 are needed")
        self._scaler = StandardScaler().fit(values)
        self._index = NearestNeighbors(algorithm="brute").fit(self._standardised(values))

    def __len__(self) -> int:
        """Return the number of known flows."""
        return int(self._index.n_samples_fit_)

    def _standardised(self, values: Floats) -> Floats:
        return np.asarray(self._scaler.transform(values) / np.sqrt(values.shape[1]))

    def nearest(self, embeddings: ArrayLike, k: int) -> Neighbours:
        """Return the ``k`` nearest known flows of each of some flows, or all where there are fewer."""
        values = self._standardised(np.asarray(embeddings, np.float64))
        distances, rows = self._index.kneighbors(values, n_neighbors=min(k, len(self)))
        return Neighbours(rows, distances)

    def anomaly_scores(self, embeddings: ArrayLike, k: int) -> Floats:
        """Return for each flow the share of the known flows that lie nearer to each other than it lies to them.

        The distance is that to the k-th nearest known flow; of a known flow, to the k-th nearest other one.

        Returns:
            ``(flows,)`` from 0 (usual) to 1 (farther from the known flows than any of them from the rest).
        """
        own, _ = self._index.kneighbors(n_neighbors=min(k, len(self) - 1))
        usual = np.sort(own[:, -1])
        found = self.nearest(embeddings, k).distances[:, -1]
        return np.searchsorted(usual, found) / len(usual)


def votes(neighbours: Neighbours, labels: NDArray[np.str_]) -> list[tuple[str, float]]:
    """Return for each flow the label that most of its neighbours have, and the share that has it.

    Of labels that tie the one with the nearest flow is taken.
    """
    decided = []
    for row in labels[neighbours.rows]:
        names, first, counts = np.unique(row, return_index=True, return_counts=True)
        best = min(range(len(names)), key=lambda i: (-counts[i], first[i]))
        decided.append((str(names[best]), float(counts[best] / len(row))))
    return decided
