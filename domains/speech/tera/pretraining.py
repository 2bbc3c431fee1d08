"""TERA's pretext task: predict the clean frames from altered ones (paper, section III)."""

from __future__ import annotations

from collections import deque
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from domains.speech.tera.configuration import TeraConfig
from domains.speech.tera.modeling import TeraModel
from hub.modeling import PretextModel, PretextOutput
from hub.ssl.reconstruction import masked_l1, masked_mse


class TeraHead(nn.Module):
    """Prediction head: token states to acoustic frames; not used for embeddings."""

    def __init__(self, config: TeraConfig) -> None:
        """Create the layers."""
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.output = nn.Linear(config.hidden_size, config.output_dim or config.input_dim)

    def transform(self, states: Tensor) -> Tensor:
        """Return the state before the last projection, ``(batch, frames, hidden)``."""
        return self.norm(F.gelu(self.dense(states)))

    def forward(self, states: Tensor) -> Tensor:
        """Map ``(batch, frames, hidden)`` to ``(batch, frames, features)``."""
        return self.output(self.transform(states))


class TeraForPreTraining(PretextModel):
    """Encoder and prediction head with the reconstruction loss."""

    config: TeraConfig
    config_class = TeraConfig
    base_model_prefix = "tera"
    main_input_name = "input_values"
    input_modalities = "audio"
    _supports_sdpa = True
    _no_split_modules: ClassVar[list[str]] = ["TeraLayer"]
    # An encoder's checkpoint has no head; it starts fresh.
    _keys_to_ignore_on_load_missing: ClassVar[list[str]] = [r"^head\."]

    def __init__(self, config: TeraConfig) -> None:
        """Create encoder and head with fresh weights."""
        super().__init__(config)
        self.tera = TeraModel(config)
        self.head = TeraHead(config)
        self.post_init()

    def forward(
        self,
        input_values: Tensor,
        labels: Tensor,
        label_mask: Tensor,
        attention_mask: Tensor | None = None,
    ) -> PretextOutput:
        """Predict the clean frames and score the altered cells.

        Args:
            input_values: Altered frames, ``(batch, frames, features)``.
            labels: Clean frames, ``(batch, frames, features)``.
            label_mask: Cells to score, true or 1, same shape as ``labels``.
            attention_mask: ``(batch, frames)``, true for real frames, or ``None`` when all are.

        Returns:
            The mean error over all scored cells of the batch, so that long utterances weigh more; metrics
            ``mask_ratio`` (scored share of the real cells) and ``zero_loss`` (the loss of predicting zero,
            the mean of the normalised features: the line that a run must get below).
        """
        mask = None if attention_mask is None else attention_mask.bool()
        # In one pass whatever its length: the recipe's crop bounds it, and chunks would restart positions.
        states = deque(self.tera.encode(input_values.to(self.dtype), mask), maxlen=1).pop()
        predictions = self.head(states)
        loss = masked_l1 if self.config.loss == "L1" else masked_mse
        real = label_mask.numel() if mask is None else mask.sum() * label_mask.shape[2]
        return PretextOutput(
            loss=loss(predictions, labels, label_mask),
            metrics={
                "mask_ratio": label_mask.bool().sum() / real,
                "zero_loss": loss(torch.zeros_like(labels), labels, label_mask),
            },
            predictions=predictions,
            states=states,
            states_mask=mask,
        )
