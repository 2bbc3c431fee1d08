"""Sequences to padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from hub.errors import InvalidInput
from hub.processing import Processor
from hub.reading import Sample
from toy_domain.reading import NumberReader


class SequenceProcessor(Processor):
    """Scales numbers."""

    cost_unit = "numbers"
    batch_cost = 64

    def __init__(self, scale: float = 1.0, shortest: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scale = scale
        self.shortest = shortest

    def cost(self, sample: Sample) -> int:
        return len(sample.data)

    def prepare(self, sample: Sample) -> torch.Tensor:
        if len(sample.data) < self.shortest:
            raise InvalidInput(f"{len(sample.data)} numbers; at least {self.shortest} are needed", code="too_short")
        return torch.from_numpy(sample.data) * self.scale

    def pad(self, features: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        values = torch.nn.utils.rnn.pad_sequence(list(features), batch_first=True)
        lengths = torch.tensor([len(f) for f in features])
        return {"values": values, "mask": torch.arange(values.shape[1]) < lengths[:, None]}

    def reader(self) -> NumberReader:
        return NumberReader()
