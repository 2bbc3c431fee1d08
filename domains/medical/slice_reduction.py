"""Which slices of a volume to train on: neighbours show nearly the same, and pretraining pays for each of them.

The strategies of Wolf et al. ("Less is more: selective reduction of CT data for self-supervised pre-training", Comput.
Biol. Med. 2024): perceptual hashes, similarity of deep embeddings, and information. Always within one volume.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.measure import shannon_entropy
from skimage.metrics import normalized_mutual_information

from domains.medical.hashing import difference_hash, hamming
from domains.medical.image import MedicalImage
from hub.curation.duplicates import Duplicates
from hub.curation.selection import Selection, count_of
from hub.errors import UnsupportedOption

BINS = 64
"""Grey levels that information is counted in."""


@dataclass(frozen=True)
class SliceReduction:
    """One way of choosing slices.

    Attributes:
        by: ``hash`` (a slice is left out when its difference hash is within ``threshold`` bits of a kept one's; 6 is
            the paper's Hash-6), ``embedding`` (when its embedding's cosine similarity to a kept one's reaches
            ``threshold``), ``mutual_information`` (when its normalised mutual information with a kept one, 1 to 2,
            reaches ``threshold``), or ``entropy`` (the share ``threshold`` of the slices with the highest entropy is
            kept).
        threshold: See ``by``; `DEFAULTS` unless given.
    """

    by: str = "hash"
    threshold: float | None = None

    def __post_init__(self) -> None:
        """Raise UnsupportedOption on a strategy or a threshold that cannot be."""
        if self.by not in DEFAULTS:
            raise UnsupportedOption(f"by is {self.by!r}; it is one of {', '.join(DEFAULTS)}", param="by")
        _, low, high = DEFAULTS[self.by]
        if not low <= self.level <= high:
            raise UnsupportedOption(
                f"threshold is {self.level:g}; by {self.by} it lies between {low:g} and {high:g}", param="threshold"
            )

    @property
    def level(self) -> float:
        """The threshold, given or the strategy's own."""
        return DEFAULTS[self.by][0] if self.threshold is None else self.threshold

    def __call__(self, image: MedicalImage, embeddings: NDArray[np.float32] | None = None) -> Selection:
        """Choose among the slices of one image, as they were acquired; a picture or single slice is always kept.

        Args:
            image: A volume.
            embeddings: ``(slices, features)``, for ``by="embedding"`` and for nothing else.

        Raises:
            UnsupportedOption: Embeddings are missing or not asked for.
        """
        if (embeddings is not None) != (self.by == "embedding"):
            raise UnsupportedOption("embeddings are for reduction by embedding, which needs them", param="by")
        if embeddings is not None:
            return Duplicates(threshold=self.level)(embeddings, seed=0)
        slices = image.slices()
        if self.by == "entropy":
            return _most_informative(slices, self.level)
        if self.by == "hash":
            hashes = np.array([difference_hash(s) for s in slices])
            selection = _exemplars(len(slices), lambda i, kept: -hamming(hashes[i], hashes[kept]), -self.level)
            return _explained(selection, "minus Hamming distance", f"hash within {self.level:g} bits of a kept slice")
        levels = [_grey_levels(s) for s in slices]
        selection = _exemplars(
            len(slices),
            lambda i, kept: np.array([_mutual_information(levels[i], levels[k]) for k in kept]),
            self.level,
        )
        name = "normalised mutual information"
        return _explained(selection, name, f"{name} of at least {self.level:g} with a kept slice")


DEFAULTS: dict[str, tuple[float, float, float]] = {
    "hash": (6, 0, 64),
    "embedding": (0.95, 1e-6, 1),
    "mutual_information": (1.25, 1, 2),
    "entropy": (0.5, 1e-6, 1),
}
"""Strategy to its threshold unless given, and the least and the largest it can be."""


def _exemplars(count: int, similarity: Callable[[int, NDArray[np.int64]], NDArray], threshold: float) -> Selection:
    """Walk through the slices and leave out each that is like one kept before."""
    kept: list[int] = []
    stands_for, scores = np.arange(count), np.zeros(count, np.float32)
    for number in range(count):
        if kept:
            values = np.asarray(similarity(number, np.array(kept)), np.float64)
            best = int(values.argmax())
            scores[number] = values[best]
            if values[best] >= threshold:
                stands_for[number] = kept[best]
                continue
        kept.append(number)
    return Selection(np.array(kept), scores, stands_for, "", "", stands_for)


def _explained(selection: Selection, score: str, reason: str) -> Selection:
    return Selection(
        selection.kept,
        selection.scores,
        selection.clusters,
        f"{score} to the nearest kept slice",
        reason,
        selection.stands_for,
    )


def _most_informative(slices: NDArray[np.float32], share: float) -> Selection:
    entropies = np.array([shannon_entropy(_grey_levels(s)) for s in slices], np.float32)
    count = count_of(share, len(slices))
    kept = np.sort(np.argsort(-entropies, kind="stable")[:count])
    reason = f"entropy below that of the {count} slices kept"
    return Selection(kept, entropies, np.zeros(len(slices), np.int64), "entropy in bits", reason)


def _grey_levels(plane: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return a slice in `BINS` grey levels from its minimum to its maximum, ``(rows, columns)``."""
    grey = plane.mean(0)
    low, high = float(grey.min()), float(grey.max())
    if high <= low:
        return np.zeros(grey.shape, np.uint8)
    return np.minimum((grey - low) * (BINS / (high - low)), BINS - 1).astype(np.uint8)


def _mutual_information(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """Return (H(A) + H(B)) / H(A, B); two flat slices are equal."""
    value = float(normalized_mutual_information(first, second, bins=BINS))
    return value if np.isfinite(value) else 2.0
