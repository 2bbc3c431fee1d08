"""The LVM-Med encoder: a 2-D network over pictures, and over each slice of a volume."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import initialization as init

from domains.medical.image import MedicalImage
from domains.medical.lvm_med.backbones import ResNet, SamViT
from domains.medical.lvm_med.configuration import RESNETS, LVMMedConfig
from domains.medical.segmentation.model import SegmentingModel
from hub.errors import UnsupportedOption
from hub.modeling import EncoderOutput, Layer
from hub.reading import Sample

SLICES_AT_ONCE = 16
"""Slices in one pass of the network; a volume's are looped over."""
PARTS = 4
"""Parts of an image along each side that the pooling ``grid`` keeps apart."""


class LVMMedModel(SegmentingModel):
    """Images to token states.

    The tokens of a picture are the cells of the last map, row by row: 7 x 7 of a ResNet and 14 x 14 of a ViT at 224
    pixels. Those of a volume are its slices, each the mean of its cells. A picture's vector is its cells pooled, and a
    volume's is the mean over its slices of theirs. Of a ViT the states are those before the neck, without a last
    normalisation, as in the authors' classifier.
    """

    config: LVMMedConfig
    config_class = LVMMedConfig
    base_model_prefix = "lvm_med"
    main_input_name = "pixel_values"
    input_modalities = "image"
    poolings = ("mean", "max", "mean_std", "grid")
    tasks: ClassVar[Mapping[str, str]] = {"slices": "slices"}
    _supports_sdpa = True
    _no_split_modules: ClassVar[list[str]] = ["BasicBlock", "Bottleneck", "SamVisionLayer"]
    # A pretraining checkpoint also holds what the pretext task needs, which an encoder rightly leaves.
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^projector\.", r"^matching\.", r"^region_projector\."]

    def __init__(self, config: LVMMedConfig) -> None:
        """Create the encoder with fresh weights."""
        super().__init__(config)
        if config.arch in RESNETS:
            self.resnet = ResNet(config)
        else:
            self.vit = SamViT(config.vit_config())
        self.post_init()

    def _init_weights(self, module: Any) -> None:
        super()._init_weights(module)
        if self.config.arch in RESNETS and isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def maps(self, pixels: Tensor) -> list[Tensor]:
        """Return the map of each stage of a ResNet, or of the patches and each layer of a ViT.

        Args:
            pixels: ``(images, 3, rows, columns)`` from the processor.

        Returns:
            One ``(images, channels, rows / stride, columns / stride)`` each.
        """
        pixels = pixels.to(self.dtype)
        return self.resnet(pixels) if self.config.arch in RESNETS else self.vit.maps(pixels)

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """Return maps to segment from, finest first: a ResNet's stages; of a ViT four layers, the last among them.

        Args:
            images: ``(images, 3, rows, columns)`` from the processor.
        """
        maps = self.maps(images)
        if self.config.arch in RESNETS:
            return maps
        return [maps[round(n * (len(maps) - 1) / 4)] for n in range(1, 5)]

    def cells(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return hidden states from maps, each ``(images, cells, hidden)``: one of a ResNet, of a ViT one a layer."""
        if self.config.arch in RESNETS:
            chosen = [maps[stage - 1] for stage in self.config.stages]
            rows, columns = min((m.shape[2:] for m in chosen), key=math.prod)
            maps = [torch.cat([F.adaptive_avg_pool2d(m, (rows, columns)) for m in chosen], dim=1)]
        return tuple(m.flatten(2).transpose(1, 2) for m in maps)

    def forward(
        self, pixel_values: Tensor, slice_counts: Tensor | None = None, output_hidden_states: bool = False
    ) -> EncoderOutput:
        """Encode a batch of images.

        Args:
            pixel_values: ``(slices, 3, rows, columns)``, the slices of all images behind each other.
            slice_counts: ``(batch,)``, how many slices each image has; one each where it is left out.
            output_hidden_states: Whether to return every hidden state.

        Returns:
            Token states ``(batch, tokens, hidden)`` and their mask: cells of an image of one slice, slices of others.
        """
        counts = [1] * len(pixel_values) if slice_counts is None else slice_counts.tolist()
        alone = torch.tensor([count == 1 for count in counts for _ in range(count)], device=pixel_values.device)
        # Batch normalisation in training takes the statistics of the batch: never of a part of it.
        at_once = len(pixel_values) if self.training else SLICES_AT_ONCE
        # The cells of a volume go as soon as they are averaged: hidden state by hidden state, slice by slice.
        tokens: list[list[Tensor]] = []
        for pixels, single in zip(pixel_values.split(at_once), alone.split(at_once), strict=True):
            states = self.cells(self.maps(pixels))
            for number, state in enumerate(states if output_hidden_states else states[-1:]):
                if number == len(tokens):
                    tokens.append([])
                tokens[number] += [s if one else s.mean(0, keepdim=True) for s, one in zip(state, single, strict=True)]
        ends = np.cumsum(counts)
        hidden = tuple(
            pad_sequence([torch.cat(t[e - c : e]) for e, c in zip(ends, counts, strict=True)], batch_first=True)
            for t in tokens
        )
        lengths = torch.tensor([len(tokens[-1][e - 1]) if c == 1 else c for e, c in zip(ends, counts, strict=True)])
        mask = torch.arange(hidden[-1].shape[1])[None] < lengths[:, None]
        return EncoderOutput(
            last_hidden_state=hidden[-1],
            mask=mask.to(pixel_values.device),
            hidden_states=hidden if output_hidden_states else None,
        )

    @torch.inference_mode()
    def embed(self, batch: Mapping[str, Tensor], pooling: str | None = None, layer: Layer = None) -> list[Tensor]:
        """Embed a batch: one ``(features,)`` vector an image, or its ``(tokens, features)`` for ``pooling="none"``.

        Raises:
            UnsupportedOption: The pooling or layer is not offered.
        """
        pooling = pooling or self.config.pooling
        self.check_options(pooling, layer)
        if pooling == "none":
            return super().embed(batch, pooling, layer)
        vectors = self.slice_vectors(batch["pixel_values"], pooling, layer)
        return [v.mean(0) for v in vectors.split(_counts(batch))]

    @torch.inference_mode()
    def slice_vectors(self, pixel_values: Tensor, pooling: str, layer: Layer = None) -> Tensor:
        """Return a vector of each slice by itself, ``(slices, features)`` float32."""
        vectors = []
        for pixels in pixel_values.split(SLICES_AT_ONCE):
            states, mask = self.token_states({"pixel_values": pixels}, layer)
            vectors.append(self.pool(states.float(), mask, pooling, {"pixel_values": pixels}))
        return torch.cat(vectors)

    def pool(self, states: Tensor, mask: Tensor, pooling: str, batch: Mapping[str, Tensor]) -> Tensor:
        """Reduce token states to one vector an image; ``grid`` keeps where in the image things are.

        ``grid`` takes the mean over each of 4 x 4 equal parts of an image, ``(batch, features * 16)``, the parts of one
        feature together.

        Raises:
            UnsupportedOption: ``grid`` of the token states of a volume, which are its slices. (`embed` pools the cells
                of each slice and takes any pooling; a fine-tuned head on volumes reads slices.)
        """
        if pooling != "grid":
            return super().pool(states, mask, pooling, batch)
        if max(_counts(batch)) > 1:
            raise UnsupportedOption(
                "pooling grid is of the cells of a picture, and the tokens of a volume are its slices", param="pooling"
            )
        side = math.isqrt(states.shape[1])
        return F.adaptive_avg_pool2d(states.transpose(1, 2).unflatten(2, (side, side)), PARTS).flatten(1)

    def embedding_dimension(self, pooling: str | None = None, layer: Layer = None) -> int:
        """Return the length of the vectors that ``embed`` gives with these options."""
        parts = PARTS**2 if (pooling or self.config.pooling) == "grid" else 1
        return parts * super().embedding_dimension(pooling, layer)

    @torch.inference_mode()
    def slices(self, batch: Mapping[str, Tensor], samples: Sequence[Sample]) -> list[list[dict[str, Any]]]:
        """Embed each slice of each image by itself.

        Returns:
            For each image a list of ``slice`` (its number), ``position`` (millimetres along the slices' normal in the
            patient's frame, ``None`` where the file has no place) and ``embedding``.
        """
        vectors = self.slice_vectors(batch["pixel_values"], self.config.pooling)
        return [
            [
                {"slice": number, "position": position, "embedding": vector.tolist()}
                for number, (position, vector) in enumerate(zip(slice_positions(sample.data), own, strict=True))
            ]
            for sample, own in zip(samples, vectors.split(_counts(batch)), strict=True)
        ]


def slice_positions(image: MedicalImage) -> list[float | None]:
    """Return where each slice lies along the direction in which they are stacked, millimetres."""
    count = image.values.shape[1 + image.slice_axis]
    if image.affine is None:
        return [None] * count
    step = image.affine[:3, image.slice_axis]
    length = float(np.linalg.norm(step))
    origin = float(image.affine[:3, 3] @ step) / length
    return [round(origin + number * length, 4) for number in range(count)]


def _counts(batch: Mapping[str, Tensor]) -> list[int]:
    counts = batch.get("slice_counts")
    return [1] * len(batch["pixel_values"]) if counts is None else counts.tolist()
