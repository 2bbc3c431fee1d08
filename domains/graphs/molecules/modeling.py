"""The molecular graph encoder (pretrain-gnns, Hu et al., ICLR 2020), shared by GraphMAE, D-SLA and pretrain-gnns."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch_geometric.utils import to_dense_batch

from domains.graphs.molecules.configuration import ChemGNNConfig
from domains.graphs.molecules.layers import LAYER_CLASSES, Neighbourhood
from hub.modeling import EmbeddingModel, EncoderOutput


class ChemGNN(EmbeddingModel):
    """Atoms and bonds to node states; tensors carry the names of the published checkpoints.

    Hidden state 0 is the sum of the node embeddings, state l the output of layer l: graph layer, batch normalisation,
    and ReLU on all but the last. Systems subclass it with a configuration of their own and change nothing.
    """

    config: ChemGNNConfig
    config_class = ChemGNNConfig
    base_model_prefix = "gnn"
    main_input_name = "x"
    poolings = ("mean", "sum", "max")
    # A pretraining checkpoint also holds heads, which an encoder rightly leaves.
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^(decoder|score|predict_\w+)\."]

    def __init__(self, config: ChemGNNConfig) -> None:
        """Create the encoder with fresh weights."""
        super().__init__(config)
        self.x_embedding1 = nn.Embedding(config.node_types, config.hidden_size)
        if config.node_tags:
            self.x_embedding2 = nn.Embedding(config.node_tags, config.hidden_size)
        depth = config.num_hidden_layers
        self.gnns = nn.ModuleList(LAYER_CLASSES[config.gnn](config) for _ in range(depth))
        self.batch_norms = nn.ModuleList(nn.BatchNorm1d(config.hidden_size) for _ in range(depth))
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        initialise(module)

    def neighbourhood(self, edges: Tensor, edge_attr: Tensor | None, nodes: int) -> Neighbourhood:
        """Return the edges as the layers want them; see `Neighbourhood.build`."""
        return Neighbourhood.build(edges, edge_attr, nodes, self.config, self.x_embedding1.weight.dtype)

    def encode(self, x: Tensor, graph: Neighbourhood) -> list[Tensor]:
        """Return all hidden states of the nodes.

        Args:
            x: ``(nodes, features)`` int64: type, and tag where the configuration has tags.
            graph: Their edges.

        Returns:
            ``num_hidden_layers + 1`` tensors ``(nodes, hidden)``, the input representation first; of the last one
            take `jump`.
        """
        states = self.x_embedding1(x[:, 0])
        if self.config.node_tags:
            states = states + self.x_embedding2(x[:, 1])
        found = [states]
        last = self.config.num_hidden_layers - 1
        for depth, (layer, norm) in enumerate(zip(self.gnns, self.batch_norms, strict=True)):
            states = normalise(norm, layer(states, graph))
            states = self.dropout(states if depth == last else states.relu())
            found.append(states)
        return found

    def jump(self, states: list[Tensor]) -> Tensor:
        """Return the node representation of all hidden states, ``(nodes, hidden)``."""
        if self.config.jumping_knowledge == "last":
            return states[-1]
        stacked = torch.stack(states)
        return stacked.amax(0) if self.config.jumping_knowledge == "max" else stacked.sum(0)

    def nodes(self, x: Tensor, edges: Tensor, edge_attr: Tensor | None = None) -> Tensor:
        """Return the node representations of a batch, ``(nodes, hidden)``, not sorted by graph."""
        return self.jump(self.encode(x, self.neighbourhood(edges, edge_attr, len(x))))

    def forward(
        self,
        x: Tensor,
        edges: Tensor,
        batch: Tensor,
        edge_attr: Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> EncoderOutput:
        """Encode a batch of graphs.

        Args:
            x: ``(nodes, features)`` int64, the nodes of all graphs one after another.
            edges: ``(edges, 2)`` int64, source and target of each directed edge, numbered through the batch.
            batch: ``(nodes,)`` int64, which graph each node belongs to, ascending from 0.
            edge_attr: ``(edges, 2)`` int64, type and tag of each edge, where the configuration has them.
            output_hidden_states: Whether to return every hidden state.

        Returns:
            States ``(graphs, nodes of the largest, hidden)``, their mask, and the hidden states if asked for.
        """
        states = self.encode(x, self.neighbourhood(edges, edge_attr, len(x)))
        dense, mask = to_dense_batch(self.jump(states), batch)
        hidden = None
        if output_hidden_states:
            hidden = (*(to_dense_batch(s, batch)[0] for s in states[:-1]), dense)
        return EncoderOutput(last_hidden_state=dense, mask=mask, hidden_states=hidden)


def normalise(norm: nn.Module, states: Tensor) -> Tensor:
    """Apply batch normalisation; a single node has no variance, so in training it is normalised as in evaluation."""
    assert isinstance(norm, nn.BatchNorm1d)
    if norm.training and len(states) == 1:
        return nn.functional.batch_norm(states, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    return norm(states)


def initialise(module: nn.Module) -> None:
    """Initialise as published: embeddings Xavier-uniform, all else as PyTorch (or the layer itself) does."""
    if isinstance(module, nn.Embedding):
        nn.init.xavier_uniform_(module.weight)
    elif callable(reset := getattr(module, "reset_parameters", None)):
        reset()
