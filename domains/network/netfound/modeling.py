"""The netFound encoder (paper, section 4): embedding of tokens and metadata, steps inside and between bursts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from domains.network.netfound.configuration import NetFoundConfig
from domains.network.netfound.heads import FlowHead
from domains.network.netfound.layers import Layer, Rows, sinusoids
from domains.network.netfound.vocabulary import PADDING
from hub.finetuning.model import LIKELY
from hub.modeling import POOLINGS, EmbeddingModel, EncoderOutput
from hub.modeling import Layer as WhichState
from hub.reading import Sample

METADATA = ("direction", "bytes", "packets", "gap")
"""Metadata of a burst: +1 from the initiator or -1, bytes, packets, and milliseconds since the burst before it."""


def scaled_metadata(metadata: Tensor, scale: str) -> Tensor:
    """Return metadata as the model reads and predicts them, same shape ``(..., 4)``.

    Args:
        metadata: As the processor makes them, in bytes and milliseconds.
        scale: ``raw`` divides the bytes by 1000; ``log`` is ln(1 + x) of bytes, packets and gap.
    """
    if scale == "log":
        return torch.cat([metadata[..., :1], metadata[..., 1:].log1p()], dim=-1)
    return metadata * metadata.new_tensor([1.0, 1e-3, 1.0, 1.0])


class NetFoundEmbedding(nn.Module):
    """Token, metadata of its burst, and protocol of its flow, concatenated and compressed."""

    def __init__(self, config: NetFoundConfig) -> None:
        """Create the tables and layers."""
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.words = nn.Embedding(config.vocab_size, width, padding_idx=PADDING)
        self.scales = nn.ModuleList(
            nn.Embedding(1 + -(-config.vocab_size // scale), width, padding_idx=PADDING) for scale in config.word_scales
        )
        if config.positions == "learned":
            self.positions = nn.Embedding(config.max_burst_length, width)
        if not config.no_meta:
            self.metadata_expand = nn.Linear(len(METADATA), config.metadata_hidden_size)
            self.metadata_contract = nn.Linear(config.metadata_hidden_size, width)
        self.protocols = nn.Embedding(config.protocol_size, width)
        self.compress = nn.Linear(3 * width, width)
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, metadata: Tensor, protocol: Tensor, places: Tensor
    ) -> Tensor:
        """Embed some tokens of a batch; arguments as for `NetFoundModel`.

        Args:
            input_ids: ``(batch, bursts, tokens)``.
            attention_mask: ``(batch, bursts, tokens)`` bool.
            metadata: ``(batch, bursts, 4)``; zeros where they are hidden.
            protocol: ``(batch,)``.
            places: ``(batch, bursts, tokens)`` bool, which tokens.

        Returns:
            ``(those tokens, hidden)``.
        """
        row, burst, number = places.nonzero(as_tuple=True)
        ids = input_ids[places]
        words = self.words(ids)
        for scale, table in zip(self.config.word_scales, self.scales, strict=True):
            words = words + table(torch.where(ids == PADDING, PADDING, 1 + (ids - 1) // scale))
        if self.config.positions == "learned":
            words = words + self.positions(number * (ids != PADDING))
        of_words, about = self.compress.weight.split([words.shape[-1], 2 * words.shape[-1]], dim=1)
        # Metadata and protocol are the same for all tokens of a burst, so they are projected once a burst.
        projected = F.linear(self._about(metadata, protocol), about, self.compress.bias)[row, burst]
        if self.config.reference_padding:
            of_padding = F.linear(self._about(torch.zeros_like(metadata), protocol), about, self.compress.bias)
            projected = torch.where(attention_mask[places].unsqueeze(1), projected, of_padding[row, burst])
        return self.dropout(self.norm(F.linear(words, of_words) + projected))

    def _about(self, metadata: Tensor, protocol: Tensor) -> Tensor:
        """Return metadata and protocol of the bursts, embedded, ``(batch, bursts, 2 * hidden)``."""
        protocols = self.protocols(protocol).unsqueeze(1).expand(*metadata.shape[:2], -1)
        if self.config.no_meta:
            return torch.cat([torch.zeros_like(protocols), protocols], dim=-1)
        inner = self.metadata_expand(scaled_metadata(metadata, self.config.metadata_scale).to(protocols.dtype))
        of_metadata = self.metadata_contract(F.gelu(inner) if self.config.generation == 2 else inner)
        return torch.cat([of_metadata, protocols], dim=-1)


class NetFoundModel(EmbeddingModel):
    """Flows to token states: those of the first burst, then of the second, each with its CLS token in front.

    Hidden state 0 is the input representation, state i the output of layer i.
    """

    config: NetFoundConfig
    config_class = NetFoundConfig
    base_model_prefix = "netfound"
    main_input_name = "input_ids"
    poolings = (*EmbeddingModel.poolings, "mean_std_max")
    _supports_sdpa = True
    _no_split_modules: ClassVar[list[str]] = ["Layer"]
    # A pretraining checkpoint also holds the heads of the pretext task, which an encoder rightly leaves.
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^(lm|pooling|swap|metadata|direction|view)_head\."]

    burst_positions: Tensor
    flow_positions: Tensor

    def __init__(self, config: NetFoundConfig) -> None:
        """Create the encoder with fresh weights."""
        super().__init__(config)
        self.embedding = NetFoundEmbedding(config)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        if config.positions == "rotary":
            # In the checkpoint, because those of the published models are not sinusoids.
            width = config.hidden_size // config.num_attention_heads
            self.register_buffer("burst_positions", sinusoids(config.max_burst_length, width))
            self.register_buffer("flow_positions", sinusoids(config.max_bursts + 1, width))
        if config.head_labels:
            self.head = FlowHead(config)
            answer = "regress" if config.head_task == "regression" else "classify"
            self.tasks = {answer: answer}
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        metadata: Tensor,
        protocol: Tensor,
        output_hidden_states: bool = False,
    ) -> EncoderOutput:
        """Encode a batch of flows.

        Args:
            input_ids: ``(batch, bursts, tokens)``, the CLS token first in each burst.
            attention_mask: ``(batch, bursts, tokens)``, true for real tokens.
            metadata: ``(batch, bursts, 4)``, see `METADATA`.
            protocol: ``(batch,)`` IP protocol number.
            output_hidden_states: Whether to return every hidden state.

        Returns:
            Token states ``(batch, bursts * tokens, hidden)``, their mask, and the hidden states if asked for.
        """
        mask = attention_mask.bool()
        # With padding left out, all but attention works on real tokens alone.
        places = torch.ones_like(mask) if self.config.reference_padding else mask
        bursts = self._rows(places.flatten(0, 1), mask.flatten(0, 1), "burst")
        flows = self._rows(places[..., 0], mask[..., 0], "flow")
        first = places.nonzero()[:, 2] == 0
        states = self.embedding(input_ids, mask, metadata, protocol, places)
        hidden = [states]
        for layer in self.layers:
            states = layer(states, bursts, flows, first)
            hidden.append(states)
        kept = hidden if output_hidden_states else hidden[-1:]
        spread = tuple(_spread(s, places) for s in kept)
        return EncoderOutput(
            last_hidden_state=spread[-1],
            mask=places.flatten(1),
            hidden_states=spread if output_hidden_states else None,
        )

    def _rows(self, places: Tensor, real: Tensor, kind: str) -> Rows:
        table = getattr(self, f"{kind}_positions") if self.config.positions == "rotary" else None
        return Rows.of(places, real, table, self.dtype)

    def embedding_dimension(self, pooling: str | None = None, layer: WhichState = None) -> int:
        """Return the length of the vectors that ``embed`` gives with these options."""
        if (pooling or self.config.pooling) == "mean_std_max":
            return super().embedding_dimension("mean_std", layer) + super().embedding_dimension("max", layer)
        return super().embedding_dimension(pooling, layer)

    def pool(self, states: Tensor, mask: Tensor, pooling: str, batch: Mapping[str, Tensor]) -> Tensor:
        """Reduce token states to one vector a flow; see `EmbeddingModel.pool`.

        ``mean_std_max`` is netFound's own: mean, deviation and maximum side by side. What a flow holds once, in one
        packet, is seen in the maximum and lost in the mean.
        """
        if pooling == "mean_std_max":
            return torch.cat([POOLINGS[name](states, mask) for name in ("mean_std", "max")], dim=-1)
        return super().pool(states, mask, pooling, batch)

    def logits(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return what the published head makes of a batch, ``(batch, labels)`` float32."""
        cls = self(**batch).last_hidden_state.unflatten(1, batch["attention_mask"].shape[1:])[:, :, 0]
        real = batch["attention_mask"][..., 0].bool()
        return self.head(cls, real | self.config.reference_padding).float()

    def classify(self, batch: Mapping[str, Tensor], samples: Sequence[Sample]) -> list[dict[str, Any]]:
        """Classify each flow: ``{"label", "scores"}``, or ``{"labels", "scores"}`` where there may be several."""
        logits, names = self.logits(batch), self.config.head_labels
        if self.config.head_task == "multilabel":
            rows = [dict(zip(names, row, strict=True)) for row in logits.sigmoid().tolist()]
            return [{"labels": [name for name in names if row[name] >= LIKELY], "scores": row} for row in rows]
        rows = [dict(zip(names, row, strict=True)) for row in logits.softmax(-1).tolist()]
        return [{"label": max(row, key=row.__getitem__), "scores": row} for row in rows]

    def regress(self, batch: Mapping[str, Tensor], samples: Sequence[Sample]) -> list[dict[str, Any]]:
        """Predict the numbers of each flow: ``{"values": {name: number}}``."""
        return [{"values": dict(zip(self.config.head_labels, row, strict=True))} for row in self.logits(batch).tolist()]


def _spread(states: Tensor, places: Tensor) -> Tensor:
    """Put the tokens that there are in their places, ``(batch, bursts * tokens, hidden)``; zeros elsewhere."""
    padded = states.new_zeros(*places.shape, states.shape[-1])
    padded[places] = states
    return padded.flatten(1, 2)
