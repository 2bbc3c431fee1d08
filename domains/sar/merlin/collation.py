"""MERLIN's training batches: patches of complex images, one part to look at and the other to be judged by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from domains.sar.merlin.configuration import MULTIPLE
from domains.sar.merlin.processing import MerlinProcessor
from domains.sar.merlin.spectrum import symmetrise
from domains.sar.merlin.tiles import tile_offsets
from hub.processing import Processor
from hub.reading import Sample
from hub.training.collation import Collator, Randomness

TRIES = 10
"""Draws of a patch before one with little data in it is taken after all."""


class MerlinCollator(Collator):
    """Draws patches from each image, centres their spectra, and deals out the two parts."""

    processor: MerlinProcessor

    def __init__(
        self,
        processor: Processor,
        config: PreTrainedConfig,
        patch: int = 256,
        stride: int = 128,
        patches: int = 12,
        min_valid: float = 0.5,
    ) -> None:
        """Set the patches.

        Args:
            processor: Of the images.
            config: Of the model.
            patch: Side of a patch, a multiple of 32; an image below it gives the largest patches that fit.
            stride: Grid that patches start on, pixels.
            patches: Drawn from an image for each visit.
            min_valid: Share of a patch that should hold data.
        """
        super().__init__(processor, config)
        if patch < MULTIPLE or patch % MULTIPLE:
            raise ValueError(f"patch={patch}: must be a multiple of {MULTIPLE}")
        self.patch = patch
        self.stride = stride
        self.patches = patches
        self.min_valid = min_valid

    def cost(self, sample: Sample) -> int:
        """Return the pixels of the patches drawn from a sample, 0 for what is smaller than the patch."""
        _, rows, columns = sample.data.shape
        return self.patches * self.patch**2 if min(rows, columns) >= self.patch else 0

    def view(self, prepared: Sample, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the patches of one visit.

        Of each patch a coin tells which part is the network's input and which is the target; the published code
        alternates with the number of the batch.

        Returns:
            ``inputs``, ``targets`` ``(patches, 1, patch, patch)`` digital numbers, and ``valid`` of that shape.
        """
        _, rows, columns = prepared.data.shape
        factor = self.processor.factor(prepared)
        tops, lefts = (tile_offsets(n, self.patch, self.stride) for n in (rows, columns))
        drawn = []
        for _ in range(self.patches):
            for _ in range(TRIES):
                top, left = (n[int(torch.randint(len(n), (), generator=generator))] for n in (tops, lefts))
                area = (slice(top, top + self.patch), slice(left, left + self.patch))
                parts = self.processor.parts(prepared.data, *area)
                valid = (parts != 0).any(0)
                if valid.float().mean() >= self.min_valid:
                    break
            drawn.append((parts, valid))
        parts = torch.stack([p for p, _ in drawn]) * factor
        if self.config.symmetrise:
            centred = symmetrise(torch.complex(parts[:, 0], parts[:, 1]))
            parts = torch.stack([centred.real, centred.imag], dim=1)
        swap = torch.rand(self.patches, generator=generator) < 0.5
        parts = torch.where(swap[:, None, None, None], parts.flip(1), parts)
        return {"inputs": parts[:, :1], "targets": parts[:, 1:], "valid": torch.stack([v for _, v in drawn])[:, None]}

    def collate(self, views: Sequence[dict[str, Any]], randomness: Randomness) -> dict[str, Tensor]:
        """Put the patches of all images into one batch."""
        return {name: torch.cat([view[name] for view in views]) for name in ("inputs", "targets", "valid")}
