"""EEGFormer: a channel-independent encoder of spectra, a codebook, and a shallow decoder (paper, section 2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from domains.eeg.eegformer.configuration import EEGFormerConfig
from domains.eeg.eegformer.layers import EEGFormerStack
from domains.eeg.eegformer.regions import REGIONS
from hub.modeling import EmbeddingModel, EncoderOutput, Layer, masked_mean
from hub.reading import Sample
from hub.ssl.quantization import Codebook, Quantized, nearest_code

PASS_TOKENS = 32_768
"""Padded tokens in one pass; rows beyond it are looped over, so that an hour of 64 channels fits in memory."""


class EEGFormerModel(EmbeddingModel):
    """Spectral tokens to token states, codes and reconstructions.

    A row (one channel of one window) is encoded by itself, with weights that all channels share: any number of channels
    will do, and none changes another's states. The states of a sample are those of all its rows, one row after the
    other. Hidden state 0 is the embedded tokens.
    """

    config: EEGFormerConfig
    config_class = EEGFormerConfig
    base_model_prefix = "eegformer"
    main_input_name = "input_values"
    _supports_sdpa = True
    _no_split_modules: ClassVar[list[str]] = ["EEGFormerLayer"]
    # A pretraining checkpoint also holds what its objective needs, which an encoder rightly leaves.
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^objective\.", r"^steps$"]
    tasks: ClassVar[Mapping[str, str]] = {"codes": "codes", "channels": "channel_embeddings", "anomaly": "anomaly"}

    def __init__(self, config: EEGFormerConfig) -> None:
        """Create the model with fresh weights."""
        super().__init__(config)
        width = config.hidden_size
        self.poolings = ("mean", "max", "mean_std", "regions", "codes", *(("class",) if config.class_token else ()))
        self.patch_embed = nn.Linear(config.patch_size, width)
        self.pos_embed = nn.Parameter(torch.empty(1, config.max_tokens + config.class_token, width))
        nn.init.normal_(self.pos_embed, std=config.initializer_range)
        if config.class_token:
            self.class_patch = nn.Parameter(torch.empty(1, 1, config.patch_size))
            nn.init.normal_(self.class_patch, std=config.initializer_range)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.encoder = EEGFormerStack(config, config.num_hidden_layers)
        self.codebook = Codebook(
            config.codebook_size,
            width,
            generator=torch.Generator().manual_seed(torch.initial_seed()),
            update=config.codebook_update,  # type: ignore[arg-type]  # checked by the configuration
            decay=config.codebook_decay,
        )
        self.decoder = EEGFormerStack(config, config.num_decoder_layers)
        self.head = nn.Linear(width, config.patch_size)
        self.post_init()

    # --- rows -----------------------------------------------------------------------------------------------------

    def encode(self, values: Tensor, mask: Tensor | None = None) -> Iterator[Tensor]:
        """Yield the hidden states of rows.

        Args:
            values: ``(rows, tokens, values)``.
            mask: ``(rows, tokens)`` bool, true for real tokens, which come first; ``None`` when all are.

        Yields:
            ``num_hidden_layers + 1`` tensors ``(rows, tokens, hidden)``; with a class token it comes before the tokens.

        Raises:
            ValueError: A row has more tokens than there are positions.
        """
        if values.shape[1] > self.config.max_tokens:
            raise ValueError(f"{values.shape[1]} tokens in a row; this model has max_tokens={self.config.max_tokens}")
        if self.config.class_token:
            values = torch.cat([self.class_patch.expand(len(values), 1, -1), values], dim=1)
            mask = None if mask is None else torch.cat([mask.new_ones(len(mask), 1), mask], dim=1)
        states = self.patch_embed(values) + self.pos_embed[:, : values.shape[1]]
        yield from self.encoder.states(self.dropout(states), mask)

    def tokens_of(self, states: Tensor) -> Tensor:
        """Return the states of a row without that of its class token."""
        return states[:, 1:] if self.config.class_token else states

    def quantise(self, states: Tensor, mask: Tensor | None = None) -> Quantized:
        """Replace token states ``(rows, tokens, hidden)`` by their codes; see `hub.ssl.Codebook`."""
        return cast(Quantized, self.codebook(states, mask))

    def decode(self, codes: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the tokens that quantised states stand for, ``(rows, tokens, values)``."""
        return self.head(self.decoder(codes, mask))

    def reconstruct(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the code and the mean squared error of each token of some rows, both ``(rows, tokens)``."""
        *_, states = self.encode(values, mask)
        indices = nearest_code(self.tokens_of(states), self.codebook.weight)
        rebuilt = self.decode(self.codebook.weight[indices].to(states.dtype), mask)
        return indices, (rebuilt - values).square().mean(-1)

    # --- samples --------------------------------------------------------------------------------------------------

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor,
        amplitude: Tensor | None = None,
        regions: Tensor | None = None,
        channels: Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> EncoderOutput:
        """Encode a batch.

        Args:
            input_values: ``(batch, rows, tokens, values)`` from the processor.
            attention_mask: ``(batch, rows, tokens)``, true or 1 where a token is real.
            amplitude: ``(batch, rows, 2)``, needed where the states hold it.
            regions: ``(batch, rows)``: not looked at here, but by the pooling ``regions``.
            channels: ``(batch, rows)``: not looked at here, but by tasks.
            output_hidden_states: Whether to return every hidden state.

        Returns:
            States ``(batch, rows * tokens, hidden)`` (each row's class token first, and two numbers wider with
            ``amplitude``), the mask of real tokens (class tokens are not among them), and the hidden states if asked
            for.
        """
        mask = attention_mask.bool()
        real = mask.any(-1)
        rows, row_mask = input_values[real].to(self.dtype), mask[real]
        kept: list[list[Tensor]] = []
        for chunk, chunk_mask in self._passes(rows, row_mask):
            encoded = list(self.encode(chunk, chunk_mask))
            kept.append(encoded if output_hidden_states else encoded[-1:])
        hidden = [torch.cat(parts) for parts in zip(*kept, strict=True)]
        if self.config.amplitude:
            if amplitude is None:
                raise ValueError("this model's states hold the amplitude: pass it, as the processor returns it")
            level = amplitude[real].to(self.dtype)[:, None]
            hidden = [torch.cat([h, level.expand(-1, h.shape[1], -1)], dim=-1) for h in hidden]
        scattered = []
        for states in hidden:
            whole = states.new_zeros(*real.shape, *states.shape[1:])
            whole[real] = states
            scattered.append(whole.flatten(1, 2))
        if self.config.class_token:
            mask = torch.cat([torch.zeros_like(mask[..., :1]), mask], dim=-1)
        return EncoderOutput(
            last_hidden_state=scattered[-1],
            mask=mask.flatten(1),
            hidden_states=tuple(scattered) if output_hidden_states else None,
        )

    def _passes(self, rows: Tensor, mask: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        size = max(1, PASS_TOKENS // rows.shape[1])
        yield from zip(rows.split(size), mask.split(size), strict=True)

    def embedding_dimension(self, pooling: str | None = None, layer: Layer = None) -> int:
        """Return the length of the vectors that ``embed`` gives with these options."""
        pooling = pooling or self.config.pooling
        if pooling == "codes":
            return self.config.codebook_size
        width = self.config.hidden_size + 2 * self.config.amplitude
        if (self.config.layer if layer is None else layer) == "all":
            width *= self.num_hidden_states or 1
        return width * {"mean_std": 2, "regions": len(REGIONS)}.get(pooling, 1)

    def pool(self, states: Tensor, mask: Tensor, pooling: str, batch: Mapping[str, Tensor]) -> Tensor:
        """Reduce token states to one vector a sample; see `EmbeddingModel.pool`.

        Three poolings are EEGFormer's own: ``regions``, the mean over each of ten regions of the scalp, one after the
        other, zero where no channel lies; ``codes``, the share of each code, whatever the layer; ``class``, the mean
        over the class tokens.
        """
        if pooling == "codes":
            return self.code_histogram(batch)
        if pooling not in ("regions", "class"):
            return super().pool(states, mask, pooling, batch)
        by_row = batch["attention_mask"].shape[:2]
        states, mask = states.unflatten(1, (by_row[1], -1)), mask.unflatten(1, (by_row[1], -1))
        real = mask.any(-1)
        if pooling == "class":
            return masked_mean(states[:, :, 0], real)
        rows = masked_mean(states.flatten(0, 1), mask.flatten(0, 1)).unflatten(0, by_row)
        inside = [real & (batch["regions"] == region) for region in range(len(REGIONS))]
        return torch.cat([masked_mean(rows, chosen) for chosen in inside], dim=-1)

    def code_indices(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the code and the reconstruction error of each token.

        Returns:
            Two tensors ``(batch, rows, tokens)``; codes are -1 and errors 0 where there is no token.
        """
        mask = batch["attention_mask"].bool()
        real = mask.any(-1)
        values = batch["input_values"][real].to(self.dtype)
        found = [self.reconstruct(rows, own) for rows, own in self._passes(values, mask[real])]
        codes = torch.full(mask.shape, -1, device=mask.device)
        errors = torch.zeros(mask.shape, device=mask.device)
        codes[real], errors[real] = torch.cat([c for c, _ in found]), torch.cat([e for _, e in found]).float()
        return codes.masked_fill(~mask, -1), errors.masked_fill(~mask, 0.0)

    def code_histogram(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return how large a share of a sample's tokens each code has, ``(batch, codes)`` float32."""
        codes, _ = self.code_indices(batch)
        size = self.config.codebook_size
        # What is no token is counted in one place more, which is cut off.
        counted = codes.masked_fill(codes < 0, size).flatten(1)
        counts = torch.zeros(len(codes), size + 1, device=codes.device)
        counts = counts.scatter_add_(1, counted, torch.ones_like(counted, dtype=counts.dtype))[:, :size]
        return counts / counts.sum(1, keepdim=True)

    # --- tasks ----------------------------------------------------------------------------------------------------

    def codes(self, batch: Mapping[str, Tensor], samples: Sequence[Sample]) -> list[dict[str, Any]]:
        """Return each sample's codes: ``{"channels": names, "codes": {name: [[code, ...], ...]}}``.

        A channel has a list for each window, or frame where the tokens run along the frequencies of frames.
        """
        codes, _ = self.code_indices(batch)
        return [
            {"channels": names, "codes": {n: [r[r >= 0].tolist() for r in rows] for n, rows in by_channel.items()}}
            for names, by_channel in _by_channel(codes, batch["channels"], samples)
        ]

    def anomaly(self, batch: Mapping[str, Tensor], samples: Sequence[Sample]) -> list[dict[str, Any]]:
        """Return how badly codes tell each sample: ``{"error", "channels": {name: error}}``, mean squared errors.

        Tokens have variance 1, so an error of 1 is that of telling nothing.
        """
        _, errors = self.code_indices(batch)
        count = batch["attention_mask"].bool()
        results = []
        counts = _by_channel(count, batch["channels"], samples)
        for (_, by_channel), (_, tokens) in zip(_by_channel(errors, batch["channels"], samples), counts, strict=True):
            sums = {n: (float(e.sum()), int(tokens[n].sum())) for n, e in by_channel.items()}
            total = sum(s for s, _ in sums.values()) / sum(c for _, c in sums.values())
            results.append({"error": round(total, 6), "channels": {n: round(s / c, 6) for n, (s, c) in sums.items()}})
        return results

    def channel_embeddings(self, batch: Mapping[str, Tensor], samples: Sequence[Sample]) -> list[dict[str, Any]]:
        """Return the mean state of each channel: ``{"channels": names, "embeddings": {name: [...]}}``."""
        states, mask = self.token_states(batch)
        by_row = batch["attention_mask"].shape[:2]
        shape = (by_row[1], -1)
        rows = masked_mean(states.float().unflatten(1, shape).flatten(0, 1), mask.unflatten(1, shape).flatten(0, 1))
        return [
            {"channels": names, "embeddings": {n: rows_of.mean(0).tolist() for n, rows_of in by_channel.items()}}
            for names, by_channel in _by_channel(rows.unflatten(0, by_row), batch["channels"], samples)
        ]


def _by_channel(
    values: Tensor, channels: Tensor, samples: Sequence[Sample]
) -> Iterator[tuple[list[str], dict[str, Tensor]]]:
    """Yield each sample's channel names, and the rows of each channel of ``values`` ``(batch, rows, ...)``."""
    for own, numbers, sample in zip(values, channels, samples, strict=True):
        count = int(numbers.max()) + 1
        names = list(sample.data.channels)
        if len(names) != count:  # the processor's reference made other channels of it
            names = [f"channel {i + 1}" for i in range(count)]
        yield names, {name: own[numbers == i] for i, name in enumerate(names)}
