"""Local terms of a vertex affinity: how alike the best matching cells of two maps are (LVM-Med, Eq. 3)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

EXACT, FAST = "donot_use_mm_for_euclid_dist", "use_mm_for_euclid_dist_if_necessary"
FEW = 32
"""Dimensions up to which distances are taken exactly; beyond, as a product of matrices."""


class CellMatches(NamedTuple):
    """The best matching cells of each pair of images.

    Attributes:
        own: ``(..., nodes_s, nodes_t, matches)`` cells of s, in their order.
        partner: The nearest cell of t for each of them.
    """

    own: Tensor
    partner: Tensor


@torch.no_grad()
def best_matches(places_s: Tensor, places_t: Tensor, count: int) -> CellMatches:
    """Return the cells of each image of s whose nearest cell in each image of t is closest, and those cells.

    Args:
        places_s: ``(..., nodes, cells, dimensions)``: coordinates for a match by place, features for one by features.
        places_t: The same of the other view.
        count: How many cells to keep; all if there are fewer.
    """
    cells_s, cells_t = places_s.shape[-2], places_t.shape[-2]
    rows, columns = (p.float().flatten(-3, -2) for p in (places_s, places_t))
    distances = torch.cdist(rows, columns, compute_mode=EXACT if rows.shape[-1] <= FEW else FAST)
    pairs = distances.unflatten(-2, (-1, cells_s)).unflatten(-1, (-1, cells_t)).transpose(-3, -2)
    # Cells of regular grids are often equally near. These two calls break such ties as the released code does.
    near, partner = (part[..., 0] for part in pairs.topk(1, dim=-1, largest=False))
    own = near.sort(dim=-1, stable=True).indices[..., :count].sort(dim=-1).values
    return CellMatches(own, partner.gather(-1, own))


def local_affinity(maps_s: Tensor, maps_t: Tensor, matches: CellMatches) -> Tensor:
    """Return the mean cosine of matched cells for every pair of images, ``(..., nodes_s, nodes_t)``.

    Args:
        maps_s: ``(..., nodes, cells, channels)``.
        maps_t: The same of the other view.
        matches: From `best_matches`, in the same direction.
    """
    cells_s, cells_t = maps_s.shape[-2], maps_t.shape[-2]
    unit_s, unit_t = (F.normalize(m, dim=-1).flatten(-3, -2) for m in (maps_s, maps_t))
    cosines = (unit_s @ unit_t.transpose(-1, -2)).unflatten(-2, (-1, cells_s)).unflatten(-1, (-1, cells_t))
    cosines = cosines.transpose(-3, -2).flatten(-2)
    return cosines.gather(-1, matches.own * cells_t + matches.partner).mean(dim=-1)


def local_terms(
    maps_s: Tensor, maps_t: Tensor, places_s: Tensor, places_t: Tensor, by_place: int, by_features: int
) -> Tensor:
    """Return the symmetric local part of Eq. 3 for every pair of images, ``(..., nodes_s, nodes_t)``.

    From each view to the other, the mean cosine over the best matches by place and that over those by features,
    summed. For two different images the places lie in different frames; the formula is applied all the same, as in
    the paper.

    Args:
        maps_s: ``(..., nodes, cells, channels)``.
        maps_t: The same of the other view.
        places_s: ``(..., nodes, cells, 2)`` where each cell lies in its whole image.
        places_t: The same of the other view.
        by_place: How many best matches by place.
        by_features: How many by features.
    """

    def one_way(ms: Tensor, mt: Tensor, ps: Tensor, pt: Tensor) -> Tensor:
        place = local_affinity(ms, mt, best_matches(ps, pt, by_place))
        return place + local_affinity(ms, mt, best_matches(ms, mt, by_features))

    back = one_way(maps_t, maps_s, places_t, places_s)
    return one_way(maps_s, maps_t, places_s, places_t) + back.transpose(-1, -2)
