"""What the reader of graphs accepts, and how a graph is checked and put into its one shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch_geometric.data import Data
from torch_geometric.utils import coalesce

from hub.doubts import Doubt
from hub.errors import InvalidInput, TooLarge
from hub.reading import Sample


@dataclass
class GraphLimits:
    """The largest input that is read.

    Attributes:
        max_bytes: Of a file, and of what is unpacked from an archive.
        max_expansion: Unpacked bytes an archived byte.
        max_graphs: In a file.
        max_nodes: Of a graph.
        max_edges: Of a graph, each direction counted.
        max_features: A node.
        max_atoms: Of a molecule, hydrogens not counted.
    """

    max_bytes: int = 1 << 28
    max_expansion: int = 100
    max_graphs: int = 1_000_000
    max_nodes: int = 1_000_000
    max_edges: int = 50_000_000
    max_features: int = 10_000
    max_atoms: int = 1_000

    def check_nodes(self, nodes: int) -> None:
        """Raise TooLarge or InvalidInput on a number of nodes that is not taken."""
        if nodes < 1:
            raise InvalidInput("the graph has no node; at least one is needed", code="no_nodes")
        if nodes > self.max_nodes:
            raise TooLarge(f"the graph has {nodes:,} nodes; at most {self.max_nodes:,} are read")

    def check_edges(self, edges: int) -> None:
        """Raise TooLarge on a number of edges that is not taken."""
        if edges > self.max_edges:
            raise TooLarge(f"the graph has {edges:,} edges; at most {self.max_edges:,} are read")

    def check_features(self, features: int, nodes: int) -> None:
        """Raise TooLarge on a feature matrix that is not taken."""
        if features > self.max_features:
            raise TooLarge(f"the nodes have {features:,} features; at most {self.max_features:,} are read")
        if 4 * features * nodes > 16 * self.max_bytes:
            raise TooLarge(
                f"{nodes:,} nodes of {features:,} features take {4 * features * nodes:,} bytes; "
                f"at most {16 * self.max_bytes:,} are read"
            )


def build_sample(
    limits: GraphLimits,
    edges: np.ndarray,
    x: np.ndarray | None = None,
    *,
    nodes: int | None = None,
    edge_attr: np.ndarray | None = None,
    key: str = "",
    metadata: Mapping[str, Any] | None = None,
    warnings: tuple[str, ...] = (),
) -> Sample:
    """Check a graph and return it: both directions, each edge once, no self loops.

    Args:
        limits: What is accepted.
        edges: ``(2, edges)``, source and target of each.
        x: ``(nodes, features)``, or ``None`` where the nodes have none.
        nodes: Their number, where ``x`` does not tell.
        edge_attr: ``(edges, features)``; kept where the edges already come in both directions.
        key: Which graph of its file.
        metadata: What to return with it.
        warnings: What the file's reader has to say already.

    Raises:
        TooLarge: It has more nodes, edges or features than are taken.
        InvalidInput: It has no nodes, edges to nodes that are not there, or numbers that are not finite.
    """
    if x is not None:
        count = len(x)
    else:
        count = int(nodes if nodes is not None else edges.max() + 1 if edges.size else 0)
    limits.check_nodes(count)
    limits.check_edges(edges.shape[1])
    x = np.zeros((count, 0), np.float32) if x is None else x
    limits.check_features(x.shape[1], count)
    check_ids(edges, count)
    with np.errstate(over="ignore"):
        x = np.ascontiguousarray(x, dtype=np.float32)
    if not np.isfinite(x).all():
        row = int(np.flatnonzero(~np.isfinite(x).all(1))[0])
        raise InvalidInput(f"node {row} has a feature that is NaN or infinite", code="not_finite")
    if edge_attr is not None:
        if len(edge_attr) != edges.shape[1]:
            raise InvalidInput(
                f"'edge_attr' has {len(edge_attr):,} rows for {edges.shape[1]:,} edges; give one row an edge",
                code="bad_form",
            )
        if not np.isfinite(edge_attr).all():
            raise InvalidInput("'edge_attr' holds NaN or infinite numbers", code="not_finite")
    graph, said = _both_directions(torch.from_numpy(np.ascontiguousarray(edges, np.int64)), count, edge_attr)
    graph.x = torch.from_numpy(x)
    alone = count - len(graph.edge_index[0].unique())
    if count > 1 and alone > count / 2:
        said.append(Doubt(f"{alone:,} of {count:,} nodes have no edge to another node.", "isolated"))
    facts = {"nodes": count, "edges": graph.edge_index.shape[1] // 2, **(metadata or {})}
    return Sample(data=graph, key=key, warnings=(*warnings, *said), metadata=facts)


def check_ids(edges: np.ndarray, nodes: int) -> None:
    """Raise InvalidInput on an edge ``(2, edges)`` to a node that is not there."""
    if not edges.size:
        return
    wrong = np.flatnonzero(((edges < 0) | (edges >= nodes)).any(0))
    if len(wrong):
        ends = edges[:, wrong[0]]
        end = next(e for e in ends if not 0 <= e < nodes)
        more = f", and {len(wrong) - 1:,} more edges" if len(wrong) > 1 else ""
        raise InvalidInput(
            f"edge {wrong[0]} names node {end}{more}; the graph's {nodes:,} nodes are 0 to {nodes - 1}",
            code="no_such_node",
        )


def _both_directions(edges: torch.Tensor, nodes: int, edge_attr: np.ndarray | None) -> tuple[Data, list[Doubt]]:
    warnings: list[Doubt] = []
    attributes = None if edge_attr is None else torch.from_numpy(np.ascontiguousarray(edge_attr, np.float32))
    proper = edges[0] != edges[1]
    edges, attributes = edges[:, proper], None if attributes is None else attributes[proper]
    forward = coalesce(edges, num_nodes=nodes)
    both = coalesce(torch.cat([forward, forward.flip(0)], dim=1), num_nodes=nodes)
    if both.shape[1] != forward.shape[1]:
        warnings.append(Doubt("The edges were given in one direction; both are used.", "one_direction"))
        if attributes is not None:
            attributes = torch.cat([attributes, attributes])
            edges = torch.cat([edges, edges.flip(0)], dim=1)
    if attributes is None:
        return Data(edge_index=both), warnings
    both, attributes = coalesce(edges, attributes, num_nodes=nodes, reduce="mean")
    return Data(edge_index=both, edge_attr=attributes), warnings
