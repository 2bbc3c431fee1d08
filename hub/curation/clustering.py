"""k-means by cosine over many rows, and an order of the rows that depends on nothing but them."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hub.curation.selection import Rows, Scores
from hub.errors import InvalidInput, InvalidRecipe
from hub.evaluation.neighbours import unit_rows

Matrix = NDArray[np.float32]

FIT_ROWS = 50_000
"""Centroids are fitted on at most so many rows (more only where clusters need them); all rows are then assigned."""

_FIT_ROWS_A_CLUSTER = 20
_SMALL = 10_000  # rows up to which Lloyd's iterations over all of them take seconds
_CHUNK_CELLS = 1 << 24  # of a block of similarities: 64 MiB


@dataclass(frozen=True)
class Clusters:
    """A clustering of directions.

    Attributes:
        centroids: ``(clusters, dimension)`` unit float32.
        labels: ``(rows,)`` number of each row's cluster.
        distances: ``(rows,)`` cosine distance to the own centroid, from 0 to 2.
    """

    centroids: Matrix
    labels: Rows
    distances: Scores

    @property
    def sizes(self) -> Rows:
        """``(clusters,)`` rows of each cluster; 0 where one is empty."""
        return np.bincount(self.labels, minlength=len(self.centroids))


def as_matrix(vectors: ArrayLike) -> Matrix:
    """Return embeddings as a ``(rows, dimension)`` float32 matrix.

    Raises:
        InvalidInput: It is no matrix, is empty, or holds a value that is not finite.
    """
    matrix = np.ascontiguousarray(vectors, np.float32)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise InvalidInput(f"curation needs a (samples, dimension) matrix of embeddings, not the shape {matrix.shape}")
    bad = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
    if len(bad):
        raise InvalidInput(
            f"the embeddings of {len(bad)} of {len(matrix)} samples hold a value that is not finite, the first in row "
            f"{bad[0]}; leave these samples out",
            code="not_finite",
        )
    return matrix


def directions(vectors: ArrayLike) -> Matrix:
    """Return embeddings as unit float32 rows; a row of zeros stays.

    Raises:
        InvalidInput: As `as_matrix`.
    """
    matrix = as_matrix(vectors)
    unit = np.empty_like(matrix)
    for start in range(0, len(matrix), _CHUNK_CELLS // matrix.shape[1] + 1):
        part = slice(start, start + _CHUNK_CELLS // matrix.shape[1] + 1)
        unit[part] = unit_rows(matrix[part])
    return unit


def in_content_order(vectors: ArrayLike) -> tuple[Matrix, Rows]:
    """Return embeddings as unit rows, sorted by a hash of their numbers, and the row that each was.

    What is computed from these permutes with the rows: renamed files or another order of a folder change nothing.

    Raises:
        InvalidInput: As `as_matrix`.
    """
    matrix = as_matrix(vectors)
    hashes = b"".join(hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in matrix)
    order = np.argsort(np.frombuffer(hashes, np.uint64), kind="stable")
    return directions(matrix[order]), order


def kmeans(unit: Matrix, clusters: int, seed: int, rounds: int = 0) -> Clusters:
    """Cluster directions by k-means++ and Lloyd's (or, over many rows, mini-batch) iterations.

    Args:
        unit: ``(rows, dimension)`` unit rows, or rows of zeros.
        clusters: How many; some may end up empty where rows are equal.
        seed: Of the rows that centroids are fitted on, and of the first centroids.
        rounds: Times to fit the centroids anew, on the rows nearest to each centroid, as many of every cluster: dense
            regions then draw fewer centroids (Vo et al. 2024, "Automatic data curation for self-supervised learning",
            section 3.3). As there, about half the mean cluster's rows are taken.

    Raises:
        InvalidRecipe: There are fewer rows than clusters.
    """
    if clusters > len(unit):
        raise InvalidRecipe(f"curation asks for {clusters} clusters, and there are {len(unit)} samples; ask for fewer")
    few = max(FIT_ROWS, _FIT_ROWS_A_CLUSTER * clusters)
    sample = unit[np.random.default_rng(seed).permutation(len(unit))[:few]]
    centroids = _fitted(sample, clusters, seed)
    share = max(2, len(sample) // (2 * clusters))
    for _ in range(rounds):
        labels, distances = assign(sample, centroids)
        nearest = sample[rank_in_cluster(labels, distances) < share]
        if len(nearest) < clusters:
            break  # clusters so small, or rows so alike, that there is nothing to even out
        centroids = _fitted(nearest, clusters, seed)
    return Clusters(centroids, *assign(unit, centroids))


def assign(unit: Matrix, centroids: Matrix) -> tuple[Rows, Scores]:
    """Return each row's nearest centroid by cosine, and the cosine distance to it."""
    labels = np.empty(len(unit), np.int64)
    distances = np.empty(len(unit), np.float32)
    step = max(1, _CHUNK_CELLS // len(centroids))
    for start in range(0, len(unit), step):
        similarities = unit[start : start + step] @ centroids.T
        labels[start : start + step] = similarities.argmax(1)
        distances[start : start + step] = np.clip(1 - similarities.max(1), 0, 2)
    return labels, distances


def rank_in_cluster(labels: Rows, keys: NDArray[np.floating]) -> Rows:
    """Return each row's place in its cluster by ascending key: 0, 1, 2 and so on; ties in the order of the rows."""
    order = np.lexsort((keys, labels))
    sizes = np.bincount(labels)
    starts = np.cumsum(sizes) - sizes
    ranks = np.empty(len(labels), np.int64)
    ranks[order] = np.arange(len(labels)) - starts[labels[order]]
    return ranks


def square_root(rows: int) -> int:
    """Return the usual number of clusters of so many rows."""
    return max(1, round(rows**0.5))


def _fitted(sample: Matrix, clusters: int, seed: int) -> Matrix:
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    options = {"n_clusters": clusters, "n_init": 1, "random_state": seed % 2**32}
    fit = KMeans(max_iter=50, **options) if len(sample) <= _SMALL else MiniBatchKMeans(batch_size=4096, **options)
    # Threads would sum in an order of their own, and the last bits of a centroid decide who is on which side.
    with threadpool_limits(1, "openmp"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than clusters: some stay empty
        fit.fit(sample)
    return unit_rows(fit.cluster_centers_).astype(np.float32)
