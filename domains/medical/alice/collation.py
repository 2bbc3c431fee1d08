"""Pretraining batches of Alice: two crops of the same anatomy, and what is hidden of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from domains.medical.alice.anatomy import Anatomy, foreground_point, key_of
from domains.medical.alice.configuration import PATCH, AliceConfig
from domains.medical.alice.cropping import column_mask, crop_around, reshaded
from domains.medical.alice.processing import AliceProcessor
from hub.errors import InvalidRecipe
from hub.reading import Sample
from hub.training.collation import Collator, Randomness

PAIRS = ("overlap", "embedding", "precomputed")


class AliceCollator(Collator):
    """Volumes to pairs of crops.

    A pair is drawn for each volume by itself, so that it is the same whatever else is in the batch. Pictures and single
    slices are left out.
    """

    processor: AliceProcessor
    config: AliceConfig

    def __init__(
        self,
        processor: AliceProcessor,
        config: AliceConfig,
        pairs: str = "overlap",
        anatomy: str = "",
        shift: float = 0.25,
        margin: int = 10,
        mask_patch: int = 16,
        mask_ratio: float = 0.75,
        gamma: float = 0.0,
        noise: float = 0.0,
    ) -> None:
        """Set how pairs and masks are drawn.

        Args:
            processor: Reads and normalises.
            config: The model's; crops have its ``roi``.
            pairs: Where the second crop comes from: ``overlap``, the same volume; ``embedding``, another volume, at the
                point whose dense embedding is nearest; ``precomputed``, another volume, at a point found before.
            anatomy: Folder of embedded volumes, for the last two; see `domains.medical.alice.anatomy`.
            shift: For ``overlap``: largest distance of the two centres along each axis, in sides of a crop.
            margin: Voxels from the far borders in which no point is drawn.
            mask_patch: Voxels along the side of a hidden square.
            mask_ratio: Share of the squares that is hidden.
            gamma: Standard deviation of the logarithm of the exponent that each crop's intensities are raised to; 0
                leaves them, as published.
            noise: Standard deviation of noise added to each crop; 0 for none, as published.

        Raises:
            InvalidRecipe: A value cannot be, or the folder is missing.
        """
        super().__init__(processor, config)
        if pairs not in PAIRS:
            raise InvalidRecipe(f"pretext.pairs {pairs!r} is none of {', '.join(PAIRS)}")
        if (pairs == "overlap") == bool(anatomy):
            raise InvalidRecipe(f"pretext: pairs={pairs!r} and anatomy={anatomy!r}: all but overlap need that folder")
        if mask_patch % PATCH or mask_patch < PATCH or not 0 <= mask_ratio < 1:
            raise InvalidRecipe(
                f"pretext: mask_patch={mask_patch}, mask_ratio={mask_ratio}: a multiple of {PATCH}, and a share below 1"
            )
        if min(shift, margin, gamma, noise) < 0:
            raise InvalidRecipe("pretext: shift, margin, gamma and noise are not negative")
        self.pairs = pairs
        self.anatomy = Anatomy(Path(anatomy)) if anatomy else None
        self.shift, self.margin = shift, margin
        self.mask_patch, self.mask_ratio = mask_patch, mask_ratio
        self.gamma, self.noise = gamma, noise

    def cost(self, sample: Sample) -> int:
        """Return the voxels of two crops; 0 for a picture or a single slice.

        Raises:
            InvalidInput: The processor refuses the volume.
        """
        if not sample.data.is_volume:
            return 0
        self.processor.shape(sample.data)
        return 2 * math.prod(self.config.roi)

    def prepare(self, sample: Sample) -> dict[str, Any]:
        """Return ``volume`` ``(x, y, z)`` from 0 to 1, and its ``key``."""
        volume = self.processor.volume(sample)
        return {"volume": volume, "key": key_of(volume)}

    def view(self, prepared: dict[str, Any], generator: Generator) -> Tensor:
        """Return two crops around the same anatomy, ``(2, x, y, z)``."""
        volume: Tensor = prepared["volume"]
        if self.anatomy is None:
            point = foreground_point(volume, self.margin, generator)
            most = torch.tensor(self.config.roi) * self.shift
            moved = ((2 * torch.rand(3, generator=generator) - 1) * most).round().long().tolist()
            other = [min(max(p + m, 0), side - 1) for p, m, side in zip(point, moved, volume.shape, strict=True)]
            places = [(volume, point), (volume, other)]
        else:
            key = prepared["key"]
            if self.pairs == "embedding":
                pair = self.anatomy.find(key, self.margin, generator)
            else:
                pair = self.anatomy.recall(key, generator)
            places = [(volume, pair.point), (pair.partner, pair.partner_point)]
        crops = [crop_around(whole, centre, self.config.roi) for whole, centre in places]
        return torch.stack([reshaded(crop, self.gamma, self.noise, generator) for crop in crops])

    def collate(self, views: Sequence[Tensor], randomness: Randomness) -> dict[str, Tensor]:
        """Stack the pairs, ``(batch, 2, x, y, z)``, and draw what is hidden, in cells of two voxels."""
        grid = [side // PATCH for side in self.config.roi]
        patch = self.mask_patch // PATCH
        masks = [
            torch.stack([column_mask(grid, patch, self.mask_ratio, generator) for _ in range(2)])
            for generator in randomness.samples
        ]
        return {"crops": torch.stack(list(views)), "masks": torch.stack(masks)}
