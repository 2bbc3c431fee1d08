"""A mild change of a graph that keeps most of its structure: an edge removed, the features of some nodes hidden."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch_geometric.data import Data

from hub.reading import Sample

SHARE = 0.05
"""Share of the edges removed and of the nodes hidden, one at least."""
CARBON = 5
"""What a hidden atom becomes: the most frequent one, in the numbering of `domains.graphs.molecules.vocabulary`."""


def augment(sample: Sample, generator: torch.Generator) -> Sample:
    """Return a graph without some edges, both directions of each, and with some nodes made plain.

    A plain atom is a carbon without stereochemistry; a plain node of another graph has all features 0.
    """
    graph: Data = sample.data
    changed = graph.clone()
    nodes, edges = int(graph.num_nodes), graph.edge_index
    hidden = torch.randperm(nodes, generator=generator)[: max(1, round(SHARE * nodes))]
    if nodes > 1:
        if "smiles" in graph:
            changed.x[hidden] = torch.tensor([CARBON, 0], dtype=changed.x.dtype)
        else:
            changed.x[hidden] = 0
    forward = torch.nonzero(edges[0] < edges[1]).flatten()
    if len(forward) > 1:
        removed = forward[torch.randperm(len(forward), generator=generator)[: max(1, round(SHARE * len(forward)))]]
        # An edge and its reverse have one number, whichever way it is read.
        numbers = edges.min(dim=0).values * nodes + edges.max(dim=0).values
        kept = ~torch.isin(numbers, numbers[removed])
        changed.edge_index = edges[:, kept]
        if graph.edge_attr is not None:
            changed.edge_attr = graph.edge_attr[kept]
    return replace(sample, data=changed)
