"""The GraphMAE encoder: attention, isomorphism or convolution layers over nodes with features (paper, section 4)."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from domains.graphs.encoder import GraphEncoder
from domains.graphs.graphmae.configuration import GraphMAEConfig
from domains.graphs.layers import GATLayer, GCNLayer, GINLayer


def make_encoder_layer(config: GraphMAEConfig, inputs: int) -> nn.Module:
    """Return one layer of the encoder; normalisation and activation follow every layer, the last included."""
    common: dict[str, Any] = {
        "feature_dropout": config.feature_dropout,
        "residual": config.residual,
        "norm": config.norm_name,
        "activation": config.activation,
    }
    width = config.hidden_size
    if config.encoder == "gin":
        return GINLayer(inputs, width, hidden=width, **common)
    if config.encoder == "gcn":
        return GCNLayer(inputs, width, **common)
    return GATLayer(
        inputs,
        width,
        config.num_attention_heads,
        negative_slope=config.negative_slope,
        attention_dropout=config.attention_dropout,
        **common,
    )


class GraphMAEModel(GraphEncoder):
    """Nodes with features to node states."""

    config: GraphMAEConfig
    config_class = GraphMAEConfig
    base_model_prefix = "graphmae"
    main_input_name = "x"
    # The pretext task's own parts are not needed to embed.
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^mask_token$", r"^bridge\.", r"^decoder\."]

    def __init__(self, config: GraphMAEConfig) -> None:
        """Create the layers with fresh weights."""
        super().__init__(config)
        widths = [config.input_dim] + [config.hidden_size] * (config.num_hidden_layers - 1)
        self.layers = nn.ModuleList(make_encoder_layer(config, width) for width in widths)
        self.post_init()
