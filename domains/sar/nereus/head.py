"""DINO's projection head (Caron et al. 2021, section 3.1 and appendix C)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from domains.sar.nereus.configuration import NereusConfig


class DinoHead(nn.Module):
    """Three linear layers to a bottleneck, normalised, then cosines to the prototypes."""

    def __init__(self, config: NereusConfig) -> None:
        """Create the layers; the task initialises them."""
        super().__init__()
        widths = [config.hidden_size, config.head_hidden, config.head_hidden]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers.append(nn.Linear(inputs, outputs))
            if config.head_batch_norm:
                layers.append(nn.BatchNorm1d(outputs))
            layers.append(nn.GELU())
        self.layers = nn.Sequential(*layers, nn.Linear(config.head_hidden, config.head_bottleneck))
        # Only their directions count: a weight-normalised layer whose gain stays 1.
        self.prototypes = nn.Parameter(torch.empty(config.head_outputs, config.head_bottleneck))

    def forward(self, summary: Tensor, learn_prototypes: bool = True) -> Tensor:
        """Map ``(images, hidden)`` to logits ``(images, outputs)``.

        Args:
            summary: Of each image.
            learn_prototypes: Whether gradients reach the prototypes.
        """
        prototypes = self.prototypes if learn_prototypes else self.prototypes.detach()
        return F.linear(F.normalize(self.layers(summary), dim=-1), F.normalize(prototypes, dim=-1))
