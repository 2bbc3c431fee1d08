"""The processor of feature graphs: node features and edges, the graphs of a batch one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.utils import add_self_loops

from domains.graphs.features import FEATURES, NORMALISATIONS, check_features, node_features
from domains.graphs.reading import GraphReader
from hub.processing import Processor
from hub.reading import Sample


class GraphFeatures(NamedTuple):
    """One prepared graph.

    Attributes:
        x: ``(nodes, features)`` float32.
        edges: ``(edges, 2)`` int64, source and target of each, both directions and a self loop at every node.
        entries: The features as a sparse matrix, where someone wants them so.
    """

    x: Tensor
    edges: Tensor
    entries: csr_array | None = None


class GraphProcessor(Processor):
    """Graphs to the flat batch that the encoders read."""

    model_input_names: ClassVar[list[str]] = ["x", "edges", "batch"]
    cost_unit = "nodes"
    batch_cost = 1_024  # measured on one CPU thread: states 512 wide are slower above, narrow ones gain little

    def __init__(
        self,
        width: int = 1433,
        features: str = "given",
        normalise: str = "none",
        self_loops: bool = True,
        **kwargs: Any,
    ) -> None:
        """Set how node features are made; the defaults are those of Cora.

        Args:
            width: Features of a node.
            features: ``given``, ``degree`` or ``atoms``, see `node_features`.
            normalise: ``rows``, ``columns`` or ``none``.
            self_loops: Add an edge from each node to itself.
            kwargs: Attributes that transformers keeps in a saved processor.

        Raises:
            ValueError: A value is none of those known.
        """
        for name, value, known in (("features", features, FEATURES), ("normalise", normalise, NORMALISATIONS)):
            if value not in known:
                raise ValueError(f"{name}={value!r}: choose one of {', '.join(known)}")
        if width < 1:
            raise ValueError(f"width={width}: must be at least 1")
        super().__init__(**kwargs)
        self.width = width
        self.features = features
        self.normalise = normalise
        self.self_loops = self_loops

    def reader(self) -> GraphReader:
        """Return the domain's reader."""
        return GraphReader()

    def examples(self) -> list[Sample]:
        """Return a ring of five nodes whose features have the model's width; sample files fit few models."""
        if self.features == "atoms":
            return []
        ring = torch.arange(5)
        forth = torch.stack([ring, (ring + 1) % 5])
        x = torch.zeros(5, self.width)
        x[ring, ring % self.width] = 1.0
        return [Sample(Data(x=x, edge_index=torch.cat([forth, forth.flip(0)], dim=1)))]

    def cost(self, sample: Sample) -> int:
        """Return the number of nodes."""
        return max(1, int(sample.data.num_nodes))

    def check(self, sample: Sample) -> None:
        """Raise InvalidInput when a graph's nodes have not the features that the model reads."""
        check_features(sample.data, self.features, self.width)

    def prepare(self, sample: Sample) -> GraphFeatures:
        """Return the features and edges of one graph.

        Raises:
            InvalidInput: Its nodes have not the features that the model reads.
        """
        graph = sample.data
        x = node_features(graph, self.features, self.width, self.normalise)
        edges = graph.edge_index
        if self.self_loops:
            edges, _ = add_self_loops(edges, num_nodes=len(x))
        return GraphFeatures(x, edges.t().contiguous())

    def pad(self, features: Sequence[GraphFeatures]) -> dict[str, Tensor]:
        """Put graphs one after the other; there is no padding.

        Returns:
            ``x`` ``(nodes, features)`` float32, ``edges`` ``(edges, 2)`` int64 in the numbering of the batch, and
            ``batch`` ``(nodes,)`` int64, the number of each node's graph.
        """
        counts = torch.tensor([len(f.x) for f in features])
        starts = (counts.cumsum(0) - counts).tolist()
        return {
            "x": features[0].x if len(features) == 1 else torch.cat([f.x for f in features]),
            "edges": torch.cat([f.edges + start for f, start in zip(features, starts, strict=True)]),
            "batch": torch.arange(len(features)).repeat_interleave(counts),
        }
