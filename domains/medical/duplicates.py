"""Near-duplicates in a labelled set, by perceptual hash: the same image on two sides of a split is a leak."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch.nn import functional as F

from domains.medical.hashing import Hashes, difference_hash, hamming
from domains.medical.image import MedicalImage
from hub.errors import InvalidInput, InvalidManifest
from hub.manifest import Row
from hub.reading import Reader, Source

DISTANCE = 4
"""Most bits of 64 in which the hashes of two copies of a picture differ."""
VOLUME_DISTANCE = 9
"""The same for the mean over a volume's hashes, which differ more where slices are left out or rescaled."""
CORRELATION = 0.97
"""Least correlation of two copies' thumbnails. Of different brain MR images whose hashes nearly agree it is at most
0.961; of copies compressed, rescaled, made noisy or brightened at least 0.978 (docs/medical-finetuning.md)."""
THUMBNAIL = {2: 32, 3: 16}
"""Side of a thumbnail of pictures and of volumes, by dimensions."""
PLACES = (0.3, 0.4, 0.5, 0.6, 0.7)
"""Where on each axis of a volume a slice is hashed, as shares of its length."""
PAIRS_SHOWN = 5

_BLOCK = 1024


@dataclass(frozen=True)
class Pair:
    """Two rows, counted from 0, that show the same image, and the mean number of bits their hashes differ in."""

    first: int
    second: int
    distance: float


@dataclass(frozen=True)
class Fingerprint:
    """What an image is known by.

    Attributes:
        hashes: One of a picture or slice, fifteen of a volume; none of what is flat or could not be read.
        thumbnail: The image at `THUMBNAIL`, without its mean and at unit length, flat.
    """

    hashes: Hashes
    thumbnail: NDArray[np.float32]


NOTHING = Fingerprint(np.array([], np.uint64), np.array([], np.float32))


def fingerprint(image: MedicalImage) -> Fingerprint:
    """Return what an image is known by.

    A volume's hashes are of slices across its three axes, so that it is told from its neighbours in a study, which a
    single slice may not do.

    Args:
        image: Any; a flat one gives `NOTHING`.
    """
    values = image.values
    if not np.ptp(values) > 0:
        return NOTHING
    planes = [values[:, 0]]
    if image.is_volume:
        planes = [
            values.take(round(share * (values.shape[axis] - 1)), axis=axis) for axis in (1, 2, 3) for share in PLACES
        ]
    return Fingerprint(np.array([difference_hash(p) for p in planes], np.uint64), _thumbnail(image))


def near_duplicates(fingerprints: Sequence[Fingerprint]) -> list[Pair]:
    """Return all pairs of images that are copies of each other by their hashes and by their thumbnails, in order.

    Hashes alone also agree where anatomy does. Only images of one kind are compared: pictures with pictures, volumes
    with volumes.

    Args:
        fingerprints: One an image.
    """
    found = []
    for length in sorted({len(f.hashes) for f in fingerprints} - {0}):
        numbers = np.array([n for n, f in enumerate(fingerprints) if len(f.hashes) == length])
        table = np.stack([fingerprints[n].hashes for n in numbers])
        thumbnails = np.stack([fingerprints[n].thumbnail for n in numbers])
        most = DISTANCE if length == 1 else VOLUME_DISTANCE
        for start in range(0, len(table), _BLOCK):
            block = table[start : start + _BLOCK]
            bits = np.zeros((len(block), len(table) - start))
            for column in range(length):
                bits += hamming(block[:, column, None], table[start:, column])
            bits /= length
            for i, j in np.argwhere(np.triu(bits <= most, k=1)):
                if thumbnails[start + i] @ thumbnails[start + j] >= CORRELATION:
                    found.append(Pair(int(numbers[start + i]), int(numbers[start + j]), float(bits[i, j])))
    return sorted(found, key=lambda pair: (pair.first, pair.second))


