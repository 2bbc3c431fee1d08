"""Graphs over the images of a batch: nearest neighbours, and messages between them (LVM-Med, section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.nn import DenseGCNConv, DenseGraphConv


@torch.no_grad()
def neighbours(nodes: Tensor, count: int) -> Tensor:
    """Return the nearest other nodes of each node in Euclidean distance, nearest first.

    Args:
        nodes: ``(graphs, nodes, features)``.
        count: How many, fewer than there are nodes.

    Returns:
        ``(graphs, nodes, count)`` int64.
    """
    distances = torch.cdist(nodes.float(), nodes.float(), compute_mode="donot_use_mm_for_euclid_dist")
    distances.diagonal(dim1=1, dim2=2).fill_(float("inf"))
    return distances.topk(count, dim=2, largest=False).indices


def edges_of(nearest: Tensor) -> Tensor:
    """Return directed edges, centre over neighbour: ``(graphs, nodes, count)`` to ``(graphs, 2, nodes * count)``."""
    graphs, nodes, count = nearest.shape
    centres = torch.arange(nodes, device=nearest.device).repeat_interleave(count).expand(graphs, -1)
    return torch.stack([centres, nearest.flatten(1)], dim=1)


class MessagePassing(nn.Module):
    """Two graph convolutions, shared by both views."""

    def __init__(self, size: int, kind: str) -> None:
        """Create the layers.

        Args:
            size: Width of input and output.
            kind: ``gcn`` (paper): ``relu(D^-1/2 (A + I) D^-1/2 H W)`` with an edge where either node is among the
                other's nearest. ``graphconv`` (released code): the sum over the nodes that chose a node as a neighbour
                and the node itself, each with weights of its own; a rectifier between the layers and none after.
        """
        super().__init__()
        self.kind = kind
        layer = DenseGCNConv if kind == "gcn" else DenseGraphConv
        self.convs = nn.ModuleList([layer(size, size), layer(size, size)])

    def forward(self, nodes: Tensor, nearest: Tensor) -> Tensor:
        """Pass messages twice.

        Args:
            nodes: ``(graphs, nodes, size)``.
            nearest: ``(graphs, nodes, count)`` from `neighbours`.

        Returns:
            The same shape as ``nodes``.
        """
        chosen = nodes.new_zeros(*nodes.shape[:2], nodes.shape[1]).scatter_(2, nearest, 1.0)
        chosen_by = chosen.transpose(1, 2)
        adjacency = torch.maximum(chosen, chosen_by) if self.kind == "gcn" else chosen_by
        hidden = self.convs[0](nodes, adjacency).relu()
        hidden = self.convs[1](hidden, adjacency)
        return hidden.relu() if self.kind == "gcn" else hidden
