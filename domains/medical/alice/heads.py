"""What Alice puts on encoder and decoder: the projection head, and the attention that aligns patches (CASA)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from domains.medical.alice.configuration import AliceConfig


class Prototypes(nn.Module):
    """Scores against prototypes: a weight-normalised linear layer whose gain does not learn."""

    gain: Tensor

    def __init__(self, width: int, outputs: int) -> None:
        """Create prototypes with a gain of 1; the task initialises them."""
        super().__init__()
        self.direction = nn.Parameter(torch.empty(outputs, width))
        self.register_buffer("gain", torch.ones(outputs, 1))

    def forward(self, points: Tensor, learn: bool = True) -> Tensor:
        """Map ``(..., width)`` unit vectors to ``(..., outputs)``; without ``learn`` no gradient reaches them."""
        direction = self.direction if learn else self.direction.detach()
        return F.linear(points, self.gain * F.normalize(direction, dim=-1))


class OverRows(nn.BatchNorm1d):
    """Batch normalisation of the last axis, over all others."""

    def forward(self, states: Tensor) -> Tensor:
        """Normalise ``(..., width)``."""
        return super().forward(states.flatten(0, -2)).view_as(states)


class Head(nn.Module):
    """One network for class vectors and tokens, after a linear layer of their own for the latter."""

    def __init__(self, config: AliceConfig, decoder_width: int) -> None:
        """Create the layers; ``decoder_width`` is that of the decoder's tokens."""
        super().__init__()
        width, hidden, points = config.widths[-1], config.head_hidden, config.head_bottleneck
        self.from_encoder = nn.Linear(width, width)
        self.from_decoder = nn.Linear(decoder_width, width)
        layers: list[nn.Module] = []
        for inputs, outputs in ((width, hidden), (hidden, hidden)):
            layers.append(nn.Linear(inputs, outputs))
            if config.head_batch_norm:
                layers.append(OverRows(outputs))
            layers.append(nn.GELU())
        self.mlp = nn.Sequential(*layers, nn.Linear(hidden, points))
        self.class_prototypes = Prototypes(points, config.head_outputs)
        self.token_prototypes = Prototypes(points, config.head_outputs)

    def forward(
        self, encoded: Tensor, decoded: Tensor, learn: bool = True, shared: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Score a batch.

        Args:
            encoded: Deepest map of the encoder, ``(batch, width, x, y, z)``.
            decoded: Deepest map of the decoder, ``(batch, decoder_width, x, y, z)``.
            learn: Whether gradients reach the prototypes.
            shared: Whether tokens are scored with the class prototypes.

        Returns:
            Scores of the class vector, the mean of the encoder's map, ``(batch, outputs)``; of the encoder's tokens and
            of the decoder's, ``(batch, tokens, outputs)``.
        """
        for_tokens = self.class_prototypes if shared else self.token_prototypes
        tokens = encoded.flatten(2).transpose(1, 2)
        # The published code counts these with x fastest; attention over them does not depend on their order.
        fine = decoded.movedim(2, 4).flatten(2).transpose(1, 2)
        return (
            self.class_prototypes(self._points(encoded.mean(dim=(2, 3, 4))), learn),
            for_tokens(self._points(self.from_encoder(tokens)), learn),
            for_tokens(self._points(self.from_decoder(fine)), learn),
        )

    def _points(self, states: Tensor) -> Tensor:
        return F.normalize(self.mlp(states), dim=-1)


class Casa(nn.Module):
    """Conditional anatomical semantic alignment: decoder tokens gathered at the places of the student's encoder tokens.

    One module for student and teacher, in the space of the prototypes' scores. Its residual is the query, so what
    student and teacher have in common weighs most; the patch loss starts small.
    """

    def __init__(self, config: AliceConfig) -> None:
        """Create the layers."""
        super().__init__()
        outputs, inner = config.head_outputs, config.casa_heads * config.casa_head_size
        self.heads = config.casa_heads
        self.queries = nn.Linear(outputs, inner, bias=False)
        self.keys = nn.Linear(outputs, inner, bias=False)
        self.values = nn.Linear(outputs, inner, bias=False)
        self.out = nn.Linear(inner, outputs, bias=False)
        self.norm1 = nn.LayerNorm(outputs, eps=1e-6)
        self.expand = nn.Linear(outputs, config.casa_inner)
        self.contract = nn.Linear(config.casa_inner, outputs)
        self.norm2 = nn.LayerNorm(outputs, eps=1e-6)
        self.dropout = nn.Dropout(config.casa_dropout)

    def forward(self, tokens: Tensor, fine: Tensor) -> Tensor:
        """Gather ``fine`` tokens by attention.

        Args:
            tokens: Scores of the student's encoder tokens, ``(batch, tokens, outputs)``.
            fine: Scores of decoder tokens, ``(batch, fine, outputs)``.

        Returns:
            ``(batch, tokens, outputs)``.
        """
        query, key, value = (
            layer(given).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, given in ((self.queries, tokens), (self.keys, fine), (self.values, fine))
        )
        gathered = F.scaled_dot_product_attention(query, key, value, dropout_p=self.dropout.p if self.training else 0.0)
        states = self.norm1(tokens + self.dropout(self.out(gathered.transpose(1, 2).flatten(2))))
        return self.norm2(states + self.dropout(self.contract(F.relu(self.expand(states)))))


def initialise(module: Any) -> None:
    """Give prototypes fresh directions, and batch normalisation its statistics."""
    if isinstance(module, Prototypes):
        init.trunc_normal_(module.direction, std=0.02)
        init.ones_(module.gain)
    elif isinstance(module, OverRows):
        for name in ("weight", "running_var"):
            init.ones_(getattr(module, name))
        for name in ("bias", "running_mean", "num_batches_tracked"):
            init.zeros_(getattr(module, name))
