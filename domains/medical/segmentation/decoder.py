"""A U-Net decoder on the feature maps of an encoder of pictures or volumes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.blocks import UnetBasicBlock, UnetOutBlock, UnetResBlock
from torch import Tensor, nn
from torch.nn import functional as F

NORM = ("group", {"num_groups": 4})
"""Groups and not batches: a batch holds few volumes."""


class PyramidDecoder(nn.Module):
    """Feature maps, from the deepest to the finest, and the image itself to the classes of its pixels or voxels.

    Each level is brought to the grid of the next finer one and read beside it by a residual block, as in U-Net
    (Ronneberger et al. 2015) and UNETR (Hatamizadeh et al. 2022). Maps that all have one grid, as those of a plain ViT,
    are spread over grids that double from the deepest to the finest, as in UNETR. Grids need no whole ratio.
    """

    def __init__(self, dimensions: int, channels: int, widths: Sequence[int], classes: int, width: int) -> None:
        """Create the layers.

        Args:
            dimensions: 2 for pictures, 3 for volumes.
            channels: Of the image.
            widths: Channels of the maps, finest first.
            classes: How many.
            width: Channels at the image's own resolution; each level below has twice as many, at most as its map.
        """
        super().__init__()
        mixed = [min(width * 2 ** (level + 1), _of_four(wide)) for level, wide in enumerate(widths)]
        self.image = UnetBasicBlock(dimensions, channels, width, 3, 1, NORM)
        self.deepest = UnetResBlock(dimensions, widths[-1], mixed[-1], 3, 1, NORM)
        self.levels = nn.ModuleList(
            UnetResBlock(dimensions, mixed[level + 1] + widths[level], mixed[level], 3, 1, NORM)
            for level in range(len(widths) - 1)
        )
        self.finest = UnetResBlock(dimensions, mixed[0] + width, width, 3, 1, NORM)
        self.output = UnetOutBlock(dimensions, width, classes)
        self.linear = "bilinear" if dimensions == 2 else "trilinear"

    def forward(self, maps: Sequence[Tensor], image: Tensor) -> Tensor:
        """Return logits ``(batch, classes, *image's grid)`` float32.

        Args:
            maps: ``(batch, channels, ...)`` each, finest first.
            image: ``(batch, channels, ...)``, what they are the maps of.
        """
        maps = [m.to(self.output.conv.conv.weight.dtype) for m in maps]
        grids = [m.shape[2:] for m in maps]
        if len(maps) > 1 and len(set(grids)) == 1:
            grids = [torch.Size(side * 2 ** (len(maps) - 1 - level) for side in grids[0]) for level in range(len(maps))]
        states = self.deepest(maps[-1])
        for level in reversed(range(len(maps) - 1)):
            both = [self._onto(states, grids[level]), self._onto(maps[level], grids[level])]
            states = self.levels[level](torch.cat(both, dim=1))
        fine = self.image(image.to(states.dtype))
        return self.output(self.finest(torch.cat([self._onto(states, fine.shape[2:]), fine], dim=1))).float()

    def _onto(self, states: Tensor, grid: torch.Size) -> Tensor:
        return states if states.shape[2:] == grid else F.interpolate(states, grid, mode=self.linear)


def _of_four(width: int) -> int:
    """Return the largest multiple of four, which the normalisation's groups need, up to a width; at least four."""
    return max(4, width // 4 * 4)
