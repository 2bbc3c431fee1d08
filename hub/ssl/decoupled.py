"""Decoupled contrastive learning: the positive is taken out of the denominator."""

import torch
import torch.nn.functional as F
from torch import Tensor

from hub.ssl._checks import check_batch, check_features, check_positive
from hub.ssl.distributed import gather_rows, mean_share, own_columns
from hub.ssl.precision import in_full_precision


@in_full_precision
def dcl(z0: Tensor, z1: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Decoupled contrastive loss of two views.

    Yeh et al. 2022, Eq. 6: removing the positive from the denominator removes the coupling that
    starves small batches of gradient. The loss may be negative.

    Args:
        z0: `(batch, dim)` projections of the first view; any scale.
        z1: `(batch, dim)` projections of the second view.
        temperature: divides the cosine similarities.

    Returns:
        Scalar, the mean of the two directions. A collapsed encoder scores `log(2N - 2)`.

    Raises:
        ValueError: if the shapes differ or the global batch holds one sample.
    """
    return _decoupled(z0, z1, temperature, sigma=None)


@in_full_precision
def dclw(z0: Tensor, z1: Tensor, *, temperature: float = 0.1, sigma: float = 0.5) -> Tensor:
    """Decoupled contrastive loss whose far positives weigh more.

    Yeh et al. 2022, Eq. 7: each positive has the weight `2 - N softmax(q_i . k_i / sigma)`,
    whose mean over the batch is 1. The weights carry no gradient.

    Args:
        z0: `(batch, dim)` projections of the first view; any scale.
        z1: `(batch, dim)` projections of the second view.
        temperature: divides the cosine similarities.
        sigma: temperature of the weights.

    Returns:
        Scalar, the mean of the two directions. A collapsed encoder scores `log(2N - 2)`.

    Raises:
        ValueError: if the shapes differ or the global batch holds one sample.
    """
    check_positive(sigma=sigma)
    return _decoupled(z0, z1, temperature, sigma=sigma)


def _decoupled(z0: Tensor, z1: Tensor, temperature: float, sigma: float | None) -> Tensor:
    check_features(z0=z0, z1=z1)
    check_positive(temperature=temperature)
    unit0, unit1 = F.normalize(z0, dim=1), F.normalize(z1, dim=1)
    all0, offset = gather_rows(unit0)
    all1 = gather_rows(unit1).values
    check_batch(len(all0), "decoupled contrastive learning")

    positive = (unit0 * unit1).sum(dim=1)
    weight = torch.ones_like(positive)
    if sigma is not None:
        positives = (all0 * all1).sum(dim=1).detach()
        softmax = F.softmax(positives / sigma, dim=0)
        weight = 2 - len(positives) * softmax[offset : offset + len(positive)]

    same_sample = own_columns(len(unit0), len(all0), offset, unit0.device).repeat(1, 2)
    candidates = torch.cat([all0, all1]).T
    direction_losses = []
    for anchor in (unit0, unit1):
        negatives = (anchor @ candidates / temperature).masked_fill(same_sample, float("-inf"))
        direction_losses.append(-weight * positive / temperature + negatives.logsumexp(dim=1))
    return mean_share(torch.stack(direction_losses).mean(dim=0))
