"""MERT's encoder: waveforms to token states, the same for a recording whatever else is in its batch."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.hubert.modeling_hubert import HubertFeatureEncoder

from domains.music.mert.configuration import MertConfig
from domains.music.mert.cqt import constant_q, folded
from domains.music.mert.layers import DeepNormLayer, EncoderStack, FeatureProjection
from domains.music.mert.windowing import Window, windows_of
from hub.modeling import EmbeddingModel, EncoderOutput, Layer
from hub.reading import Sample

FRAMES_AT_ONCE = 1_500
"""Frames of windows encoded together: bounds the memory that a long recording takes.

On one CPU core each window of 374 frames costs the 95M model 1.7 s and 117 MiB, whether one, two, four or eight share a
pass: more at once gains nothing there, and four take 0.5 GiB.
"""
Choice = Callable[[Iterator[Tensor]], tuple[Tensor, ...]]


def initialise(model: Any, module: nn.Module) -> None:
    """Give one module its initial weights: those of the published training (BERT's, and Kaiming's for convolutions)."""
    config = model.config
    if isinstance(module, nn.Linear):
        init.normal_(module.weight, std=config.initializer_range)
        init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm | nn.GroupNorm):
        init.ones_(module.weight)
        init.zeros_(module.bias)
    elif isinstance(module, nn.Conv1d) and not hasattr(module, "parametrizations"):
        init.kaiming_normal_(module.weight)
        if module.bias is not None:
            init.zeros_(module.bias)
    elif isinstance(module, MertModel):
        init.uniform_(module.masked_spec_embed)
        # Here, because transformers passes over modules that hold no parameter of their own.
        conv = module.encoder.pos_conv_embed.conv
        norm, direction = conv.parametrizations.weight.original0, conv.parametrizations.weight.original1
        init.normal_(direction, std=(4 / (conv.kernel_size[0] * config.hidden_size)) ** 0.5)
        init.copy_(norm, torch.linalg.vector_norm(direction.detach(), dim=(0, 1), keepdim=True))
        init.zeros_(conv.bias)
        for layer in module.encoder.layers:
            for linear in layer.shrunk if isinstance(layer, DeepNormLayer) else ():
                init.normal_(linear.weight, std=config.initializer_range / (8 * config.num_hidden_layers) ** 0.25)


class MertModel(EmbeddingModel):
    """Waveforms to token states, one every ``config.hop`` samples.

    Hidden state 0 is the projected features with positions added (normalised where layers normalise afterwards), state
    i the output of layer i. Where layers normalise first, the last state has passed the final normalisation, and the
    others have not.

    The first convolution's channels are normalised over time, so padding a recording would change all of it. Every
    recording is therefore encoded at its own exact length, in windows of one fixed length when it is longer than that;
    only what is equally long shares a pass.
    """

    config: MertConfig
    config_class = MertConfig
    base_model_prefix = "mert"
    main_input_name = "input_values"
    input_modalities = "audio"
    _supports_sdpa = True
    _no_split_modules: ClassVar[list[str]] = [
        "HubertEncoderLayer",
        "HubertEncoderLayerStableLayerNorm",
        "DeepNormLayer",
    ]
    # A pretraining checkpoint also holds the heads, which an encoder rightly leaves.
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^(code|cqt)_head\."]
    tasks: ClassVar[Mapping[str, str]] = {"windows": "embed_windows"}

    def __init__(self, config: MertConfig) -> None:
        """Create the encoder with fresh weights."""
        super().__init__(config)
        self.feature_extractor = HubertFeatureEncoder(config)
        self.feature_projection = FeatureProjection(config)
        self.masked_spec_embed = nn.Parameter(torch.empty(config.hidden_size).uniform_())
        self.encoder = EncoderStack(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        initialise(self, module)

    # --- one pass ---------------------------------------------------------------------------------------------

    def constant_q(self, waveforms: Tensor, bins: int) -> Tensor:
        """Return constant-Q magnitudes on the encoder's frame grid, ``(batch, samples // hop + 1, bins)``."""
        # One by one when not training: a convolution rounds differently by the size of its batch, and a logarithm of
        # thousandfold magnitudes shows it where it is silent.
        rows = [waveforms] if self.training else waveforms.split(1)
        magnitudes = torch.cat([constant_q(row, self.config.sample_rate, self.config.hop, bins) for row in rows])
        factor = self.config.cqt_compression
        return (factor * magnitudes).log1p() if factor else magnitudes

    def features(self, waveforms: Tensor) -> Tensor:
        """Return the convolutions' output, ``(batch, frames, conv_dim[-1])``, of ``(batch, samples)``."""
        return self.feature_extractor(waveforms).transpose(1, 2)

    def project(
        self, features: Tensor, waveforms: Tensor, masked: Tensor | None = None, spectrum: Tensor | None = None
    ) -> Tensor:
        """Return the input representation before positions, ``(batch, frames, hidden)``.

        Args:
            features: From `features`.
            waveforms: They come from, ``(batch, samples)``.
            masked: Frames to replace with the learned mask embedding, ``(batch, frames)`` bool.
            spectrum: Their constant-Q spectrum, where it is known and one is read.
        """
        if self.config.feature_extractor_cqt:
            if spectrum is None:
                spectrum = self.constant_q(waveforms, self.config.feature_extractor_cqt_bins)
            read = [spectrum]
            if self.config.feature_extractor_chroma:
                factor = self.config.cqt_compression
                magnitudes = spectrum.expm1() / factor if factor else spectrum
                read.append(self.config.feature_extractor_chroma * folded(magnitudes))
            features = torch.cat([features, *(r[:, : features.shape[1]].to(features.dtype) for r in read)], dim=-1)
        projected = self.feature_projection(features)
        if masked is not None:
            projected = torch.where(masked.unsqueeze(-1), self.masked_spec_embed.to(projected.dtype), projected)
        return projected

    def contextualise(self, projected: Tensor, mask: Tensor | None = None) -> Iterator[Tensor]:
        """Yield the hidden states of one pass.

        Args:
            projected: From `project`.
            mask: ``(batch, frames)`` bool, true for real frames, or ``None`` when all are.

        Yields:
            ``num_hidden_layers + 1`` tensors ``(batch, frames, hidden)``.
        """
        stack, before = self.encoder, self.config.do_stable_layer_norm
        attended = None
        if mask is not None:
            projected = projected * mask.unsqueeze(-1)
            attended = create_bidirectional_mask(config=self.config, inputs_embeds=projected, attention_mask=mask)
        states = projected + stack.pos_conv_embed(projected)
        states = stack.dropout(states if before else stack.layer_norm(states))
        for layer in stack.layers:
            yield states
            if not self.training or torch.rand(()) >= self.config.layerdrop:
                states = layer(states, attention_mask=attended)
        yield stack.layer_norm(states) if before else states

    # --- any length -------------------------------------------------------------------------------------------

    def windows(self, samples: int) -> list[Window]:
        """Return the windows that a recording of so many samples is encoded in."""
        return windows_of(self.config.frames(samples), self.config.window_frames, self.config.window_overlap)

    def _in_windows(
        self, waveforms: Tensor, lengths: Sequence[int], choose: Choice
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Encode each row at its own length and put the chosen hidden states together."""
        waveforms = waveforms.to(self.masked_spec_embed.dtype)
        config = self.config
        groups: dict[int, list[tuple[int, Window]]] = defaultdict(list)
        for row, length in enumerate(lengths):
            windows = self.windows(length)
            # A recording of one window keeps the samples after its last frame: the normalisation over time sees them.
            size = length if len(windows) == 1 else (config.window_frames - 1) * config.hop + config.receptive_field
            groups[size] += [(row, window) for window in windows]
        frames = torch.tensor([config.frames(length) for length in lengths], device=waveforms.device)
        mask = torch.arange(int(frames.max()), device=waveforms.device) < frames.unsqueeze(1)
        whole: tuple[Tensor, ...] = ()
        for size, members in groups.items():
            at_once = max(1, FRAMES_AT_ONCE // config.frames(size))
            for first in range(0, len(members), at_once):
                pieces = members[first : first + at_once]
                cut = torch.stack([waveforms[r, w.start * config.hop : w.start * config.hop + size] for r, w in pieces])
                chosen = choose(self.contextualise(self.project(self.features(cut), cut)))
                whole = whole or tuple(s.new_zeros(*mask.shape, s.shape[2]) for s in chosen)
                for target, states in zip(whole, chosen, strict=True):
                    for (row, window), piece in zip(pieces, states, strict=True):
                        kept = slice(window.kept_from - window.start, window.kept_to - window.start)
                        target[row, window.kept_from : window.kept_to] = piece[kept]
        return whole, mask

    def forward(
        self, input_values: Tensor, attention_mask: Tensor | None = None, output_hidden_states: bool = False
    ) -> EncoderOutput:
        """Encode recordings of any length.

        Args:
            input_values: ``(batch, samples)`` from the processor.
            attention_mask: ``(batch, samples)``, true for real samples, which come first; ``None`` when all are.
            output_hidden_states: Whether to return every hidden state.

        Returns:
            Token states, their mask, and the hidden states if asked for.
        """
        choose: Choice = tuple if output_hidden_states else _last
        states, mask = self._in_windows(input_values, _lengths(input_values, attention_mask), choose)
        return EncoderOutput(
            last_hidden_state=states[-1], mask=mask, hidden_states=states if output_hidden_states else None
        )

    def token_states(self, batch: Mapping[str, Tensor], layer: Layer = None) -> tuple[Tensor, Tensor]:
        """Return the chosen hidden state and its mask, keeping no other of a long recording; see the base class."""
        layer = self.config.layer if layer is None else layer
        values, mask = batch["input_values"], batch.get("attention_mask")
        (states,), real = self._in_windows(values, _lengths(values, mask), lambda s: (self._choose(s, layer),))
        return states, real

    def _choose(self, states: Iterator[Tensor], layer: Layer) -> Tensor:
        if isinstance(layer, int):
            return tuple(states)[layer]
        if layer == "all":
            return torch.cat(tuple(states), dim=-1)
        logits = torch.tensor(self.config.layer_weights or [0.0] * (self.config.num_hidden_layers + 1))
        return sum(weight * state for weight, state in zip(logits.softmax(0).tolist(), states, strict=True))

    def embed_windows(self, batch: Mapping[str, Tensor], samples: Sequence[Sample]) -> list[Any]:
        """Return, for each recording, the mean of each window's frames with its time: what a long track holds where.

        Returns:
            Lists of ``{"start": seconds, "stop": seconds, "embedding": [...]}``, without gap or overlap.
        """
        states, real = self.token_states(batch)
        second = self.config.sample_rate / self.config.hop
        return [
            [
                {
                    "start": w.kept_from / second,
                    "stop": w.kept_to / second,
                    "embedding": row[w.kept_from : w.kept_to].float().mean(0).tolist(),
                }
                for w in windows_of(int(mask.sum()), self.config.window_frames, self.config.window_overlap)
            ]
            for row, mask in zip(states, real, strict=True)
        ]


def _lengths(waveforms: Tensor, mask: Tensor | None) -> list[int]:
    return [waveforms.shape[1]] * len(waveforms) if mask is None else mask.long().sum(1).tolist()


def _last(states: Iterator[Tensor]) -> tuple[Tensor, ...]:
    return tuple(deque(states, maxlen=1))
