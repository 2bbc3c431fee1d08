"""Node features: what a graph brings, or what can be made from its shape or its atoms."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.data import Data

from hub.errors import InvalidInput

FEATURES = ("given", "degree", "atoms")
NORMALISATIONS = ("none", "rows", "columns")
ELEMENTS = 119
"""Atom types of the molecule vocabulary: atomic numbers 1 to 118, and one more for what has none."""


def is_molecule(graph: Data) -> bool:
    """Tell a molecule (numbered atom types and chiralities) from a graph with features."""
    return not graph.x.is_floating_point()


def node_features(graph: Data, kind: str, width: int, normalise: str) -> Tensor:
    """Return the features of a graph's nodes.

    Args:
        graph: As the reader gives it.
        kind: ``given`` (its own), ``degree`` (one-hot; the last column stands for that degree and all above) or
            ``atoms`` (one-hot of the atom type of a molecule).
        width: Features of a node that the model reads.
        normalise: ``rows`` (each node's features sum to 1, unless all are zero), ``columns`` (each feature has mean 0
            and variance 1 over the graph's nodes, unless it is constant) or ``none``.

    Returns:
        ``(nodes, width)`` float32.

    Raises:
        InvalidInput: The graph has no features of that kind or width; the text says what it has.
    """
    check_features(graph, kind, width)
    nodes = int(graph.num_nodes)
    if kind == "degree":
        degree = torch.bincount(graph.edge_index[0], minlength=nodes)
        x = F.one_hot(degree.clamp(max=width - 1), width).float()
    elif kind == "atoms":
        x = F.one_hot(graph.x[:, 0].clamp(max=width - 1), width).float()
    else:
        x = graph.x
    if normalise == "rows":
        total = x.sum(1, keepdim=True)
        x = x / torch.where(total == 0, torch.ones_like(total), total)
    elif normalise == "columns":
        deviation, mean = torch.std_mean(x.double(), dim=0, correction=0, keepdim=True)
        x = ((x - mean) / torch.where(deviation == 0, torch.ones_like(deviation), deviation)).float()
    return x


def check_features(graph: Data, kind: str, width: int) -> None:
    """Raise InvalidInput when a graph has not what features of that kind and width are made from."""
    if kind == "atoms" and not is_molecule(graph):
        raise InvalidInput(
            "this model reads molecules; this graph's nodes are no atoms: give a SMILES string or an SDF file",
            code="no_molecule",
        )
    if kind != "given":
        return
    if is_molecule(graph):
        raise InvalidInput(
            f"this model reads graphs with {width} features a node; this is a molecule, whose atoms have types but "
            "no features: use a model for molecules",
            code="wrong_width",
        )
    if graph.x.shape[1] != width:
        raise InvalidInput(
            f"the graph has {graph.x.shape[1]} features a node; this model reads {width}, those of the set it was "
            "trained on",
            code="wrong_width",
        )
