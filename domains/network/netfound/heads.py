"""netFound's heads: what predicts tokens, and what reads a flow from the CLS states of its bursts."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from domains.network.netfound.configuration import NetFoundConfig


class TokenHead(nn.Module):
    """Token states to logits over the vocabulary, with the token table as the last weight."""

    def __init__(self, config: NetFoundConfig) -> None:
        """Create the layers."""
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.approximate = "tanh" if config.generation == 2 else "none"

    def forward(self, states: Tensor, words: Tensor) -> Tensor:
        """Map ``(tokens, hidden)`` to ``(tokens, vocabulary)``; ``words`` is the table, ``(vocabulary, hidden)``."""
        return F.linear(self.transform(states), words, self.bias)

    def transform(self, states: Tensor) -> Tensor:
        """Return states before the last weight, same shape."""
        return self.norm(F.gelu(self.dense(states), approximate=self.approximate))

    def within_fields(self, states: Tensor, words: Tensor, fields: Tensor, levels: int) -> Tensor:
        """Return logits over the levels of each token's own field.

        Args:
            states: ``(tokens, hidden)``.
            words: The token table, whose rows from 1 on hold the levels of one field after the other.
            fields: ``(tokens,)`` number of the field.
            levels: Of each field.

        Returns:
            ``(tokens, levels)``.
        """
        states = self.transform(states)
        ends = slice(1, 1 + (len(words) - 1) // levels * levels)
        tables, biases = words[ends].unflatten(0, (-1, levels)).unbind(), self.bias[ends].unflatten(0, (-1, levels))
        logits = states.new_empty(len(states), levels)
        for field in fields.unique().tolist():
            own = fields == field
            logits[own] = F.linear(states[own], tables[field], biases[field]).to(logits.dtype)
        return logits


class AttentivePooling(nn.Module):
    """A flow's vector: the CLS states of its bursts, weighed by a learnt score."""

    def __init__(self, config: NetFoundConfig) -> None:
        """Create the layers."""
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.score = nn.Linear(config.hidden_size, 1, bias=False)

    def forward(self, cls: Tensor, real: Tensor) -> Tensor:
        """Map ``(batch, bursts, hidden)`` to ``(batch, hidden)``; ``real`` is ``(batch, bursts)`` bool."""
        scores = self.score(self.dense(cls)).squeeze(-1).tanh()
        weights = scores.masked_fill(~real, torch.finfo(scores.dtype).min).softmax(-1)
        return torch.einsum("bn,bnh->bh", weights, cls)


class FlowHead(nn.Module):
    """What the published code fine-tunes: attentive pooling and three linear layers."""

    def __init__(self, config: NetFoundConfig) -> None:
        """Create the layers."""
        super().__init__()
        self.pooling = AttentivePooling(config)
        self.hidden = nn.Linear(config.hidden_size, config.hidden_size)
        self.hidden2 = nn.Linear(config.hidden_size, config.hidden_size)
        self.output = nn.Linear(config.hidden_size, len(config.head_labels))
        self.activated = config.generation == 2

    def forward(self, cls: Tensor, real: Tensor) -> Tensor:
        """Map ``(batch, bursts, hidden)`` to ``(batch, labels)``; ``real`` is ``(batch, bursts)`` bool."""
        states = self.hidden(self.pooling(cls, real))
        return self.output(self.hidden2(F.gelu(states) if self.activated else states))
