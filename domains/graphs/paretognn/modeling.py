"""The ParetoGNN encoder: graph convolutions that several pretext tasks share (paper, section 4)."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from domains.graphs.encoder import GraphEncoder
from domains.graphs.layers import GCNLayer
from domains.graphs.paretognn.configuration import ParetoGNNConfig


class ParetoGNNModel(GraphEncoder):
    """Nodes with features to node states."""

    config: ParetoGNNConfig
    config_class = ParetoGNNConfig
    base_model_prefix = "paretognn"
    main_input_name = "x"
    # The tasks' heads are not needed to embed.
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^(heads|mask_token|discriminator)"]

    def __init__(self, config: ParetoGNNConfig) -> None:
        """Create the layers with fresh weights."""
        super().__init__(config)
        self.layers = nn.ModuleList(
            GCNLayer(
                inputs,
                outputs,
                feature_dropout=config.dropout if number else 0.0,
                norm=config.norm,
                activation="prelu",
                norm_momentum=config.norm_momentum,
            )
            for number, (inputs, outputs) in enumerate(
                zip([config.input_dim, *config.hidden_sizes], config.hidden_sizes, strict=False)
            )
        )
        self.post_init()

    @property
    def widths(self) -> list[int]:
        """Width of each layer's output."""
        return list(self.config.hidden_sizes)
