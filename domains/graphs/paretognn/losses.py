"""The two objectives of ParetoGNN that no other system has: node against graph, and decorrelation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def node_against_graph(states: Tensor, corrupted: Tensor, bilinear: Tensor) -> Tensor:
    """Tell nodes that belong to a summary from those of a corrupted graph (Velickovic et al., ICLR 2019, Eq. 1).

    Args:
        states: ``(nodes, hidden)``.
        corrupted: ``(nodes, hidden)``, of the same graph with its features shuffled.
        bilinear: ``(hidden, hidden)``, of the discriminator.

    Returns:
        Scalar, the cross-entropy of both kinds.
    """
    direction = bilinear @ states.mean(0).sigmoid()
    real, fake = states @ direction, corrupted @ direction
    return F.binary_cross_entropy_with_logits(real, torch.ones_like(real)) + F.binary_cross_entropy_with_logits(
        fake, torch.zeros_like(fake)
    )


def canonical_correlation(first: Tensor, second: Tensor, weight: float = 1e-3) -> Tensor:
    """Make two views agree and their dimensions independent (Zhang et al., NeurIPS 2021, CCA-SSG).

    As published with ParetoGNN: norms and not their squares, and the distance of the views divided by the nodes.

    Args:
        first: ``(nodes, hidden)``, at least two nodes.
        second: ``(nodes, hidden)``, the same nodes in another view.
        weight: Of the distance of the correlations from the identity.

    Returns:
        Scalar.
    """
    nodes, width = first.shape
    one, two = _standardise(first), _standardise(second)
    identity = torch.eye(width, dtype=first.dtype, device=first.device)
    apart = [_norm(identity - z.t() @ z / nodes) for z in (one, two)]
    return _norm((one - two) / nodes) + weight * (apart[0] + apart[1])


def _standardise(states: Tensor) -> Tensor:
    # A dimension that is the same at every node has no deviation to divide by.
    return (states - states.mean(0)) / states.std(0).clamp(min=1e-12)


def _norm(matrix: Tensor) -> Tensor:
    # The norm has no gradient at zero, where two views of a graph without edges to drop may well be.
    return matrix.square().sum().clamp(min=1e-24).sqrt()
