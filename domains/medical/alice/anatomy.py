"""A folder of volumes with their dense embeddings: what pairs of the same anatomy are found in.

One file a volume, ``<key>.safetensors``, with ``volume`` ``(x, y, z)`` as the processor gives it, ``fine`` and
``coarse`` (see `domains.medical.alice.matching.DenseEmbedding`) and ``per_voxel`` ``(3,)``; the key is `key_of` the
volume. ``pairs.csv``, where there is one, holds pairs that were found before: the columns are `COLUMNS`.
"""

from __future__ import annotations

import csv
import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor

from domains.medical.alice.matching import DenseEmbedding, Point, match
from hub.errors import InvalidRecipe

COLUMNS = ("volume", "x", "y", "z", "partner", "partner_x", "partner_y", "partner_z", "score")
PAIRS = "pairs.csv"
ACCEPTED = 0.7
"""Score above which two points are taken to show the same anatomy (Alice's code)."""
TRIES = 101
"""Points that are tried at most; then the best match so far is taken."""
KEPT = 16
"""Volumes kept in memory."""


@dataclass(frozen=True)
class Pair:
    """The same anatomy in two volumes.

    Attributes:
        point: Voxel of the volume asked for.
        partner: The other volume, ``(x, y, z)``.
        partner_point: Its voxel.
        score: Of the match.
        partner_key: Which volume it is.
    """

    point: Point
    partner: Tensor
    partner_point: Point
    score: float
    partner_key: str


def key_of(volume: Tensor) -> str:
    """Return what tells volumes apart: a digest of their voxels."""
    return hashlib.sha256(np.ascontiguousarray(volume.numpy()).tobytes()).hexdigest()[:16]


def foreground_point(volume: Tensor, margin: int, generator: Generator) -> Point:
    """Draw a voxel above 0 that is at least ``margin`` voxels from the far borders; any voxel where there is none."""
    inner = volume[tuple(slice(0, max(side - margin, 1)) for side in volume.shape)]
    bright = inner.flatten().nonzero()[:, 0]
    shape = inner.shape if len(bright) else volume.shape
    places = bright if len(bright) else torch.arange(volume.numel())
    drawn = places[int(torch.randint(len(places), (), generator=generator))]
    x, y, z = (int(c) for c in torch.unravel_index(drawn, shape))
    return x, y, z


class Anatomy:
    """The folder, opened."""

    def __init__(self, folder: Path) -> None:
        """Look what is there.

        Raises:
            InvalidRecipe: There is no such folder, or it holds fewer than two volumes.
        """
        self.folder = folder
        self.keys = sorted(p.stem for p in folder.glob("*.safetensors")) if folder.is_dir() else []
        if len(self.keys) < 2:
            raise InvalidRecipe(
                f"pretext.anatomy: {folder} holds no two embedded volumes; write them with "
                "python -m domains.medical.alice.mining"
            )
        self._read: OrderedDict[str, tuple[Tensor, DenseEmbedding]] = OrderedDict()
        self._pairs: dict[str, list[dict[str, str]]] | None = None

    def get(self, key: str) -> tuple[Tensor, DenseEmbedding]:
        """Return a volume and its embedding.

        Raises:
            InvalidRecipe: It is not in the folder, or its file is damaged.
        """
        if key not in self._read:
            try:
                tensors = load_file(self.folder / f"{key}.safetensors")
                volume, per_voxel = tensors["volume"].float(), tensors["per_voxel"].tolist()
                found = volume, DenseEmbedding(tensors["fine"].float(), tensors["coarse"].float(), per_voxel)
            except (FileNotFoundError, KeyError, SafetensorError) as error:
                raise InvalidRecipe(
                    f"pretext.anatomy: {self.folder} has no embedding of a volume of the training data "
                    f"({type(error).__name__}); embed the same files with the same processor"
                ) from None
            self._read[key] = found
            if len(self._read) > KEPT:
                self._read.popitem(last=False)
        self._read.move_to_end(key)
        return self._read[key]

    def find(self, key: str, margin: int, generator: Generator) -> Pair:
        """Draw another volume and match points of this one in it until the score is above `ACCEPTED`."""
        volume, query = self.get(key)
        others = [k for k in self.keys if k != key]
        partner_key = others[int(torch.randint(len(others), (), generator=generator))]
        partner, target = self.get(partner_key)
        best: Pair | None = None
        for _ in range(TRIES):
            point = foreground_point(volume, margin, generator)
            found, score = match(point, query, target, partner.shape)
            if best is None or score > best.score:
                best = Pair(point, partner, found, score, partner_key)
            if score > ACCEPTED:
                break
        assert best is not None
        return best

    def recall(self, key: str, generator: Generator) -> Pair:
        """Draw one of the pairs of ``pairs.csv``.

        Raises:
            InvalidRecipe: There is no such file, or none of this volume in it.
        """
        if self._pairs is None:
            self._pairs = {}
            try:
                with (self.folder / PAIRS).open(newline="", encoding="utf-8") as stream:
                    for line in csv.DictReader(stream):
                        self._pairs.setdefault(line["volume"], []).append(line)
            except (OSError, KeyError):
                raise InvalidRecipe(f"{self.folder / PAIRS} is not there, or lacks one of {COLUMNS}") from None
        rows = self._pairs.get(key, [])
        if not rows:
            raise InvalidRecipe(f"{self.folder / PAIRS} has no pair of a volume of the training data")
        row = rows[int(torch.randint(len(rows), (), generator=generator))]
        try:
            point = (int(row["x"]), int(row["y"]), int(row["z"]))
            other = (int(row["partner_x"]), int(row["partner_y"]), int(row["partner_z"]))
            score = float(row["score"])
        except (KeyError, TypeError, ValueError):
            raise InvalidRecipe(f"{self.folder / PAIRS}: a line has no whole numbers where voxels belong") from None
        return Pair(point, self.get(row["partner"])[0], other, score, row["partner"])


def write(folder: Path, volume: Tensor, embedding: DenseEmbedding) -> str:
    """Write one volume with its embedding, the vectors at half precision, and return its key."""
    key = key_of(volume)
    tensors = {
        "volume": volume.contiguous(),
        "fine": embedding.fine.half().contiguous(),
        "coarse": embedding.coarse.half().contiguous(),
        "per_voxel": torch.tensor(list(embedding.per_voxel), dtype=torch.float64),
    }
    save_file(tensors, folder / f"{key}.safetensors")
    return key


def write_pairs(folder: Path, pairs: Sequence[tuple[str, Pair]]) -> None:
    """Write ``pairs.csv``: for each pair the key of its volume, and the pair."""
    with (folder / PAIRS).open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(COLUMNS)
        for key, pair in pairs:
            table.writerow([key, *pair.point, pair.partner_key, *pair.partner_point, round(pair.score, 4)])
