"""Group ordering constraints by differentiable sorting (GroCo)."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hub.ssl._checks import check_batch, check_features, check_positive, check_same_shape
from hub.ssl.distributed import gather_rows, mean_share, own_columns
from hub.ssl.precision import in_full_precision


@in_full_precision
def groco(views: Sequence[Tensor], *, hardest: int = 10, steepness: float = 1.0) -> Tensor:
    """Ask that an anchor's positives sort after its hardest negatives.

    Shvetsova et al. 2023 (Learning by Sorting), section 3. For each view as the anchor the
    similarities to its hardest negatives (of the same view) and to the other views of the sample
    go through a soft sorting network; binary cross-entropy pulls the mass of each input to its
    own group's places. Only the anchor receives gradient.

    Args:
        views: at least two `(batch, dim)` tensors; any scale.
        hardest: negatives of each anchor (all of them if the batch is smaller).
        steepness: of the soft comparisons; larger is closer to hard sorting.

    Returns:
        Scalar, mean over anchors and views.

    Raises:
        ValueError: with fewer than two views, differing shapes or one sample in all.
    """
    if len(views) < 2:
        raise ValueError(f"GroCo needs at least 2 views, got {len(views)}")
    for view in views:
        check_features(view=view)
    check_same_shape(**{f"view {number}": view for number, view in enumerate(views)})
    check_positive(hardest=hardest, steepness=steepness)
    units = [F.normalize(view, dim=1) for view in views]
    losses = []
    for number, anchor in enumerate(units):
        others = torch.stack([unit for place, unit in enumerate(units) if place != number], dim=1)
        positives = torch.einsum("nd,nvd->nv", anchor, others.detach())
        batch, offset = gather_rows(anchor.detach())
        check_batch(len(batch), "GroCo")
        own = own_columns(len(anchor), len(batch), offset, anchor.device)
        similarity = (anchor @ batch.T).masked_fill(own, float("-inf"))
        negatives = similarity.topk(min(hardest, len(batch) - 1), dim=1).values
        losses.append(_group_order_loss(negatives, positives, steepness))
    return mean_share(torch.stack(losses))


def _group_order_loss(negatives: Tensor, positives: Tensor, steepness: float) -> Tensor:
    """Cross-entropy of group places, one for each anchor: `(batch, n)`, `(batch, p)` -> `(batch,)`.

    Both groups enter the network in ascending order, negatives first, which is the right answer
    exactly when the hardest negative lies below the least similar positive.
    """
    values = torch.cat([negatives.sort(dim=1).values, positives.sort(dim=1).values], dim=1)
    permutation = soft_sort_permutation(values, steepness=steepness)
    count = negatives.shape[1]
    is_positive = (torch.arange(values.shape[1], device=values.device) >= count).to(values.dtype)
    to_negative = permutation[:, :, :count].sum(dim=2).clamp(0, 1)
    to_positive = permutation[:, :, count:].sum(dim=2).clamp(0, 1)
    target = is_positive.expand_as(to_positive)
    per_input = F.binary_cross_entropy(to_positive, target, reduction="none")
    per_input = per_input + F.binary_cross_entropy(to_negative, 1 - target, reduction="none")
    return per_input.mean(dim=1) / 2


def soft_sort_permutation(values: Tensor, *, steepness: float = 1.0) -> Tensor:
    """Soft permutation matrix of an odd-even transposition network with Cauchy comparisons.

    Petersen et al. 2022 (Monotonic differentiable sorting networks): each comparator keeps its
    pair in order with the weight `atan(steepness * (b - a)) / pi + 1/2` and swaps it with the
    rest.

    Args:
        values: `(batch, length)`.
        steepness: of the comparisons.

    Returns:
        `(batch, length, length)`, doubly stochastic; entry `[i, j]` is the share of input i that
        lands at place j of the ascending order.
    """
    batch, length = values.shape
    permutation = torch.eye(length, dtype=values.dtype, device=values.device)
    rows = torch.cat([permutation.expand(batch, -1, -1), values[:, None]], dim=1)
    for layer in range(length):
        first = layer % 2
        last = first + (length - first) // 2 * 2
        a, b = rows[..., first:last:2], rows[..., first + 1 : last : 2]
        # The last row carries the values themselves, softly sorted along with the matrix.
        keep = torch.atan(steepness * (b[:, -1:] - a[:, -1:])) / math.pi + 0.5
        low, high = keep * a + (1 - keep) * b, keep * b + (1 - keep) * a
        middle = torch.stack([low, high], dim=-1).flatten(start_dim=-2)
        rows = torch.cat([rows[..., :first], middle, rows[..., last:]], dim=-1)
    return rows[:, :-1]
