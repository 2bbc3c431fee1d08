"""Configuration of the molecular graph encoder that GraphMAE, D-SLA and pretrain-gnns share."""

# No postponed annotations: `strict` checks only fields whose annotation is a type, not the text of one.
from huggingface_hub.dataclasses import strict

from hub.configuration import EmbeddingConfig

LAYERS = ("gin", "gcn", "graphsage", "gat", "molclr_gcn")
JUMPING_KNOWLEDGE = ("last", "max", "sum")
SELF_LOOP = 4
"""Edge type of the loop that every layer adds to each node; its tag is 0."""


@strict
class ChemGNNConfig(EmbeddingConfig):
    """Sizes and kind of the encoder. The defaults are those of all published checkpoints: GIN, 5 layers, width 300.

    Attributes:
        gnn: Kind of the layers, one of `LAYERS`.
        hidden_size: Width of the node states.
        num_hidden_layers: Graph layers.
        dropout: On each layer's output, in training.
        jumping_knowledge: What the last hidden state is: the ``last`` layer's output, or the elementwise ``max`` or
            ``sum`` over the input representation and all layers. (Their concatenation is ``layer="all"``.)
        num_attention_heads: Heads of a ``gat`` layer.
        node_types: Rows of the table of the first node feature. The last row stands for a masked node.
        node_tags: Rows of the table of the second one (chirality); 0 where nodes have one feature.
        edge_types: Rows of each layer's table of the first edge feature (bond type); 0 where edges have none. Row 4
            stands for a node's loop to itself, and the last one for a masked edge.
        edge_tags: Rows of the table of the second one (bond direction); 0 where edges have none.
    """

    gnn: str = "gin"
    hidden_size: int = 300
    num_hidden_layers: int = 5
    dropout: float | int = 0.0
    jumping_knowledge: str = "last"
    num_attention_heads: int = 2
    node_types: int = 120
    node_tags: int = 3
    edge_types: int = 6
    edge_tags: int = 3

    def validate_encoder(self) -> None:
        """Raise ValueError when a size or kind cannot be."""
        if self.gnn not in LAYERS:
            raise ValueError(f"gnn={self.gnn!r}: choose one of {', '.join(LAYERS)}")
        if self.jumping_knowledge not in JUMPING_KNOWLEDGE:
            raise ValueError(
                f"jumping_knowledge={self.jumping_knowledge!r}: choose one of {', '.join(JUMPING_KNOWLEDGE)}"
            )
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if self.node_types < 2 or self.node_tags < 0:
            raise ValueError(f"node_types={self.node_types}, node_tags={self.node_tags}: need at least 2 and 0")
        if (self.edge_types == 0) != (self.edge_tags == 0) or self.edge_types not in (0, *range(5, 1000)):
            raise ValueError(
                f"edge_types={self.edge_types}, edge_tags={self.edge_tags}: both 0 (edges without features), or at "
                "least 5 (bond types 0 to 3, and 4 for self loops) and 1"
            )
        if self.edge_types == 0 and self.gnn not in ("gin", "gcn", "graphsage"):
            raise ValueError(f"gnn={self.gnn!r} needs edge features; gin, gcn and graphsage do without")

    @property
    def masked_node(self) -> int:
        """Row of the first node feature that stands for a masked node."""
        return self.node_types - 1
