"""Label-free data curation: which samples of a pool to train on, told from their embeddings alone."""

from hub.curation.balanced import Balanced, balanced_counts, water_fill
from hub.curation.clustering import Clusters, kmeans
from hub.curation.curator import STRATEGIES, Curator
from hub.curation.duplicates import Duplicates
from hub.curation.prototype import Prototype
from hub.curation.selection import Selection
from hub.curation.target import Target, similar_in_rounds

__all__ = [
    "STRATEGIES",
    "Balanced",
    "Clusters",
    "Curator",
    "Duplicates",
    "Prototype",
    "Selection",
    "Target",
    "balanced_counts",
    "kmeans",
    "similar_in_rounds",
    "water_fill",
]
