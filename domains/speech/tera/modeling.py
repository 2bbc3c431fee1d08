"""The TERA encoder: a BERT-style transformer over acoustic frames (paper, section III)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from domains.speech.tera.configuration import TeraConfig
from hub.modeling import EmbeddingModel, EncoderOutput

CHUNK_FRAMES = 16_384
"""Padded frames in one pass over the chunks of long inputs; bounds the memory of an hour-long recording."""


@lru_cache(maxsize=16)
def _position_table(length: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the table of which `sinusoid_positions` returns the head."""
    # Not an inference tensor, even when first asked for while serving: training may ask for it next.
    with torch.inference_mode(False):
        columns = torch.arange(width, dtype=torch.float64)
        rates = 10_000 ** (-2 * torch.div(columns, 2, rounding_mode="floor") / width)
        angles = torch.arange(length, dtype=torch.float64).unsqueeze(1) * rates
        table = torch.where(columns % 2 == 0, angles.sin(), angles.cos())
        return table.to(device=device, dtype=dtype)


def sinusoid_positions(length: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return fixed positions: sine on even columns, cosine on odd ones, computed in float64.

    They are neither a parameter nor a buffer: the checkpoint does not hold them, and a buffer outside the
    checkpoint has no value after loading.

    Returns:
        ``(length, width)``; column j of position p has the angle ``p / 10000 ** (2 * (j // 2) / width)``.
    """
    # Rounded up, so that inputs of many lengths share few tables.
    return _position_table(math.ceil(length / 512) * 512, width, device, dtype)[:length]


class TeraInput(nn.Module):
    """Frames to the input representation: projection, positions, normalisation, dropout."""

    def __init__(self, config: TeraConfig) -> None:
        """Create the layers."""
        super().__init__()
        self.projection = nn.Linear(config.input_dim, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, frames: Tensor) -> Tensor:
        """Map ``(batch, frames, features)`` to ``(batch, frames, hidden)``."""
        states = self.projection(frames)
        length, width = states.shape[1:]
        states = states + sinusoid_positions(length, width, states.device, self.norm.weight.dtype)
        return self.dropout(self.norm(states))


class TeraAttention(nn.Module):
    """Multi-head self-attention over the real frames."""

    def __init__(self, config: TeraConfig) -> None:
        """Create the layers."""
        super().__init__()
        self.heads = config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)
        self.probability_dropout = config.attention_probs_dropout_prob

    def forward(self, states: Tensor, mask: Tensor | None) -> Tensor:
        """Map ``(batch, frames, hidden)`` to the same shape.

        Args:
            states: Token states.
            mask: ``(batch, 1, 1, frames)`` bool, true for frames to attend to, or ``None`` for all.
        """
        query, key, value = (
            layer(states).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        dropout = self.probability_dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        return self.output(mixed.transpose(1, 2).flatten(2))


class TeraLayer(nn.Module):
    """One transformer layer: attention and feed-forward, each with dropout, residual and normalisation."""

    def __init__(self, config: TeraConfig) -> None:
        """Create the sublayers."""
        super().__init__()
        self.norm_first = config.pre_layer_norm
        self.attention = TeraAttention(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.expand = nn.Linear(config.hidden_size, config.intermediate_size)
        self.contract = nn.Linear(config.intermediate_size, config.hidden_size)
        self.output_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def feed_forward(self, states: Tensor) -> Tensor:
        """Map ``(batch, frames, hidden)`` to the same shape, each frame by itself."""
        return self.contract(F.gelu(self.expand(states)))

    def forward(self, states: Tensor, mask: Tensor | None) -> Tensor:
        """Map ``(batch, frames, hidden)`` to the same shape; ``mask`` as in `TeraAttention`."""
        if self.norm_first:
            states = states + self.dropout(self.attention(self.attention_norm(states), mask))
            return states + self.dropout(self.feed_forward(self.output_norm(states)))
        states = self.attention_norm(states + self.dropout(self.attention(states, mask)))
        return self.output_norm(states + self.dropout(self.feed_forward(states)))


class TeraModel(EmbeddingModel):
    """Acoustic frames to contextual token states, one token a frame of 10 ms.

    Hidden state 0 is the input representation (after normalisation and dropout), state i the output of layer
    i. With ``pre_layer_norm`` each of them passes one more normalisation of its own.
    """

    config: TeraConfig
    config_class = TeraConfig
    base_model_prefix = "tera"
    main_input_name = "input_values"
    input_modalities = "audio"
    _supports_sdpa = True
    _no_split_modules: ClassVar[list[str]] = ["TeraLayer"]
    # A pretraining checkpoint also holds the prediction head, which an encoder rightly leaves.
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^head\."]

    def __init__(self, config: TeraConfig) -> None:
        """Create the encoder with fresh weights."""
        super().__init__(config)
        self.input = TeraInput(config)
        count = 1 if config.share_layer else config.num_hidden_layers
        self.layers = nn.ModuleList(TeraLayer(config) for _ in range(count))
        if config.pre_layer_norm:
            self.hidden_norms = nn.ModuleList(
                nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) for _ in range(config.num_hidden_layers + 1)
            )
        self.post_init()

    def encode(self, frames: Tensor, mask: Tensor | None = None) -> Iterator[Tensor]:
        """Yield the hidden states of one pass, without chunking.

        Args:
            frames: ``(batch, frames, features)``.
            mask: ``(batch, frames)`` bool, true for real frames, or ``None`` when all are.

        Yields:
            ``num_hidden_layers + 1`` tensors ``(batch, frames, hidden)``, the input representation first.
        """
        # Without padding the attention kernels are faster without a mask.
        attended = None if mask is None or bool(mask.all()) else mask[:, None, None, :]
        states = self.input(frames)
        for depth in range(self.config.num_hidden_layers):
            yield self._hidden_state(depth, states)
            states = self.layers[0 if self.config.share_layer else depth](states, attended)
        yield self._hidden_state(self.config.num_hidden_layers, states)

    def _hidden_state(self, depth: int, states: Tensor) -> Tensor:
        return self.hidden_norms[depth](states) if self.config.pre_layer_norm else states

    def _encode_in_chunks(self, frames: Tensor, mask: Tensor, keep: int | None) -> tuple[Tensor, ...]:
        """Return the last ``keep`` hidden states (or all) of a batch with rows longer than ``sequence_length``.

        A row of n frames is cut into ``ceil(n / sequence_length)`` chunks of equal length (the last may be
        shorter), each encoded apart with positions from 0. How a row is cut depends on its own length alone.
        """
        pieces = []
        for row, length in enumerate(mask.sum(1).tolist()):
            count = math.ceil(length / self.config.sequence_length)
            size = math.ceil(length / max(count, 1))
            pieces += [(row, start, min(start + size, length)) for start in range(0, length, max(size, 1))]
        longest = max(stop - start for _, start, stop in pieces)
        at_once = max(1, CHUNK_FRAMES // longest)
        states: tuple[Tensor, ...] = ()
        for first in range(0, len(pieces), at_once):
            group = pieces[first : first + at_once]
            chunks = frames.new_zeros(len(group), longest, frames.shape[2])
            for chunk, (row, start, stop) in zip(chunks, group, strict=True):
                chunk[: stop - start] = frames[row, start:stop]
            lengths = torch.tensor([stop - start for _, start, stop in group], device=frames.device)
            real = torch.arange(longest, device=frames.device) < lengths.unsqueeze(1)
            encoded = deque(self.encode(chunks, real), maxlen=keep)
            if not states:
                states = tuple(s.new_zeros(*frames.shape[:2], s.shape[2]) for s in encoded)
            for whole, part in zip(states, encoded, strict=True):
                for chunk, (row, start, stop) in zip(part, group, strict=True):
                    whole[row, start:stop] = chunk[: stop - start]
        return states

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> EncoderOutput:
        """Encode a batch of any length.

        Args:
            input_values: ``(batch, frames, features)`` from the processor.
            attention_mask: ``(batch, frames)``, true or 1 for real frames, which come first; ``None`` when
                all are.
            output_hidden_states: Whether to return every hidden state.

        Returns:
            Token states, their mask, and the hidden states if asked for.
        """
        mask = None if attention_mask is None else attention_mask.bool()
        frames = input_values.to(self.input.projection.weight.dtype)
        real = torch.ones(frames.shape[:2], dtype=torch.bool, device=frames.device) if mask is None else mask
        keep = None if output_hidden_states else 1
        if 0 < self.config.sequence_length < frames.shape[1]:
            states = self._encode_in_chunks(frames, real, keep)
        else:
            states = tuple(deque(self.encode(frames, mask), maxlen=keep))
        return EncoderOutput(
            last_hidden_state=states[-1],
            mask=real,
            hidden_states=states if output_hidden_states else None,
        )
