"""Difference hashes: 64 bits that hardly change when a picture is compressed, rescaled or brightened."""

from __future__ import annotations

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Hashes = NDArray[np.uint64]


def difference_hash(plane: NDArray[np.floating]) -> np.uint64:
    """Return the 64-bit difference hash (dHash) of a slice or picture.

    Scaled from its minimum and maximum to bytes, resized to 9 x 8, and each pixel compared with its right neighbour
    (as in Wolf et al., "Less is more", Comput. Biol. Med. 2024).

    Args:
        plane: ``(rows, columns)`` or ``(channels, rows, columns)``, finite; channels are averaged.
    """
    grey = plane.mean(0) if plane.ndim == 3 else plane
    low, high = float(grey.min()), float(grey.max())
    scaled = np.zeros(grey.shape, np.uint8) if high <= low else ((grey - low) * (255 / (high - low))).astype(np.uint8)
    bits = imagehash.dhash(Image.fromarray(scaled)).hash
    return np.packbits(bits.ravel()).view(">u8")[0].astype(np.uint64)


def hamming(first: Hashes, second: Hashes) -> NDArray[np.int64]:
    """Return in how many of their 64 bits hashes differ; the arrays are broadcast."""
    return np.bitwise_count(np.bitwise_xor(first, second)).astype(np.int64)
