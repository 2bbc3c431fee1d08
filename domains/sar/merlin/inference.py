"""Despeckling an image of any size from top to bottom, with one row of tiles in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from domains.sar.merlin.tiles import blending_weights, reflected, tile_offsets, tile_side

if TYPE_CHECKING:
    from domains.sar.merlin.modeling import MerlinModel

PARTS_AT_ONCE = {"cpu": 1, "cuda": 128}
"""Tiles of one part in one pass of the network. On a CPU one after the other is faster: its caches hold no more."""

ReadRows = Callable[[int, int], Tensor]


@dataclass(frozen=True)
class Strip:
    """Some finished rows of a despeckled image.

    Attributes:
        row: The first of them.
        amplitude: ``(rows, columns)`` float32.
        parts: Of complex input the estimates from the real part and from the imaginary part alone, ``(2, rows,
            columns)``; the intensity is the mean of theirs. Of detected input the amplitude again.
    """

    row: int
    amplitude: Tensor
    parts: Tensor


def parts_at_once(device: torch.device) -> int:
    """Return how many tiles of one part a device takes in one pass."""
    return PARTS_AT_ONCE.get(device.type, PARTS_AT_ONCE["cpu"])


@torch.inference_mode()
def despeckled_strips(
    model: MerlinModel, read_rows: ReadRows, rows: int, columns: int, scale: float
) -> Iterator[Strip]:
    """Yield the despeckled image from top to bottom.

    Tiles of the configuration's ``patch`` every ``stride`` pixels; where they overlap, their normalised logarithms are
    averaged (amplitudes, for detected input), and then the intensities of the two parts.

    Args:
        model: With the network and the constants.
        read_rows: ``(first, last) -> (parts, rows, columns)`` float32, the parts of some rows, missing pixels 0.
        rows: Of the image, at least 32.
        columns: Of the image, at least 32.
        scale: Factor on the input, undone on the output.
    """
    config = model.config
    height, width = tile_side(rows, config.patch), tile_side(columns, config.patch)
    tops = tile_offsets(rows, height, config.stride)
    lefts = tile_offsets(columns, width, config.stride)
    overlap = config.patch - config.stride
    down = blending_weights(height, overlap, taper=config.taper).to(model.device)
    across = blending_weights(width, overlap, taper=config.taper).to(model.device)
    column_sum = torch.zeros(max(columns, width), device=model.device)
    for left in lefts:
        column_sum[left : left + width] += across
    total = torch.zeros(config.parts, height, len(column_sum), device=model.device)
    row_sum = torch.zeros(height, device=model.device)
    for top, following in zip(tops, [*tops[1:], None], strict=True):
        image = read_rows(top, min(top + height, rows)).to(model.device) * scale
        image = reflected(image, height, len(column_sum))
        at_once = max(1, parts_at_once(model.device) // config.parts)
        for first in range(0, len(lefts), at_once):
            group = lefts[first : first + at_once]
            tiles = torch.stack([image[:, :, left : left + width] for left in group])
            for left, estimate in zip(group, model.despeckle_tiles(tiles), strict=True):
                total[:, :, left : left + width] += estimate * (down[:, None] * across)
        row_sum += down
        done = height if following is None else following - top
        mean = total[:, :done] / (row_sum[:done, None] * column_sum)
        yield _strip(model, mean[:, : rows - top, :columns], top, scale)
        total = torch.cat([total[:, done:], torch.zeros_like(total[:, :done])], dim=1)
        row_sum = torch.cat([row_sum[done:], torch.zeros_like(row_sum[:done])])


def _strip(model: MerlinModel, mean: Tensor, row: int, scale: float) -> Strip:
    parts = (model.amplitudes(mean) if model.config.input == "complex" else mean) / scale
    return Strip(row, parts.square().mean(0).sqrt().float().cpu(), parts.float().cpu())
