"""A two-layer network on each number."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hub.configuration import EmbeddingConfig
from hub.modeling import EmbeddingModel, EncoderOutput, TaskFile


class SequenceConfig(EmbeddingConfig):
    """Sizes."""

    model_type = "toy_sequences"
    hidden_size: int = 8
    num_hidden_layers: int = 1
    initializer_range: float = 0.7
    dropout: float = 0.1


class SequenceModel(EmbeddingModel):
    """Numbers to states."""

    config_class = SequenceConfig
    base_model_prefix = "encoder"
    main_input_name = "values"
    poolings = ("mean", "max", "sum")
    tasks = {"total": "total", "table": "table"}
    _keys_to_ignore_on_load_unexpected = [r"^(head|teacher|codebook)\.", r"^queue$"]

    def __init__(self, config: SequenceConfig) -> None:
        super().__init__(config)
        self.input = nn.Linear(1, config.hidden_size)
        self.layer = nn.Linear(config.hidden_size, config.hidden_size)
        self.post_init()

    def forward(self, values: Tensor, mask: Tensor, output_hidden_states: bool = False) -> EncoderOutput:
        first = torch.tanh(self.input(values.unsqueeze(-1)))
        last = torch.tanh(self.layer(first))
        return EncoderOutput(last, mask, (first, last) if output_hidden_states else None)

    def total(self, batch: dict[str, Tensor], samples: list[Any]) -> list[Any]:
        """Sum each sequence."""
        return [{"total": float(v[m].sum())} for v, m in zip(batch["values"], batch["mask"], strict=True)]

    def table(self, batch: dict[str, Tensor], samples: list[Any]) -> list[Any]:
        """Return each sequence as a file."""
        return [TaskFile(",".join(map(str, s.data.tolist())).encode(), "text/csv", "table.csv") for s in samples]
