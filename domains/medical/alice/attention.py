"""Attention within windows of a grid of cells, shifted by half a window in every second block."""

from __future__ import annotations

import itertools
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EXCLUDED = -100.0
"""Added to the score of two cells that the shift brought into one window from opposite ends of the grid."""


def relative_index(window: int, published: bool) -> Tensor:
    """Number the offsets between the cells of a window, ``(cells, cells)``.

    Args:
        window: Cells along each side.
        published: Whether to number them as nnFormer's code does: with ``3 w - 1`` where ``(2 w - 1)^2`` is due, so
            that of the ``(2 w - 1)^3`` biases few are used, and different offsets share one.
    """
    side = 2 * window - 1
    strides = (3 * window - 1 if published else side * side, side, 1)
    cells = torch.tensor(list(itertools.product(range(window), repeat=3)))
    offsets = cells[:, None] - cells[None] + window - 1
    return (offsets * torch.tensor(strides)).sum(-1)


def split_windows(cells: Tensor, window: int) -> Tensor:
    """Cut ``(batch, x, y, z, channels)`` to ``(batch * windows, window^3, channels)``."""
    batch, *grid, width = cells.shape
    x, y, z = (side // window for side in grid)
    parts = cells.view(batch, x, window, y, window, z, window, width).permute(0, 1, 3, 5, 2, 4, 6, 7)
    return parts.reshape(-1, window**3, width)


def join_windows(parts: Tensor, window: int, grid: tuple[int, ...]) -> Tensor:
    """Undo `split_windows` for a grid of these sides."""
    x, y, z = (side // window for side in grid)
    width = parts.shape[-1]
    cells = parts.view(-1, x, y, z, window, window, window, width).permute(0, 1, 4, 2, 5, 3, 6, 7)
    return cells.reshape(-1, *grid, width)


@lru_cache(maxsize=64)
def exclusions(grid: tuple[int, ...], real: tuple[int, ...], window: int, shift: int) -> Tensor | None:
    """Return what to add to the scores of each window of a shifted grid, ``(windows, cells, cells)``, if anything.

    Args:
        grid: Sides, multiples of the window.
        real: Sides without the cells that were added at the end to make them so.
        window: Cells along each side of a window.
        shift: Cells that the grid was rolled by.
    """
    if not shift and grid == real:
        return None
    regions = torch.zeros(1, *grid, 1)
    sides = []
    for side, inside in zip(grid, real, strict=True):
        place = torch.arange(side)
        # As the grid lies after rolling: three stretches, of which the last came round from the beginning.
        region = (place >= side - window).long() + (place >= side - shift).long() if shift else torch.zeros_like(place)
        added = place.roll(-shift) >= inside
        sides.append(torch.where(added, 3, region))
    x, y, z = torch.meshgrid(*sides, indexing="ij")
    added = (x == 3) | (y == 3) | (z == 3)
    regions[0, ..., 0] = torch.where(added, -1, x * 9 + y * 3 + z).float()
    labels = split_windows(regions, window)[..., 0]
    return (labels[:, :, None] != labels[:, None]).float() * EXCLUDED


class WindowAttention(nn.Module):
    """Multi-head attention within windows, with a learnt bias for each relative position."""

    relative_position_index: Tensor

    def __init__(self, width: int, heads: int, window: int, shift: int, published: bool, across: bool = False) -> None:
        """Create the layers.

        Args:
            width: Channels.
            heads: Must divide them.
            window: Cells along each side.
            shift: Cells to roll the grid by.
            published: See `relative_index`.
            across: Whether queries are given as they are and only keys and values are projected (the decoder's).
        """
        super().__init__()
        self.heads, self.window, self.shift, self.published = heads, window, shift, published
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 3, heads))
        self.register_buffer("relative_position_index", relative_index(window, published), persistent=False)
        if across:
            self.kv = nn.Linear(width, 2 * width)
        else:
            self.qkv = nn.Linear(width, 3 * width)
        self.across = across
        self.proj = nn.Linear(width, width)

    def forward(self, cells: Tensor, queries: Tensor | None = None) -> Tensor:
        """Attend within the windows of a grid.

        Args:
            cells: ``(batch, x, y, z, channels)``.
            queries: The same shape, where they are not the cells' own.
        """
        real = tuple(cells.shape[1:4])
        window = self.window
        grid = tuple(-(-side // window) * window for side in real)
        keys = self._windows(cells, grid)
        count, width = keys.shape[1], keys.shape[2]
        if self.across:
            assert queries is not None
            key_value = self.kv(keys).view(-1, count, 2, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
            query = self._windows(queries, grid).view(-1, count, self.heads, width // self.heads).transpose(1, 2)
            key, value = key_value.unbind(0)
        else:
            query, key, value = (
                self.qkv(keys).view(-1, count, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
            )
        bias = self.relative_position_bias_table[self.relative_position_index.flatten()]
        bias = bias.view(count, count, self.heads).permute(2, 0, 1)[None]
        excluded = exclusions(grid, real, window, self.shift)
        if excluded is not None:
            excluded = excluded.to(bias)[:, None].repeat(len(cells), 1, 1, 1)
            bias = bias + excluded
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        mixed = self.proj(mixed.transpose(1, 2).reshape(-1, count, width))
        whole = join_windows(mixed, window, grid)
        if self.shift:
            whole = whole.roll((self.shift,) * 3, dims=(1, 2, 3))
        return whole[:, : real[0], : real[1], : real[2]]

    def _windows(self, cells: Tensor, grid: tuple[int, ...]) -> Tensor:
        added = [side - own for side, own in zip(grid, cells.shape[1:4], strict=True)]
        if any(added):
            cells = F.pad(cells, (0, 0, 0, added[2], 0, added[1], 0, added[0]))
        if self.shift:
            cells = cells.roll((-self.shift,) * 3, dims=(1, 2, 3))
        return split_windows(cells, self.window)
