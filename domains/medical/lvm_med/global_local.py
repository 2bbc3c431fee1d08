"""Contrast of slices by where they lie in their volume, and of regions within a slice (Chaitanya et al. 2020).

The published global loss cuts each volume into partitions along its axis: slices of one partition, of any volume, are
alike, and those of others are not. That is a supervised contrast with the partition's number as the label, which
`hub.ssl.multi_view_contrastive` computes. The local loss here reads the encoder's map instead of a decoder's.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hub.ssl.distributed import mean_share
from hub.ssl.precision import in_full_precision

REGION = 3
"""Side of a region, cells."""


def regions_of(cells: Tensor) -> Tensor:
    """Return the mean over each 3 x 3 region of a square map.

    Args:
        cells: ``(images, side * side, values)``.

    Returns:
        ``(images, regions, values)``, one region around each cell that is not at the border.
    """
    side = round(cells.shape[1] ** 0.5)
    grid = cells.transpose(1, 2).unflatten(2, (side, side))
    return F.avg_pool2d(grid, REGION, stride=1).flatten(2).transpose(1, 2)


@in_full_precision
def region_contrast(
    regions_s: Tensor, regions_t: Tensor, places_s: Tensor, places_t: Tensor, *, temperature: float = 0.1
) -> Tensor:
    """Tell the region of the other view that shows the same place from the other regions of the same image.

    Regions that overlap the right one are neither right nor wrong. A region whose place the other view does not show
    is left out. (The published loss draws 13 of the regions and 5 of the wrong ones; this takes all.)

    Args:
        regions_s: ``(images, regions, features)`` of the first view.
        regions_t: The same of the second.
        places_s: ``(images, regions, 2)`` centres in the whole image.
        places_t: The same of the second.
        temperature: Divides the cosines.

    Returns:
        Scalar; 0 where no view shows a place of the other and has a region besides.
    """
    distances = torch.cdist(places_s, places_t)
    nearest = distances.argmin(2)
    side = round(regions_t.shape[1] ** 0.5)
    grid = torch.arange(side, device=nearest.device)
    rows, columns = (axis.flatten() for axis in torch.meshgrid(grid, grid, indexing="ij"))
    apart = torch.maximum((rows[:, None] - rows).abs(), (columns[:, None] - columns).abs())
    away = apart[nearest]  # of each region of t from the nearest, in cells
    # Half the diagonal between neighbouring cells of t: as near as any place that t shows can be.
    cell = (places_t[:, -1] - places_t[:, 0]).abs() / max(side - 1, 1)
    seen = distances.gather(2, nearest[..., None])[..., 0] <= cell.norm(dim=1, keepdim=True) / 2 + 1e-6
    wrong = away >= REGION
    useful = seen & wrong.any(2)
    logits = F.normalize(regions_s, dim=2) @ F.normalize(regions_t, dim=2).transpose(1, 2) / temperature
    logits = logits.masked_fill(~wrong & (away > 0), float("-inf"))
    losses = F.cross_entropy(logits.flatten(0, 1), nearest.flatten(), reduction="none").view_as(nearest)
    if not bool(useful.any()):
        return (regions_s.sum() + regions_t.sum()) * 0.0
    return mean_share(losses, weights=useful)