def _thumbnail(image: MedicalImage) -> NDArray[np.float32]:
    grey = torch.from_numpy(image.values.mean(0))
    if image.is_volume:
        small = F.adaptive_avg_pool3d(grey[None], THUMBNAIL[3])
    else:
        small = F.adaptive_avg_pool2d(grey, THUMBNAIL[2])
    centred = small.flatten() - small.mean()
    return F.normalize(centred, dim=0).numpy()


def groups_of(pairs: Iterable[Pair], count: int) -> list[list[int]]:
    """Return what hangs together by pairs, in groups of at least two of ``count`` images, each ascending."""
    pairs = list(pairs)
    links = coo_array(
        (np.ones(len(pairs)), ([p.first for p in pairs], [p.second for p in pairs])), shape=(count, count)
    )
    _, labels = connected_components(links, directed=False)
    members: dict[int, list[int]] = {}
    for number, label in enumerate(labels.tolist()):
        members.setdefault(label, []).append(number)
    return [group for group in members.values() if len(group) > 1]


def fingerprints_of(rows: Sequence[Row], reader: Reader) -> list[Fingerprint]:
    """Return the fingerprint of what each row names; `NOTHING` of what cannot be read, which is reported elsewhere.

    Args:
        rows: Of a manifest; rows of one file that follow each other are read once.
        reader: Of the domain.
    """
    return [NOTHING if image is None else fingerprint(image) for image in _images(rows, reader)]


def keep_duplicates_together(rows: Sequence[Row], reader: Reader, leaky: bool) -> list[Row]:
    """Refuse a split that parts near-duplicates; where there is no split yet, see to it that none will.

    Args:
        rows: A labelled set.
        reader: Of the domain.
        leaky: Let the rows through as they are, with a warning.

    Returns:
        The rows; without a split column, near-duplicates and what shares a patient with them are one group.

    Raises:
        InvalidManifest: Near-duplicates are on two sides; the text names them by row numbers.
    """
    pairs = near_duplicates(fingerprints_of(rows, reader))
    if any(row.split for row in rows):
        leaking = [pair for pair in pairs if rows[pair.first].split != rows[pair.second].split]
        if not leaking:
            return list(rows)
        text = _describe(leaking, rows)
        if not leaky:
            raise InvalidManifest(
                f"{text}. Give near-duplicates to one side of the split, or --leaky-split if the leak is meant"
            )
        warnings.warn(text, stacklevel=2)
        return list(rows)
    if leaky:
        if pairs:
            warnings.warn(f"{len(pairs)} pairs of rows are near-duplicates, and may be parted", stacklevel=2)
        return list(rows)
    named = list(rows)
    links = [*pairs, *_of_one_patient(rows)]
    for group in groups_of(links, len(rows)):
        name = next((rows[n].group for n in group if rows[n].group), f"near-duplicates of row {group[0] + 1}")
        for number in group:
            named[number] = replace(rows[number], group=name)
    return named


def _describe(pairs: Sequence[Pair], rows: Sequence[Row]) -> str:
    shown = ", ".join(
        f"{p.first + 1} ({rows[p.first].split}) and {p.second + 1} ({rows[p.second].split})"
        for p in pairs[:PAIRS_SHOWN]
    )
    more = f" and {len(pairs) - PAIRS_SHOWN} more pairs" if len(pairs) > PAIRS_SHOWN else ""
    return f"near-duplicate images are on two sides of the split: rows {shown}{more}"


def _of_one_patient(rows: Sequence[Row]) -> Iterator[Pair]:
    first: dict[str, int] = {}
    for number, row in enumerate(rows):
        if row.group and first.setdefault(row.group, number) != number:
            yield Pair(first[row.group], number, 0.0)


def _images(rows: Sequence[Row], reader: Reader) -> Iterator[MedicalImage | None]:
    last: tuple[object, list[tuple[str, MedicalImage | None]]] = (None, [])
    for row in rows:
        if last[0] != row.file:
            try:
                last = (row.file, [(s.key, s.data) for s in reader.read(Source.from_path(row.file))])
            except InvalidInput:
                last = (row.file, [])
        found = [image for key, image in last[1] if not row.item or key == row.item]
        yield found[0] if len(found) == 1 else None
