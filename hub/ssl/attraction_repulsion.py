"""Contrastive attraction and contrastive repulsion (CACR)."""

from collections.abc import Sequence
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from hub.ssl._checks import check_batch, check_features, check_positive, check_same_shape
from hub.ssl.distributed import gather_rows, mean_share, own_columns
from hub.ssl.precision import in_full_precision


@in_full_precision
def cacr(
    views: Sequence[Tensor],
    *,
    attraction_temperature: float = 1.0,
    repulsion_temperature: float = 1.0,
) -> Tensor:
    """Sum of `cacr_attraction` and `cacr_repulsion`.

    Zheng et al. 2021 (CACR), Eq. 6.

    Args:
        views: at least two `(batch, dim)` tensors; three or more for attraction to differ from a
            plain mean.
        attraction_temperature: of the weights of far positives.
        repulsion_temperature: of the weights of near negatives.

    Returns:
        Scalar. A collapsed encoder scores 0.

    Raises:
        ValueError: with fewer than two views, differing shapes or one sample in all.
    """
    return cacr_attraction(views, temperature=attraction_temperature) + cacr_repulsion(
        views, temperature=repulsion_temperature
    )


@in_full_precision
def cacr_attraction(views: Sequence[Tensor], *, temperature: float = 1.0) -> Tensor:
    """Squared distance to the other views of the sample, far ones weighing more.

    Zheng et al. 2021, Eq. 4. The weights `softmax(temperature * cost)` carry gradient.

    Args:
        views: at least two `(batch, dim)` tensors; any scale.
        temperature: of the weights; larger looks at the farthest positive only.

    Returns:
        Scalar, mean over batch and views.

    Raises:
        ValueError: with fewer than two views or differing shapes.
    """
    units = _unit_views(views)
    check_positive(temperature=temperature)
    # Each pair of views has one cost; view v looks at its costs to the others.
    losses = []
    for number, anchor in enumerate(units):
        others = torch.stack([unit for place, unit in enumerate(units) if place != number], dim=1)
        cost = (anchor[:, None] - others).square().sum(dim=2)
        losses.append((F.softmax(temperature * cost, dim=1) * cost).sum(dim=1))
    return mean_share(torch.stack(losses))


@in_full_precision
def cacr_repulsion(views: Sequence[Tensor], *, temperature: float = 1.0) -> Tensor:
    """Negated squared distance to the other samples, near ones weighing more.

    Zheng et al. 2021, Eq. 5, for each pair of views, rows of the first against rows of the
    second. The weights `softmax(-temperature * cost)` carry gradient.

    Args:
        views: at least two `(batch, dim)` tensors; any scale.
        temperature: of the weights; larger looks at the nearest negative only.

    Returns:
        Scalar in [-4, 0], mean over batch and pairs of views.

    Raises:
        ValueError: with fewer than two views, differing shapes or one sample in all.
    """
    units = _unit_views(views)
    check_positive(temperature=temperature)
    gathered = [gather_rows(unit) for unit in units]
    total, offset = len(gathered[0].values), gathered[0].offset
    check_batch(total, "contrastive repulsion")
    own = own_columns(len(units[0]), total, offset, units[0].device)
    losses = []
    for first, second in combinations(range(len(units)), 2):
        # |x - y|^2 of unit vectors, without a (batch, batch, dim) tensor.
        cost = 2 - 2 * units[first] @ gathered[second].values.T
        weights = F.softmax((-temperature * cost).masked_fill(own, float("-inf")), dim=1)
        losses.append(-(weights * cost).sum(dim=1))
    return mean_share(torch.stack(losses))


def _unit_views(views: Sequence[Tensor]) -> list[Tensor]:
    if len(views) < 2:
        raise ValueError(f"CACR needs at least 2 views of each sample, got {len(views)}")
    for view in views:
        check_features(view=view)
    check_same_shape(**{f"view {number}": view for number, view in enumerate(views)})
    return [F.normalize(view, dim=1) for view in views]
