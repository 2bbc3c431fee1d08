"""The graph layers of the molecular encoder (pretrain-gnns, Hu et al., ICLR 2020, section 5 and appendix A).

Messages are ``h_j + E1[bond type] + E2[bond direction]``. All kinds but attention are a weighted sum of them over the
incoming edges; being linear, the sum of the edge terms is a count of each type times its table, so that no tensor of
``(edges, hidden)`` is made for them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.utils import scatter, softmax

from domains.graphs.molecules.configuration import SELF_LOOP, ChemGNNConfig

NEGATIVE_SLOPE = 0.2


@dataclass(frozen=True)
class Neighbourhood:
    """The edges of a batch, a loop at each node included, and how much each message weighs.

    Attributes:
        source: ``(edges + nodes,)`` int64, where a message comes from.
        target: Where it goes to.
        kinds: ``(edges + nodes, 2)`` int64: type and tag of each edge; ``None`` where edges have no features.
        weight: ``(edges + nodes,)``, or ``None`` for equal weights of 1.
        type_sums: ``(nodes, edge types)``: summed weight of each node's incoming edges of each type, or ``None``.
        tag_sums: The same for edge tags.
    """

    source: Tensor
    target: Tensor
    kinds: Tensor | None
    weight: Tensor | None
    type_sums: Tensor | None
    tag_sums: Tensor | None

    @classmethod
    def build(
        cls, edges: Tensor, edge_attr: Tensor | None, nodes: int, config: ChemGNNConfig, dtype: torch.dtype
    ) -> Neighbourhood:
        """Add self loops and weigh the edges as the configuration's layers do.

        Args:
            edges: ``(edges, 2)`` int64, source and target.
            edge_attr: ``(edges, 2)`` int64, or ``None``.
            nodes: How many there are.
            config: Names the layers.
            dtype: Of the weights.
        """
        loops = torch.arange(nodes, device=edges.device)
        source, target = torch.cat([edges[:, 0], loops]), torch.cat([edges[:, 1], loops])
        weight = None
        if config.gnn in ("gcn", "graphsage"):
            # As published, degrees are counted at the source, which differs only in a graph that is not symmetric.
            counted = source if config.gnn == "gcn" else target
            degree = scatter(torch.ones_like(counted, dtype=dtype), counted, dim_size=nodes)
            inverse = degree.pow(-0.5)
            weight = inverse[source] * inverse[target] if config.gnn == "gcn" else 1 / degree[target]
        kinds = type_sums = tag_sums = None
        if config.edge_types:
            assert edge_attr is not None
            loop = torch.tensor([[SELF_LOOP, 0]], device=edges.device).expand(nodes, 2)
            kinds = torch.cat([edge_attr, loop])
            each = torch.ones(len(target), dtype=dtype, device=edges.device) if weight is None else weight
            type_sums = _sums(target, kinds[:, 0], each, nodes, config.edge_types)
            tag_sums = _sums(target, kinds[:, 1], each, nodes, config.edge_tags)
        return cls(source, target, kinds, weight, type_sums, tag_sums)

    def sum(self, states: Tensor) -> Tensor:
        """Return the weighted sum of the incoming states of each node, ``(nodes, hidden)`` to the same shape."""
        messages = states[self.source]
        if self.weight is not None:
            messages = messages * self.weight[:, None]
        return torch.zeros_like(states).index_add_(0, self.target, messages)


def _sums(target: Tensor, kind: Tensor, weight: Tensor, nodes: int, kinds: int) -> Tensor:
    """Return the summed weight of the edges of each kind into each node, ``(nodes, kinds)``."""
    return scatter(weight, target * kinds + kind, dim_size=nodes * kinds).view(nodes, kinds)


class GraphLayer(nn.Module):
    """Base of the layers: two tables for the features of edges, of one row a type and one a tag."""

    def __init__(self, config: ChemGNNConfig, edge_width: int) -> None:
        """Create the tables, ``edge_width`` wide, where edges have features."""
        super().__init__()
        if config.edge_types:
            self.edge_embedding1 = nn.Embedding(config.edge_types, edge_width)
            self.edge_embedding2 = nn.Embedding(config.edge_tags, edge_width)

    def aggregate(self, states: Tensor, graph: Neighbourhood) -> Tensor:
        """Return the weighted sum of each node's incoming messages, ``(nodes, hidden)``."""
        summed = graph.sum(states)
        if graph.type_sums is None or graph.tag_sums is None:
            return summed
        return summed + graph.type_sums @ self.edge_embedding1.weight + graph.tag_sums @ self.edge_embedding2.weight


