"""GraphMAE's pretext task: rebuild the features of masked nodes from their neighbours (paper, section 4)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from domains.graphs.adjacency import Adjacency, sparse_linear
from domains.graphs.dropout import dropout, keep_mask
from domains.graphs.encoder import initialise
from domains.graphs.graphmae.configuration import GraphMAEConfig
from domains.graphs.graphmae.modeling import GraphMAEModel
from domains.graphs.layers import GATLayer, GCNLayer, GINLayer
from hub.modeling import PretextModel, PretextOutput
from hub.ssl.reconstruction import scaled_cosine_error

MLP_DROPOUT = 0.2
"""Dropout inside an ``mlp`` decoder, whatever the configuration's."""


def make_decoder(config: GraphMAEConfig) -> nn.Module:
    """Return the decoder: one layer from states to features, without normalisation or activation after it."""
    width, outputs = config.hidden_size, config.input_dim
    if config.decoder == "gat":
        return GATLayer(
            width,
            outputs,
            config.num_output_heads,
            negative_slope=config.negative_slope,
            feature_dropout=config.feature_dropout,
            attention_dropout=config.attention_dropout,
        )
    if config.decoder == "gin":
        return GINLayer(
            width,
            outputs,
            hidden=width,
            feature_dropout=config.feature_dropout,
            norm=config.norm_name,
            activation=config.activation,
            last=True,
        )
    if config.decoder == "gcn":
        return GCNLayer(width, outputs, feature_dropout=config.feature_dropout)
    if config.decoder == "linear":
        return nn.Linear(width, outputs)
    return nn.Sequential(nn.Linear(width, width), nn.PReLU(), nn.Dropout(MLP_DROPOUT), nn.Linear(width, outputs))


class GraphMAEForPreTraining(PretextModel):
    """Encoder, mask token, bridge and decoder with the reconstruction loss over masked nodes."""

    config: GraphMAEConfig
    config_class = GraphMAEConfig
    base_model_prefix = "graphmae"
    main_input_name = "x"
    # An encoder's checkpoint has none of these; they start fresh.
    _keys_to_ignore_on_load_missing: ClassVar[list[str]] = [r"^mask_token$", r"^bridge\.", r"^decoder\."]

    def __init__(self, config: GraphMAEConfig) -> None:
        """Create encoder and decoder with fresh weights."""
        super().__init__(config)
        self.graphmae = GraphMAEModel(config)
        self.mask_token = nn.Parameter(torch.zeros(1, config.input_dim))
        read = config.hidden_size * (config.num_hidden_layers if config.concat_hidden else 1)
        self.bridge = nn.Linear(read, config.hidden_size, bias=False)
        self.decoder = make_decoder(config)
        self.post_init()

    def _init_weights(self, module: Any) -> None:
        if module is self:
            init.zeros_(self.mask_token)
        else:
            initialise(module)

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Return one group: as published, decay applies to biases, activations and the mask token too."""
        return [{"params": [p for p in self.parameters() if p.requires_grad], "weight_decay": weight_decay}]

    def forward(
        self,
        x: Tensor,
        edges: Tensor,
        batch: Tensor,
        masked: Tensor,
        token: Tensor,
        source: Tensor,
        encoder_edges: Tensor | None = None,
        entries: Tensor | None = None,
        values: Tensor | None = None,
    ) -> PretextOutput:
        """Rebuild the features of the masked nodes.

        Args:
            x: True features, ``(nodes, features)``.
            edges: ``(edges, 2)`` int64, self loops included.
            batch: ``(nodes,)`` int64, number of each node's graph; batches are scored node by node, so it has no say.
            masked: ``(nodes,)`` bool, nodes to rebuild.
            token: ``(nodes,)`` bool, those that the encoder sees as the mask token.
            source: ``(nodes,)`` int64, the node whose features the encoder sees at each; mostly the node itself.
            encoder_edges: Edges that the encoder sees, where some are dropped; the decoder sees all.
            entries: ``(entries, 2)`` int64, node and feature of the entries of the encoder's input that are not zero,
                for sparse features; token nodes have none.
            values: ``(entries,)``, of these entries.

        Returns:
            The mean error over the masked nodes, metric ``mask_ratio``, and the rebuilt features of the masked nodes.
        """
        adjacency = Adjacency(edges, len(x))
        seen = adjacency if encoder_edges is None else Adjacency(encoder_edges, len(x))
        if entries is None or values is None:
            states = self.graphmae.encode(self.corrupt(x, token, source), seen)
        else:
            states = self._encode_sparse(entries, values, token, seen)
        rows = masked.nonzero()[:, 0]
        predictions = self.rebuild(states, adjacency, masked, rows)
        return PretextOutput(
            loss=self.error(predictions, x[rows]),
            metrics={"mask_ratio": masked.float().mean()},
            predictions=predictions,
            states=states[-1],
        )

    def corrupt(self, x: Tensor, token: Tensor, source: Tensor) -> Tensor:
        """Return the encoder's input, ``(nodes, features)``: the token, another node's features, or their own."""
        return torch.where(token[:, None], self.mask_token.to(x.dtype), x[source])

    def rebuild(self, states: list[Tensor], adjacency: Adjacency, masked: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return rebuilt features, ``(rows, features)``, or of all nodes.

        Args:
            states: Each encoder layer's output.
            adjacency: All edges.
            masked: ``(nodes,)`` bool; hidden from the decoder too, if it looks at neighbours.
            rows: ``(rows,)`` int64, nodes to rebuild.
        """
        read = torch.cat(states, dim=1) if self.config.concat_hidden else states[-1]
        if self.config.decoder in ("mlp", "linear"):
            return self.decoder(self.bridge(read if rows is None else read[rows]))
        kept = (~masked).nonzero()[:, 0]
        bridged = self.bridge(read[kept])
        hidden = bridged.new_zeros(len(read), bridged.shape[1]).index_copy(0, kept, bridged)
        return self.decoder(adjacency, hidden, rows)

    def error(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Return the mean error of rebuilt features ``(rows, features)``, a scalar."""
        if self.config.loss == "mse":
            return F.mse_loss(predictions, targets)
        return scaled_cosine_error(predictions, targets, gamma=self.config.gamma)

    def _encode_sparse(self, entries: Tensor, values: Tensor, token: Tensor, adjacency: Adjacency) -> list[Tensor]:
        """Encode sparse features: the first linear map takes the entries that are there, and the token rows apart.

        Equal to encoding the dense features: dropout acts on each entry and on each feature of each token row.
        """
        first = self.graphmae.layers[0]
        assert isinstance(first, GATLayer) and first.residual is None
        weight, rate = first.linear.weight, first.feature_dropout
        mapped = sparse_linear(entries, dropout(values.to(weight.dtype), rate, self.training), len(token), weight)
        rows = token.nonzero()[:, 0]
        shape = (len(rows) if self.training and rate else 1, weight.shape[1])
        kept = keep_mask(shape, rate if self.training else 0.0, weight)
        # (mask * token) W = mask (token * W): one product, and none of the mask's size for the token's gradient.
        at_tokens = kept @ (self.mask_token * weight).t()
        mapped = mapped.index_add(0, rows, at_tokens.expand(len(rows), -1))
        states = [first.attend(adjacency, mapped)]
        for layer in self.graphmae.layers[1:]:
            states.append(layer(adjacency, states[-1]))
        return states
