"""TimeDRL: timestamp-predictive and instance-contrastive learning (Chang et al., ICDE 2024, arXiv 2312.04142)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from domains.eeg.eegformer.configuration import EEGFormerConfig
from domains.eeg.eegformer.objectives import Objective, Rows
from hub.ssl.distillation import negative_cosine
from hub.ssl.reconstruction import masked_mse

if TYPE_CHECKING:
    from domains.eeg.eegformer.modeling import EEGFormerModel


class TimeDRL(Objective):
    """Two passes that differ by dropout alone: tokens are read back linearly, class tokens are drawn together.

    Predictions are compared with the normalised tokens that the encoder saw (the published loop takes the raw ones).
    """

    def __init__(self, config: EEGFormerConfig) -> None:
        """Create the linear read-out and the bottleneck that predicts the other pass's class token."""
        super().__init__()
        width = config.hidden_size
        self.weight = config.contrastive_weight
        self.readout = nn.Linear(width, config.patch_size)
        self.predictor = nn.Sequential(
            nn.Linear(width, width // 2), nn.BatchNorm1d(width // 2), nn.ReLU(), nn.Linear(width // 2, width)
        )

    def contrast(self, one: Tensor, other: Tensor) -> Tensor:
        """Return minus the mean cosine of what is predicted from ``one`` and ``other``, which gets no gradient."""
        return negative_cosine(self.predictor(one), other.detach())

    def forward(self, model: EEGFormerModel, rows: Rows) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of one batch and its two terms."""
        *_, again = model.encode(rows.values, rows.mask)
        passes = (rows.states, again)
        errors = [masked_mse(self.readout(states[:, 1:]), rows.values, rows.mask) for states in passes]
        predictive = torch.stack(errors).mean()
        one, other = (states[:, 0] for states in passes)
        contrastive = (self.contrast(one, other) + self.contrast(other, one)) / 2
        loss = predictive + self.weight * contrastive
        return loss, {"predictive": predictive, "contrastive": contrastive}
