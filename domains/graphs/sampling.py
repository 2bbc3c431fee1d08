"""Neighbour sampling: parts of a graph that does not fit (Hamilton et al., NeurIPS 2017), in plain torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from domains.graphs.processing import GraphFeatures


class NeighbourSampler:
    """Random nodes, some of their neighbours, some of these neighbours' neighbours, and all edges among them."""

    def __init__(self, fanouts: Sequence[int], seeds: int) -> None:
        """Set the sizes.

        Args:
            fanouts: Neighbours to draw for each node, hop by hop; at most ``seeds * (1 + f1 + f1 * f2 + ...)`` nodes.
            seeds: Nodes to start from.

        Raises:
            ValueError: A size is not positive.
        """
        if seeds < 1 or not fanouts or min(fanouts) < 1:
            raise ValueError(f"seeds={seeds}, fanouts={list(fanouts)}: all must be at least 1")
        self.fanouts = tuple(fanouts)
        self.seeds = seeds

    def sample(self, graph: GraphFeatures, generator: torch.Generator) -> GraphFeatures:
        """Draw a part of a graph, its nodes in their old order.

        Args:
            graph: The whole.
            generator: Source of the draws.
        """
        nodes = len(graph.x)
        chosen = torch.zeros(nodes, dtype=torch.bool)
        frontier = torch.randperm(nodes, generator=generator)[: self.seeds]
        chosen[frontier] = True
        for fanout in self.fanouts:
            at_frontier = torch.zeros(nodes, dtype=torch.bool)
            at_frontier[frontier] = True
            source, target = graph.edges[at_frontier[graph.edges[:, 1]]].unbind(1)
            reached = source[_some_of_each(target, fanout, generator)].unique()
            frontier = reached[~chosen[reached]]
            chosen[frontier] = True
        return induced(graph, chosen)


def induced(graph: GraphFeatures, chosen: Tensor) -> GraphFeatures:
    """Return the chosen nodes, ``(nodes,)`` bool, with the edges among them."""
    number = chosen.cumsum(0) - 1
    inside = chosen[graph.edges].all(1)
    return GraphFeatures(graph.x[chosen], number[graph.edges[inside]])


def _some_of_each(groups: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return the places of at most ``count`` random members of each group, without replacement.

    Args:
        groups: ``(members,)`` int64, the group of each.
        count: Most members to take of a group.
        generator: Source of the draws.
    """
    order = torch.randperm(len(groups), generator=generator)
    order = order[groups[order].argsort(stable=True)]
    ordered = groups[order]
    counts = torch.bincount(ordered)
    starts = counts.cumsum(0) - counts
    rank = torch.arange(len(ordered)) - starts[ordered]
    return order[rank < count]
