"""Predict hidden numbers from the rest, with an EMA teacher and a queue, so that a run has state of every kind."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hub.modeling import PretextModel, PretextOutput, masked_mean
from hub.reading import Sample
from hub.training.collation import Collator, Randomness
from toy_domain.sequences.modeling import SequenceConfig, SequenceModel


class SequenceCollator(Collator):
    """Hides some numbers."""

    def __init__(self, processor: Any, config: Any, hidden_share: float = 0.3) -> None:
        super().__init__(processor, config)
        self.hidden_share = hidden_share

    def cost(self, sample: Sample) -> int:
        return len(sample.data) if len(sample.data) >= self.processor.shortest else 0

    def view(self, sample: Sample, generator: torch.Generator) -> Tensor:
        values = self.processor.prepare(sample)
        return values + 0.01 * torch.randn(values.shape, generator=generator)

    def collate(self, views: Sequence[Tensor], randomness: Randomness) -> dict[str, Tensor]:
        batch = self.processor.pad(views)
        hidden = torch.zeros(batch["values"].shape, dtype=torch.bool)
        for row, view, generator in zip(hidden, views, randomness.samples, strict=True):
            row[: len(view)] = torch.rand(len(view), generator=generator) < self.hidden_share
        return {**batch, "hidden": hidden & batch["mask"]}


class SequenceForPreTraining(PretextModel):
    """Encoder, head, teacher and queue."""

    config_class = SequenceConfig
    base_model_prefix = "encoder"
    _keys_to_ignore_on_load_missing = [r"^(head|teacher)\.", r"^queue$"]

    def __init__(self, config: SequenceConfig) -> None:
        super().__init__(config)
        self.encoder = SequenceModel(config)
        self.head = nn.Linear(config.hidden_size, 1)
        self.teacher = copy.deepcopy(self.encoder).requires_grad_(False)
        self.register_buffer("queue", torch.zeros(4, config.hidden_size))
        self.dropout = nn.Dropout(0.1)
        self.post_init()

    def forward(self, values: Tensor, mask: Tensor, hidden: Tensor) -> PretextOutput:
        states = self.encoder(values.masked_fill(hidden, 0.0), mask).last_hidden_state
        error = (self.head(self.dropout(states)).squeeze(-1) - values).square()
        loss = (error * hidden).sum() / hidden.sum().clamp(min=1)
        with torch.no_grad():
            target = masked_mean(self.teacher(values, mask).last_hidden_state, mask).mean(0)
            distance = (self.queue - target).square().mean()
            if self.training:
                self.queue.copy_(torch.cat([self.queue[1:], target[None]]))
        return PretextOutput(loss + 0.1 * distance, {"hidden_share": hidden.sum() / mask.sum(), "queue": distance})

    def update_teacher(self, progress: float) -> None:
        for slow, fast in zip(self.teacher.parameters(), self.encoder.parameters(), strict=True):
            slow.data.lerp_(fast.data, 0.1)
