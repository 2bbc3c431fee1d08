"""netFound's encoder block: attention with rotary positions, and the feed-forward sublayer of each generation."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from domains.network.netfound.configuration import NetFoundConfig


def sinusoids(positions: int, width: int) -> Tensor:
    """Return the rotary table of Su et al. (RoFormer): angles ``p / 10000 ** (2 i / width)``.

    Returns:
        ``(positions, width)``: the sines of all pairs, then their cosines.
    """
    rates = 10_000 ** (-2 * torch.arange(width // 2, dtype=torch.float64) / width)
    angles = torch.arange(positions, dtype=torch.float64).unsqueeze(1) * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def rotate(states: Tensor, table: Tensor) -> Tensor:
    """Turn neighbouring pairs of features by the angles of their position.

    Args:
        states: ``(tokens, heads, width)``.
        table: ``(tokens, width)``, rows of what `sinusoids` makes. The published tables are noise, which scales the
            pairs too; they are applied as they are.
    """
    sine, cosine = table.to(states.dtype).unsqueeze(1).chunk(2, dim=-1)
    even, odd = states[..., 0::2], states[..., 1::2]
    return torch.stack([even * cosine - odd * sine, odd * cosine + even * sine], dim=-1).flatten(-2)


@dataclass(frozen=True)
class Group:
    """Rows of similar length, padded to the longest of them.

    Attributes:
        index: ``(rows, tokens)`` where in all tokens each lies; anything where there is none.
        places: ``(rows, tokens)`` bool, where there is one.
        added: ``(rows, 1, 1, tokens)`` to be added to attention scores, or ``None`` when nothing is masked.
    """

    index: Tensor
    places: Tensor
    added: Tensor | None


@dataclass(frozen=True)
class Rows:
    """Sequences whose tokens lie end to end without padding: everything but attention works token by token.

    Attributes:
        groups: The rows by length, so that few tokens of attention are padding. All rows are in one of them.
        table: ``(all tokens, head width)`` rows of the rotary table, or ``None`` for attention that knows no order.
    """

    groups: tuple[Group, ...]
    table: Tensor | None

    @classmethod
    def of(cls, places: Tensor, real: Tensor, table: Tensor | None, dtype: torch.dtype) -> Rows:
        """Describe sequences.

        Args:
            places: ``(rows, tokens)`` bool, the tokens that there are, the first ones of each row.
            real: ``(rows, tokens)`` bool, which of them are attended to.
            table: ``(tokens or more, head width)``, the rotary table.
            dtype: Of the states.
        """
        lengths = places.sum(1)
        index = (lengths.cumsum(0) - lengths).unsqueeze(1) + torch.arange(places.shape[1], device=places.device)
        groups = []
        longest = places.shape[1]
        while longest:
            own = (lengths > longest // 2) & (lengths <= longest)
            if own.any():
                cut = int(lengths[own].max())
                there = places[own, :cut]
                groups.append(Group(index[own, :cut] * there, there, _to_add(real[own, :cut], dtype)))
            longest //= 2
        return cls(tuple(groups), None if table is None else table[places.nonzero()[:, 1]])


def _to_add(real: Tensor, dtype: torch.dtype) -> Tensor | None:
    if real.all():
        return None
    # Not minus infinity: where a whole row is padding, attention is then uniform and not NaN.
    added = torch.zeros(real.shape, dtype=dtype, device=real.device)
    return added.masked_fill(~real, torch.finfo(dtype).min)[:, None, None]


class Attention(nn.Module):
    """Multi-head self-attention with residual and normalisation after it."""

    def __init__(self, config: NetFoundConfig) -> None:
        """Create the layers."""
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.probability_dropout = config.attention_probs_dropout_prob
        self.attends_padding = config.reference_padding

    def forward(self, states: Tensor, rows: Rows) -> Tensor:
        """Map ``(all tokens, hidden)`` to the same shape; each token attends to its row."""
        query, key, value = (
            layer(states).unflatten(-1, (self.heads, -1)) for layer in (self.query, self.key, self.value)
        )
        if rows.table is not None:
            query, key = rotate(query, rows.table), rotate(key, rows.table)
        dropout = self.probability_dropout if self.training else 0.0
        mixed = torch.empty_like(value)
        for group in rows.groups:
            parts = [part[group.index].transpose(1, 2) for part in (query, key, value)]
            # Where all scores of a row are masked, the gradient of the fused kernels is wrong.
            with sdpa_kernel(SDPBackend.MATH) if self.attends_padding else nullcontext():
                own = F.scaled_dot_product_attention(*parts, attn_mask=group.added, dropout_p=dropout)
            mixed[group.index[group.places]] = own.transpose(1, 2)[group.places].to(mixed.dtype)
        return self.norm(states + self.dropout(self.output(mixed.flatten(1))))


class GatedFeedForward(nn.Module):
    """Second generation: a gated sublayer without biases, normalised before it (that of ModernBERT)."""

    def __init__(self, config: NetFoundConfig) -> None:
        """Create the layers."""
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=False)
        self.expand = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.contract = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.dropout = nn.Dropout(config.mlp_dropout)

    def forward(self, states: Tensor) -> Tensor:
        """Map ``(tokens, hidden)`` to the same shape; nothing normalises the sum."""
        inner, gate = self.expand(self.norm(states)).chunk(2, dim=-1)
        inner = self.dropout(F.gelu(inner, approximate="tanh") * gate)
        return states + self.dropout(self.contract(inner))


class FeedForward(nn.Module):
    """First generation: BERT's sublayer, normalised after it."""

    def __init__(self, config: NetFoundConfig) -> None:
        """Create the layers."""
        super().__init__()
        self.expand = nn.Linear(config.hidden_size, config.intermediate_size)
        self.contract = nn.Linear(config.intermediate_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.mlp_dropout)

    def forward(self, states: Tensor) -> Tensor:
        """Map ``(tokens, hidden)`` to the same shape."""
        return self.norm(states + self.dropout(self.contract(F.gelu(self.expand(states)))))


class Block(nn.Module):
    """Attention and feed-forward: the step inside bursts and that between them are built alike."""

    def __init__(self, config: NetFoundConfig) -> None:
        """Create the sublayers."""
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = (GatedFeedForward if config.generation == 2 else FeedForward)(config)

    def forward(self, states: Tensor, rows: Rows) -> Tensor:
        """Map ``(all tokens, hidden)`` to the same shape."""
        return self.feed_forward(self.attention(states, rows))


class Layer(nn.Module):
    """One layer: tokens attend to their burst, then the CLS tokens of a flow's bursts to each other."""

    def __init__(self, config: NetFoundConfig) -> None:
        """Create the blocks."""
        super().__init__()
        self.burst = Block(config)
        self.flow = None if config.flat else Block(config)

    def forward(self, states: Tensor, bursts: Rows, flows: Rows, first: Tensor) -> Tensor:
        """Map ``(all tokens, hidden)`` to the same shape.

        Args:
            states: Token states.
            bursts: Tokens in rows of a burst.
            flows: CLS tokens in rows of a flow.
            first: ``(all tokens,)`` bool, which are CLS tokens.
        """
        states = self.burst(states, bursts)
        if self.flow is None:
            return states
        cls = self.flow(states[first], flows)
        return states.masked_scatter(first.unsqueeze(1), cls)
