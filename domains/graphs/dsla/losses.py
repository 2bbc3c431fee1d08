"""The three losses of D-SLA (section 3). Candidate 0 of each graph is the original."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hub.ssl.distributed import gather_rows, mean_share, own_columns
from hub.ssl.precision import in_full_precision


@in_full_precision
def graph_discrimination(scores: Tensor) -> Tensor:
    """Cross-entropy of telling the original from its perturbed copies (Eq. 3).

    Args:
        scores: ``(graphs, candidates)``.
    """
    original = torch.zeros(len(scores), dtype=torch.long, device=scores.device)
    return mean_share(F.cross_entropy(scores, original, reduction="none"))


@in_full_precision
def edit_distance(graphs: Tensor, distances: Tensor) -> Tensor:
    """Keep distances between embeddings in proportion to edit distances (Eq. 5).

    With ``q_i`` the distance of copy i from the original divided by its edit distance, the mean of ``(q_i - q_j)^2``
    over all pairs of copies.

    Args:
        graphs: ``(graphs, candidates, hidden)``.
        distances: ``(graphs, candidates)``, edits that made each candidate; at least 1 but for the original.
    """
    ratios = _from_original(graphs) / distances[:, 1:]
    first, second = torch.triu_indices(ratios.shape[1], ratios.shape[1], offset=1, device=ratios.device)
    return mean_share((ratios[:, first] - ratios[:, second]).square())


@in_full_precision
def margin_loss(graphs: Tensor, margin: float) -> Tensor:
    """Push other graphs farther away than perturbed copies, by a margin (Eq. 6).

    Args:
        graphs: ``(graphs, candidates, hidden)``, without strongly perturbed copies.
        margin: In the units of the embedding.

    Returns:
        The mean over graphs, other graphs of all processes and copies; 0 where there is no other graph.
    """
    near = _from_original(graphs)
    originals, offset = gather_rows(graphs[:, 0].contiguous())
    if len(originals) == 1:
        return near.sum() * 0.0
    # Not through matrix products, which lose the digits of small distances; at 0 the gradient is 0.
    far = torch.cdist(graphs[:, 0], originals, compute_mode="donot_use_mm_for_euclid_dist")
    terms = (margin + near[:, None, :] - far[:, :, None]).relu()
    others = ~own_columns(len(graphs), len(originals), offset, graphs.device)
    return mean_share(terms, others[:, :, None])


def _from_original(graphs: Tensor) -> Tensor:
    """Return the Euclidean distance of each copy from the original, ``(graphs, candidates - 1)``."""
    return torch.linalg.vector_norm(graphs[:, 1:] - graphs[:, :1], dim=-1)
