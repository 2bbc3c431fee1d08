"""Crops around points, and which of their columns are hidden."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor


def crop_around(volume: Tensor, centre: Sequence[int], sides: Sequence[int]) -> Tensor:
    """Cut ``sides`` voxels around a point out of ``(x, y, z)``; what lies outside the volume is 0.

    Args:
        volume: To cut from.
        centre: The point, which becomes voxel ``side // 2`` along each axis.
        sides: Of the crop.
    """
    crop = volume.new_zeros(tuple(sides))
    source, target = [], []
    for point, side, size in zip(centre, sides, volume.shape, strict=True):
        first = point - side // 2
        low, high = max(first, 0), min(first + side, size)
        source.append(slice(low, max(low, high)))
        target.append(slice(low - first, max(low, high) - first))
    crop[tuple(target)] = volume[tuple(source)]
    return crop


def column_mask(grid: Sequence[int], patch: int, ratio: float, generator: Generator) -> Tensor:
    """Draw which cells of a crop are hidden, ``(x, y, z)`` bool: whole columns along z, in squares of ``patch`` cells.

    Masked image modelling as in SimMIM (Xie et al. 2022), drawn along the first two axes and repeated along the third
    (Alice's code).

    Args:
        grid: Cells along each side.
        patch: Cells along the side of a square.
        ratio: Share of the squares that is hidden, rounded up.
        generator: Source of the draw.
    """
    rows, columns = math.ceil(grid[0] / patch), math.ceil(grid[1] / patch)
    hidden = torch.zeros(rows * columns, dtype=torch.bool)
    hidden[torch.randperm(rows * columns, generator=generator)[: math.ceil(ratio * rows * columns)]] = True
    squares = hidden.view(rows, columns).repeat_interleave(patch, 0).repeat_interleave(patch, 1)
    return squares[: grid[0], : grid[1], None].expand(*grid).clone()


def reshaded(crop: Tensor, gamma: float, noise: float, generator: Generator) -> Tensor:
    """Change the contrast of a crop of intensities from 0 to 1 and add noise.

    Args:
        crop: Any shape.
        gamma: Standard deviation of the logarithm of the exponent.
        noise: Standard deviation of what is added; the result stays between 0 and 1.
        generator: Source of the draws.
    """
    if gamma:
        crop = crop ** math.exp(gamma * float(torch.randn((), generator=generator)))
    if noise:
        crop = (crop + noise * torch.randn(crop.shape, generator=generator)).clamp(0, 1)
    return crop
