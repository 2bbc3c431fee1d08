"""Predict hidden numbers from the rest, with an EMA teacher, a queue and a codebook: a run has state of every kind."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hub.modeling import PretextModel, PretextOutput, masked_mean
from hub.reading import Sample
from hub.ssl.distributed import gather_rows, mean_share
from hub.ssl.quantization import Codebook
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
            row[0] |= not row.any()
        return {**batch, "hidden": hidden & batch["mask"]}


class SequenceForPreTraining(PretextModel):
    """Encoder, head, teacher, queue and codebook."""

    config_class = SequenceConfig
    base_model_prefix = "encoder"
    _keys_to_ignore_on_load_missing = [r"^(head|teacher|codebook)\.", r"^queue$"]

    def __init__(self, config: SequenceConfig) -> None:
        super().__init__(config)
        self.encoder = SequenceModel(config)
        self.head = nn.Linear(config.hidden_size, 1)
        self.teacher = copy.deepcopy(self.encoder).requires_grad_(False)
        self.register_buffer("queue", torch.zeros(4, config.hidden_size))
        self.codebook = Codebook(6, config.hidden_size, generator=torch.Generator().manual_seed(0), update="ema")
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()

    def forward(self, values: Tensor, mask: Tensor, hidden: Tensor) -> PretextOutput:
        states = self.encoder(values.masked_fill(hidden, 0.0), mask).last_hidden_state
        error = (self.head(self.dropout(states)).squeeze(-1) - values).square()
        quantized = self.codebook(states, mask)
        with torch.no_grad():
            pooled = masked_mean(self.teacher(values, mask).last_hidden_state, mask)
            target = gather_rows(pooled).values.mean(0)
            distance = (self.queue - target).square().mean()
            if self.training:
                self.queue.copy_(torch.cat([self.queue[1:], target[None]]))
        loss = mean_share(error, hidden) + 0.1 * quantized.commitment_loss + 0.1 * distance
        metrics = {
            "mask_ratio": hidden.sum() / mask.sum(),
            "queue": distance,
            "codebook_perplexity": quantized.perplexity,
        }
        return PretextOutput(loss, metrics, states=states, states_mask=mask)

    def start_teacher(self) -> None:
        self.teacher.load_state_dict(self.encoder.state_dict())

    def update_teacher(self, progress: float) -> None:
        for slow, fast in zip(self.teacher.parameters(), self.encoder.parameters(), strict=True):
            slow.data.lerp_(fast.data, 0.1)
