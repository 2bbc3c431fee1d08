"""Finding the same anatomy in another volume: the largest cosine of dense embeddings (SAM, Yan et al., TMI 2022)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

Point = tuple[int, int, int]


@dataclass(frozen=True)
class DenseEmbedding:
    """Unit vectors on two grids over a volume: a fine one for where exactly, a coarse one for what is around.

    Attributes:
        fine: ``(channels, x, y, z)``.
        coarse: ``(channels, x', y', z')``.
        per_voxel: Cells of the fine grid in a voxel of the volume, along each axis; 0.5 for a grid of stride 2.
    """

    fine: Tensor
    coarse: Tensor
    per_voxel: Sequence[float]

    @cached_property
    def surroundings(self) -> Tensor:
        """The coarse vectors on the fine grid, of unit length again."""
        grid = self.fine.shape[1:]
        finer = F.interpolate(self.coarse[None], size=tuple(grid), mode="trilinear", align_corners=False)[0]
        return F.normalize(finer, dim=0)

    def cell(self, point: Sequence[int]) -> Point:
        """Return the cell of the fine grid that holds a voxel."""
        x, y, z = (
            min(max(math.floor(p * ratio), 0), side - 1)
            for p, ratio, side in zip(point, self.per_voxel, self.fine.shape[1:], strict=True)
        )
        return x, y, z

    def voxel(self, cell: Sequence[int], shape: Sequence[int]) -> Point:
        """Return the voxel at the middle of a cell of the fine grid, within a volume of this shape."""
        x, y, z = (
            min(max(math.floor((c + 0.5) / ratio - 0.5), 0), side - 1)
            for c, ratio, side in zip(cell, self.per_voxel, shape, strict=True)
        )
        return x, y, z


def match(
    point: Sequence[int], query: DenseEmbedding, key: DenseEmbedding, shape: Sequence[int]
) -> tuple[Point, float]:
    """Find the voxel of another volume that shows the same anatomy.

    Args:
        point: Voxel of the query volume.
        query: Of the query volume.
        key: Of the key volume.
        shape: Of the key volume, voxels.

    Returns:
        The voxel, and its score: the mean of the fine and the coarse cosine.
    """
    x, y, z = query.cell(point)
    fine = torch.einsum("c,cxyz->xyz", query.fine[:, x, y, z], key.fine)
    coarse = torch.einsum("c,cxyz->xyz", query.surroundings[:, x, y, z], key.surroundings)
    scores = (fine + coarse) / 2
    best = int(scores.argmax())
    cell = [int(c) for c in torch.unravel_index(torch.tensor(best), scores.shape)]
    return key.voxel(cell, shape), float(scores.flatten()[best])
