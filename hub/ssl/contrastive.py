"""Contrastive objectives over the batch: NT-Xent, its many-view form, InfoNCE and MoCo v3."""

import torch
import torch.nn.functional as F
from torch import Tensor

from hub.ssl._checks import check_batch, check_features, check_positive
from hub.ssl.distributed import gather_rows, global_row_index, mean_share, own_columns
from hub.ssl.precision import in_full_precision


@in_full_precision
def nt_xent(z0: Tensor, z1: Tensor, *, temperature: float = 0.5) -> Tensor:
    """Normalised temperature-scaled cross-entropy of two views, with 2N - 1 candidates an anchor.

    Chen et al. 2020 (SimCLR), Eq. 1. The candidates of an anchor are the N vectors of the other
    view and the N - 1 others of its own view.

    Args:
        z0: `(batch, dim)` projections of the first view; any scale.
        z1: `(batch, dim)` projections of the second view.
        temperature: divides the cosine similarities.

    Returns:
        Scalar. A collapsed encoder scores `log(2N - 1)`.

    Raises:
        ValueError: if the shapes differ, or the global batch holds one sample: its only
            candidate is its positive, and the loss would be 0 whatever the encoder does.
    """
    check_features(z0=z0, z1=z1)
    index, total = global_row_index(z0.shape[0], z0.device)
    check_batch(total, "NT-Xent")
    return multi_view_contrastive(torch.cat([z0, z1]), torch.cat([index, index]), temperature=temperature)


@in_full_precision
def multi_view_contrastive(features: Tensor, index: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Contrast features whose positives are all others with the same index.

    With sample numbers as `index` this is NT-Xent for any number of views; with class labels it
    is supervised contrastive learning (Khosla et al. 2020, Eq. 2: the mean over positives stands
    outside the logarithm). Anchors without a positive are left out of the mean.

    Args:
        features: `(views * batch, dim)`; any scale and order.
        index: `(views * batch,)` integer sample numbers or labels, comparable between processes.
        temperature: divides the cosine similarities.

    Returns:
        Scalar, the mean over anchors.

    Raises:
        ValueError: if the shapes do not fit, if all features share one index (nothing to
            contrast) or if no two do (no positive).
    """
    check_features(features=features)
    check_positive(temperature=temperature)
    if index.shape != features.shape[:1]:
        raise ValueError(
            f"index must have shape ({features.shape[0]},), one for each row of features, got {tuple(index.shape)}"
        )
    unit = F.normalize(features, dim=1)
    candidates, offset = gather_rows(unit)
    candidate_index = gather_rows(index).values
    if bool((candidate_index == candidate_index[0]).all()):
        raise ValueError(
            "nothing to contrast: all features share one index; pass features of at least two different samples"
        )
    self_pair = own_columns(len(unit), len(candidates), offset, unit.device)
    positive = (index[:, None] == candidate_index[None, :]) & ~self_pair

    logits = (unit @ candidates.T / temperature).masked_fill(self_pair, float("-inf"))
    log_prob = F.log_softmax(logits, dim=1)
    count = positive.sum(dim=1)
    per_anchor = -log_prob.masked_fill(~positive, 0.0).sum(dim=1) / count.clamp(min=1)
    return mean_share(per_anchor, weights=count > 0)


@in_full_precision
def info_nce(query: Tensor, key: Tensor, *, temperature: float = 0.2) -> Tensor:
    """Cross-entropy of each query against all keys of the batch, one direction.

    van den Oord et al. 2018, Eq. 4, with cosine similarity. Detach `key` for a momentum encoder.

    Args:
        query: `(batch, dim)`; any scale.
        key: `(batch, dim)`; row i is the positive of query i.
        temperature: divides the cosine similarities.

    Returns:
        Scalar. A collapsed encoder scores `log(N)`.

    Raises:
        ValueError: if the shapes differ or the global batch holds one sample.
    """
    check_features(query=query, key=key)
    check_positive(temperature=temperature)
    keys, offset = gather_rows(F.normalize(key, dim=1))
    check_batch(len(keys), "InfoNCE")
    logits = F.normalize(query, dim=1) @ keys.T / temperature
    labels = torch.arange(offset, offset + len(query), device=query.device)
    return mean_share(F.cross_entropy(logits, labels, reduction="none"))


@in_full_precision
def moco_v3(query0: Tensor, query1: Tensor, key0: Tensor, key1: Tensor, *, temperature: float = 0.2) -> Tensor:
    """Symmetric InfoNCE between predictions and momentum projections, scaled by `2 t`.

    Chen, Xie and He 2021, Algorithm 1. No gradient reaches the keys.

    Args:
        query0: `(batch, dim)` predictions of the online encoder, first view.
        query1: `(batch, dim)` the same, second view.
        key0: `(batch, dim)` projections of the momentum encoder, first view.
        key1: `(batch, dim)` the same, second view.
        temperature: divides the cosine similarities and scales the loss.

    Returns:
        Scalar. A collapsed encoder scores `4 t log(N)`.

    Raises:
        ValueError: if the shapes differ or the global batch holds one sample.
    """
    forth = info_nce(query0, key1.detach(), temperature=temperature)
    back = info_nce(query1, key0.detach(), temperature=temperature)
    return 2 * temperature * (forth + back)
