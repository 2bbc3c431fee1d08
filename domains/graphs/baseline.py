"""The simple features that a graph model's embeddings are held against."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from domains.graphs.features import ELEMENTS, is_molecule
from hub.reading import Sample

DEGREES = 400
"""Degree from which on the histogram of degrees makes no difference."""


def graph_statistics(sample: Sample) -> np.ndarray:
    """Return six statistics of a graph's shape and the histogram of what its nodes are, float32.

    Nodes, edges, mean degree, density, largest degree and deviation of the degrees; then the share of each element for
    a molecule, the mean features for a graph that has some, or the share of each degree for one that has none.
    """
    graph: Data = sample.data
    nodes = int(graph.num_nodes)
    degree = torch.bincount(graph.edge_index[0], minlength=nodes).float()
    edges = graph.edge_index.shape[1] / 2
    density = 2 * edges / max(nodes * (nodes - 1), 1)
    shape = [nodes, edges, float(degree.mean()), density, float(degree.max()), float(degree.std(correction=0))]
    return np.concatenate([np.array(shape, np.float32), _histogram(graph, degree).numpy()])


def _histogram(graph: Data, degree: Tensor) -> Tensor:
    if is_molecule(graph):
        return torch.bincount(graph.x[:, 0].clamp(max=ELEMENTS - 1), minlength=ELEMENTS).float() / len(graph.x)
    if graph.x.shape[1]:
        return graph.x.mean(0)
    return torch.bincount(degree.long().clamp(max=DEGREES), minlength=DEGREES + 1).float() / len(degree)
