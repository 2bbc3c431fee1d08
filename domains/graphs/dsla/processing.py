"""D-SLA's processor: molecules, or graphs of which only the edges are known."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch_geometric.utils import degree

from domains.graphs.molecules.processing import Graph, MoleculeProcessor
from hub.reading import Sample

NODE_FEATURES = ("atoms", "degree")


class DslaProcessor(MoleculeProcessor):
    """Molecules, or any graphs with each node known by its degree, to a batch of one graph."""

    model_input_names: ClassVar[list[str]] = ["x", "edges", "edge_attr", "batch"]
    cost_unit = "nodes"

    def __init__(
        self, node_features: str = "atoms", max_degree: int = 0, max_atoms: int = 1_000, **kwargs: Any
    ) -> None:
        """Set what a node is known by.

        Args:
            node_features: ``"atoms"``, or ``"degree"`` for graphs without features (social networks).
            max_degree: Largest degree with an embedding of its own; nodes with more count as having this.
            max_atoms: Most nodes of a graph.
            kwargs: Attributes that transformers keeps in a saved processor.

        Raises:
            ValueError: There is no such feature.
        """
        if node_features not in NODE_FEATURES:
            raise ValueError(f"node_features={node_features!r}: choose one of {', '.join(NODE_FEATURES)}")
        super().__init__(max_atoms=max_atoms, **kwargs)
        self.node_features = node_features
        self.max_degree = max_degree

    def prepare(self, sample: Sample) -> Graph:
        """Return the graph; of one known by its degrees, edges alone and the degrees as features.

        Raises:
            InvalidInput: Molecules are wanted, and the sample is a graph of another kind.
        """
        if self.node_features == "atoms":
            return super().prepare(sample)
        edges = sample.data.edge_index.t()
        degrees = degree(edges[:, 0], sample.data.num_nodes, dtype=torch.long)
        return Graph(degrees.clamp(max=self.max_degree)[:, None], edges, None)