class GINLayer(GraphLayer):
    """Sum of the messages, then two linear layers (Xu et al., ICLR 2019, without epsilon)."""

    def __init__(self, config: ChemGNNConfig, output_size: int | None = None) -> None:
        """Create the layer; ``output_size`` is ``hidden_size`` unless given."""
        width = config.hidden_size
        super().__init__(config, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width if output_size is None else output_size)
        )

    def forward(self, states: Tensor, graph: Neighbourhood) -> Tensor:
        """Map ``(nodes, hidden)`` to ``(nodes, output)``."""
        return self.mlp(self.aggregate(states, graph))


class GCNLayer(GraphLayer):
    """A linear layer, then the sum of the messages weighted by D^-1/2 A D^-1/2 (Kipf and Welling, ICLR 2017)."""

    def __init__(self, config: ChemGNNConfig) -> None:
        """Create the layer."""
        super().__init__(config, config.hidden_size)
        self.linear = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, states: Tensor, graph: Neighbourhood) -> Tensor:
        """Map ``(nodes, hidden)`` to the same shape."""
        return self.aggregate(self.linear(states), graph)


class GraphSAGELayer(GCNLayer):
    """A linear layer, the mean of the messages, and each node scaled to length 1 (Hamilton et al., NIPS 2017)."""

    def forward(self, states: Tensor, graph: Neighbourhood) -> Tensor:
        """Map ``(nodes, hidden)`` to the same shape."""
        return F.normalize(super().forward(states, graph), dim=-1)


class GATLayer(GraphLayer):
    """Attention of each node over its incoming messages, the heads averaged (Velickovic et al., ICLR 2018).

    The softmax runs over the edges that come in at a node.
    """

    def __init__(self, config: ChemGNNConfig) -> None:
        """Create the layer."""
        super().__init__(config, config.num_attention_heads * config.hidden_size)
        self.heads, self.width = config.num_attention_heads, config.hidden_size
        self.weight_linear = nn.Linear(self.width, self.heads * self.width)
        self.att = nn.Parameter(torch.empty(1, self.heads, 2 * self.width))
        self.bias = nn.Parameter(torch.empty(self.width))

    def reset_parameters(self) -> None:
        """Initialise what is not a module of its own."""
        nn.init.xavier_uniform_(self.att)
        nn.init.zeros_(self.bias)

    def forward(self, states: Tensor, graph: Neighbourhood) -> Tensor:
        """Map ``(nodes, hidden)`` to the same shape."""
        assert graph.kinds is not None
        states = self.weight_linear(states).view(-1, self.heads, self.width)
        edge = self.edge_embedding1(graph.kinds[:, 0]) + self.edge_embedding2(graph.kinds[:, 1])
        messages = states[graph.source] + edge.view(-1, self.heads, self.width)
        scores = (torch.cat([states[graph.target], messages], dim=-1) * self.att).sum(-1)
        attention = softmax(F.leaky_relu(scores, NEGATIVE_SLOPE), graph.target, num_nodes=len(states))
        weighted = messages * attention[..., None]
        return torch.zeros_like(states).index_add_(0, graph.target, weighted).mean(1) + self.bias


class MolCLRGCNLayer(GraphLayer):
    """MolCLR's GCN (Wang et al., 2022): as its code computes it, the messages are summed without degree weights.

    Each edge type and tag adds one number to all channels.
    """

    def __init__(self, config: ChemGNNConfig) -> None:
        """Create the layer."""
        super().__init__(config, 1)
        self.weight = nn.Parameter(torch.empty(config.hidden_size, config.hidden_size))
        self.bias = nn.Parameter(torch.empty(config.hidden_size))

    def reset_parameters(self) -> None:
        """Initialise what is not a module of its own."""
        nn.init.xavier_uniform_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, states: Tensor, graph: Neighbourhood) -> Tensor:
        """Map ``(nodes, hidden)`` to the same shape."""
        return self.aggregate(states @ self.weight, graph) + self.bias


LAYER_CLASSES: dict[str, Callable[[ChemGNNConfig], GraphLayer]] = {
    "gin": GINLayer,
    "gcn": GCNLayer,
    "graphsage": GraphSAGELayer,
    "gat": GATLayer,
    "molclr_gcn": MolCLRGCNLayer,
}
