"""The Nereus encoder: a single-channel ResNet or ViT over detected SAR images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import ResNetModel, ViTModel

from domains.sar.nereus.configuration import NereusConfig
from domains.sar.nereus.segmenter import Segmenter, class_map
from hub.errors import UnsupportedOption
from hub.modeling import EmbeddingModel, EncoderOutput, Layer, TaskFile, first_token, masked_mean
from hub.reading import Sample

PARTS = 4
"""Parts of an image along each side that the pooling ``grid`` keeps apart."""


class NereusModel(EmbeddingModel):
    """Images to token states: a ViT's class token and patches, or the cells of a ResNet's last stage, row by row.

    The backbones are transformers' own, so that published weights keep their names. A ResNet has one hidden state,
    since its stages differ in width; of a ViT the last one has passed the final normalisation.
    """

    config: NereusConfig
    config_class = NereusConfig
    base_model_prefix = "nereus"
    main_input_name = "pixel_values"
    input_modalities = "image"
    _supports_sdpa = True
    _no_split_modules: ClassVar[list[str]] = ["ResNetConvLayer", "ResNetShortCut", "ViTLayer"]
    # A pretraining checkpoint also holds what the pretext task needs, which an encoder rightly leaves.
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^head\.", r"^teacher\.", r"^centre\.", r"^progress$"]

    def __init__(self, config: NereusConfig) -> None:
        """Create the encoder with fresh weights."""
        super().__init__(config)
        if config.backbone == "resnet":
            self.resnet = ResNetModel(config.resnet_config())
            self.poolings = ("mean", "max", "mean_std", "grid")
        else:
            self.vit = ViTModel(config.vit_config(), add_pooling_layer=False)
            self.poolings = ("first", "mean", "max", "mean_std", "grid")
        if config.segments:
            self.segmenter = Segmenter(config)
            self.tasks = {"segment": "segment"}
        self.post_init()

    def forward(self, pixel_values: Tensor, output_hidden_states: bool = False) -> EncoderOutput:
        """Encode a batch of images of one size.

        Args:
            pixel_values: ``(batch, 1, rows, columns)`` normalised intensities from the processor.
            output_hidden_states: Whether to return every hidden state.

        Returns:
            Token states ``(batch, tokens, hidden)`` and their mask, all true. Of a ViT token 0 is the class token.
        """
        pixels = pixel_values.to(self.dtype)
        if self.config.backbone == "resnet":
            states = self.resnet(pixels).last_hidden_state.flatten(2).transpose(1, 2)
            hidden: tuple[Tensor, ...] = (states,)
        else:
            output = self.vit(pixels, interpolate_pos_encoding=True, output_hidden_states=output_hidden_states)
            states = output.last_hidden_state
            hidden = (*output.hidden_states[:-1], states) if output_hidden_states else ()
        mask = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        return EncoderOutput(
            last_hidden_state=states, mask=mask, hidden_states=hidden if output_hidden_states else None
        )

    def summary(self, output: EncoderOutput) -> Tensor:
        """Return what DINO's head reads, ``(batch, hidden)``: the class token, or the mean over a ResNet's cells."""
        assert output.last_hidden_state is not None and output.mask is not None
        pool = masked_mean if self.config.backbone == "resnet" else first_token
        return pool(output.last_hidden_state, output.mask)

    def grid(self, states: Tensor, rows: int, columns: int) -> Tensor:
        """Return token states as a map, ``(batch, hidden, rows // stride, columns // stride)`` rounded up.

        Args:
            states: ``(batch, tokens, hidden)``.
            rows: Of the image that was encoded, pixels.
            columns: Of the image.
        """
        cells = self._cells(states).transpose(1, 2)
        return cells.unflatten(2, (-(-rows // self.config.stride), -(-columns // self.config.stride)))

    def pool(self, states: Tensor, mask: Tensor, pooling: str, batch: Mapping[str, Tensor]) -> Tensor:
        """Reduce token states to one vector an image; ``grid`` keeps where in the image things are.

        ``grid`` takes the mean over each of 4 x 4 equal parts of an image of any size, ``(batch, features * 16)``, the
        parts of one feature together. It tells centred targets apart by their layout; scenes that have no centre
        want the mean.

        Raises:
            UnsupportedOption: ``grid`` of an image that is not square; the processor's all are.
        """
        if pooling != "grid":
            return super().pool(states, mask, pooling, batch)
        cells = self._cells(states)
        side = math.isqrt(cells.shape[1])
        if side * side != cells.shape[1]:
            raise UnsupportedOption("pooling grid takes square images", param="pooling")
        return F.adaptive_avg_pool2d(cells.transpose(1, 2).unflatten(2, (side, side)), PARTS).flatten(1)

    def embedding_dimension(self, pooling: str | None = None, layer: Layer = None) -> int:
        """Return the length of the vectors that ``embed`` gives with these options."""
        parts = PARTS**2 if (pooling or self.config.pooling) == "grid" else 1
        return parts * super().embedding_dimension(pooling, layer)

    def segmentation(self, pixel_values: Tensor) -> Tensor:
        """Return the decoder's logits of each pixel, ``(batch, classes, rows, columns)`` float32."""
        states = self(pixel_values).last_hidden_state
        return self.segmenter(self.grid(states, *pixel_values.shape[2:]), pixel_values)

    def segment(self, batch: Mapping[str, Tensor], samples: Sequence[Sample]) -> list[TaskFile]:
        """Classify every pixel of each image: a GeoTIFF of class numbers on the image's own grid."""
        logits = self.segmentation(batch["pixel_values"])
        return [class_map(one, sample, self.config.segments) for one, sample in zip(logits, samples, strict=True)]

    def _cells(self, states: Tensor) -> Tensor:
        """Return token states without a ViT's class token."""
        return states[:, 1:] if self.config.backbone == "vit" else states
