"""Similarity contrastive estimation: soft targets that keep relations between samples (SCE)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from hub.ssl._checks import check_batch, check_features, check_fraction, check_positive
from hub.ssl.distributed import gather_rows, mean_share, own_columns
from hub.ssl.precision import in_full_precision


@in_full_precision
def similarity_contrastive(
    query: Tensor,
    key: Tensor,
    queue: Tensor | None = None,
    *,
    temperature: float = 0.1,
    target_temperature: float = 0.07,
    coefficient: float = 0.5,
    contrast_batch: bool = True,
) -> Tensor:
    """Cross-entropy to a mix of the positive and the key's own similarity distribution.

    Denize et al. 2023 (SCE), Eq. 6: the target of query i is `coefficient` on its positive plus
    `1 - coefficient` times the softmax of the key's similarities to all other candidates. With
    `coefficient=1` it is InfoNCE, and without batch keys at 0 it is ReSSL. Not to be confused
    with the scaled cosine error of GraphMAE, which shares the abbreviation.

    Args:
        query: `(batch, dim)`; any scale.
        key: `(batch, dim)` of the momentum encoder; no gradient reaches it.
        queue: `(size, dim)` unit rows, or None to contrast against the batch only.
        temperature: of the query's similarities.
        target_temperature: of the key's similarities; lower, so that targets are sharper.
        coefficient: weight of the positive in the target.
        contrast_batch: whether the keys of the other samples are candidates as well. Without
            them the candidates are the positive and the queue.

    Returns:
        Scalar, mean over the batch.

    Raises:
        ValueError: if the shapes differ, or there is no candidate but the positive.
    """
    check_features(query=query, key=key)
    check_positive(temperature=temperature, target_temperature=target_temperature)
    check_fraction(coefficient=coefficient)
    if queue is None and not contrast_batch:
        raise ValueError("nothing to contrast: pass a queue, or contrast_batch=True")
    query, key = F.normalize(query, dim=1), F.normalize(key.detach(), dim=1)
    stored = key.new_empty(0, key.shape[1]) if queue is None else queue

    if contrast_batch:
        keys, offset = gather_rows(key)
        if queue is None:
            check_batch(len(keys), "similarity contrastive estimation without a queue")
        candidates = torch.cat([keys, stored])
        positive = own_columns(len(query), len(candidates), offset, query.device)
        logits = query @ candidates.T
        relations = (key @ candidates.T).masked_fill(positive, float("-inf"))
    else:
        logits = torch.cat([(query * key).sum(dim=1, keepdim=True), query @ stored.T], dim=1)
        # Here the positive keeps a place among the relations, at similarity 0, as in the
        # authors' code; with a queue of thousands its share is lost.
        relations = F.pad(key @ stored.T, (1, 0))
        positive = torch.zeros_like(logits, dtype=torch.bool)
        positive[:, 0] = True

    relations = F.softmax(relations / target_temperature, dim=1)
    target = coefficient * positive + (1 - coefficient) * relations
    return mean_share(-(target * F.log_softmax(logits / temperature, dim=1)).sum(dim=1))
