"""The Transformer of encoder and decoder: self-attention over the tokens of one row."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn import functional as F

from domains.eeg.eegformer.configuration import EEGFormerConfig


class EEGFormerAttention(nn.Module):
    """Multi-head self-attention over the real tokens."""

    def __init__(self, config: EEGFormerConfig) -> None:
        """Create the layers."""
        super().__init__()
        self.heads = config.num_attention_heads
        self.in_proj = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.probability_dropout = config.hidden_dropout_prob

    def forward(self, states: Tensor, attended: Tensor | None) -> Tensor:
        """Map ``(rows, tokens, hidden)`` to the same shape.

        Args:
            states: Token states.
            attended: ``(rows, 1, 1, tokens)`` bool, true for tokens to attend to, or ``None`` for all.
        """
        query, key, value = self.in_proj(states).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.probability_dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=attended, dropout_p=dropout)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class EEGFormerLayer(nn.Module):
    """Attention and feed-forward, each with dropout, residual and normalisation before or after it."""

    def __init__(self, config: EEGFormerConfig) -> None:
        """Create the sublayers."""
        super().__init__()
        self.norm_first = config.norm_first
        self.self_attn = EEGFormerAttention(config)
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.linear1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.linear2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.activation = F.gelu if config.hidden_act == "gelu" else F.relu
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def _feed_forward(self, states: Tensor) -> Tensor:
        return self.dropout(self.linear2(self.dropout(self.activation(self.linear1(states)))))

    def forward(self, states: Tensor, attended: Tensor | None) -> Tensor:
        """Map ``(rows, tokens, hidden)`` to the same shape; ``attended`` as in `EEGFormerAttention`."""
        if self.norm_first:
            states = states + self.dropout(self.self_attn(self.norm1(states), attended))
            return states + self._feed_forward(self.norm2(states))
        states = self.norm1(states + self.dropout(self.self_attn(states, attended)))
        return self.norm2(states + self._feed_forward(states))


class EEGFormerStack(nn.Module):
    """Layers of one kind, and a last normalisation where the configuration asks for it."""

    def __init__(self, config: EEGFormerConfig, layers: int) -> None:
        """Create the layers."""
        super().__init__()
        self.layers = nn.ModuleList(EEGFormerLayer(config) for _ in range(layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if config.final_norm else None

    def states(self, states: Tensor, mask: Tensor | None) -> Iterator[Tensor]:
        """Yield the input and each layer's output, the last one normalised; all ``(rows, tokens, hidden)``.

        Args:
            states: ``(rows, tokens, hidden)``.
            mask: ``(rows, tokens)`` bool, true for real tokens, or ``None`` when all are.
        """
        # Without padding the attention kernels are faster without a mask.
        attended = None if mask is None or bool(mask.all()) else mask[:, None, None, :]
        for layer in self.layers:
            yield states
            states = layer(states, attended)
        yield states if self.norm is None else self.norm(states)

    def forward(self, states: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map ``(rows, tokens, hidden)`` to the same shape."""
        *_, last = self.states(states, mask)
        return last
