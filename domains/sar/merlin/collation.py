"""MERLIN's training batches: patches of complex images, one part to look at and the other to be judged by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from domains.sar.merlin.augmentation import modulated, turned, weighted
from domains.sar.merlin.configuration import MULTIPLE
from domains.sar.merlin.processing import MerlinProcessor
from domains.sar.merlin.spectrum import symmetrise
from domains.sar.merlin.tiles import tile_offsets
from hub.processing import Processor
from hub.reading import Sample
from hub.training.collation import Collator, Randomness

TRIES = 10
"""Draws of a patch before one with little data in it is taken after all."""
WRAPPED = 2
"""Pixels along a filtered patch's border that are not judged: the filter wraps around there."""


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
        turn: bool = False,
        jitter: float = 0.0,
        modulation: float = 0.0,
        bandwidth: float = 1.0,
        hamming: float = 1.0,
    ) -> None:
        """Set the patches, and how they are changed (`domains.sar.merlin.augmentation`).

        Args:
            processor: Of the images.
            config: Of the model.
            patch: Side of a patch, a multiple of 32; an image below it gives the largest patches that fit.
            stride: Grid that patches start on, pixels.
            patches: Drawn from an image for each visit.
            min_valid: Share of a patch that should hold data.
            turn: Whether patches are turned, mirrored, and turned in phase.
            jitter: Standard deviation of the natural logarithm of a factor on each patch.
            modulation: Contrast of a random texture and edge laid over each patch, natural logarithm of amplitude.
            bandwidth: Smallest share of the spectrum that is kept, drawn anew for each patch and axis up to 1.
            hamming: Smallest constant part of the Hamming window that is laid over it, likewise.

        Raises:
            ValueError: A value is out of its range.
        """
        super().__init__(processor, config)
        if patch < MULTIPLE or patch % MULTIPLE:
            raise ValueError(f"patch={patch}: must be a multiple of {MULTIPLE}")
        if not (0 < bandwidth <= 1 and 0.5 <= hamming <= 1 and min(jitter, modulation) >= 0):
            raise ValueError("bandwidth must lie in (0, 1], hamming in [0.5, 1], jitter and modulation not be negative")
        self.patch = patch
        self.stride = stride
        self.patches = patches
        self.min_valid = min_valid
        self.turn = turn
        self.jitter = jitter
        self.modulation = modulation
        self.bandwidth = bandwidth
        self.hamming = hamming

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
        parts, valid = self._drawn(prepared, generator)
        patches = torch.complex(parts[:, 0], parts[:, 1])
        if self.config.symmetrise:
            patches = symmetrise(patches)
        if self.modulation:
            patches = modulated(patches, self.modulation, generator)
        if self.bandwidth < 1 or self.hamming < 1:
            ranges = torch.tensor([self.bandwidth, self.hamming])
            drawn = ranges + (1 - ranges) * torch.rand(self.patches, 2, 2, generator=generator)
            patches = weighted(patches, *drawn.unbind(-1))
            inside = torch.zeros_like(valid)
            inside[:, WRAPPED:-WRAPPED, WRAPPED:-WRAPPED] = True
            valid &= inside
        if self.jitter:
            patches = patches * (self.jitter * torch.randn(self.patches, 1, 1, generator=generator)).exp()
        if self.turn:
            patches, valid = turned(patches, valid, generator)
        parts = torch.stack([patches.real, patches.imag], dim=1)
        swap = torch.rand(self.patches, generator=generator) < 0.5
        parts = torch.where(swap[:, None, None, None], parts.flip(1), parts)
        return {"inputs": parts[:, :1], "targets": parts[:, 1:], "valid": valid[:, None]}

    def _drawn(self, sample: Sample, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return parts ``(patches, 2, patch, patch)`` as the network wants them scaled, and which pixels hold data."""
        _, rows, columns = sample.data.shape
        tops, lefts = (tile_offsets(n, self.patch, self.stride) for n in (rows, columns))
        drawn = []
        for _ in range(self.patches):
            for _ in range(TRIES):
                top, left = (n[int(torch.randint(len(n), (), generator=generator))] for n in (tops, lefts))
                area = (slice(top, top + self.patch), slice(left, left + self.patch))
                parts = self.processor.parts(sample.data, *area)
                valid = (parts != 0).any(0)
                if valid.float().mean() >= self.min_valid:
                    break
            drawn.append((parts, valid))
        factor = self.processor.factor(sample)
        return torch.stack([p for p, _ in drawn]) * factor, torch.stack([v for _, v in drawn])

    def collate(self, views: Sequence[dict[str, Any]], randomness: Randomness) -> dict[str, Tensor]:
        """Put the patches of all images into one batch."""
        return {name: torch.cat([view[name] for view in views]) for name in ("inputs", "targets", "valid")}
