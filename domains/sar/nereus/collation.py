"""Pretraining batches of Nereus: global and local crops of each image (multi-crop, Caron et al. 2020, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from domains.sar.nereus.augmentation import View
from domains.sar.nereus.configuration import NereusConfig
from domains.sar.nereus.processing import NereusProcessor
from hub.errors import InvalidRecipe
from hub.reading import Sample
from hub.training.collation import Collator, Randomness

GLOBAL_CROPS = 2
SMOOTH = (1.0, 0.1)
"""Probability of smoothing each global crop, as DINO blurs them: always the first, seldom the second."""
SMOOTH_LOCAL = 0.5


class NereusCollator(Collator):
    """Images to two global and several local views."""

    processor: NereusProcessor
    config: NereusConfig

    def __init__(
        self,
        processor: NereusProcessor,
        config: NereusConfig,
        global_size: int = 224,
        local_size: int = 96,
        local_crops: int = 8,
        global_scale: Sequence[float] = (0.4, 1.0),
        local_scale: Sequence[float] = (0.05, 0.4),
        mirror: float = 0.5,
        speckle: float = 0.5,
        looks: Sequence[int] = (2, 16),
        blur: Sequence[float] = (0.1, 2.0),
        gain: float = 1.0,
        contrast: float = 0.2,
    ) -> None:
        """Set how views are drawn; sizes, numbers and scales are DINO's reference settings.

        Args:
            processor: Reads and normalises.
            config: The model's.
            global_size: Side of a global crop, pixels.
            local_size: Side of a local crop, pixels.
            local_crops: How many of them; 0 for none.
            global_scale: Smallest and largest share of the image's area in a global crop.
            local_scale: The same of a local crop.
            mirror: See `View`, as for the rest.
            speckle: Probability of more speckle.
            looks: Of that speckle.
            blur: Of the smoothing, pixels of a global crop; of a local one in proportion.
            gain: Standard deviation of the level, dB.
            contrast: Largest relative change of the levels' spread.

        Raises:
            InvalidRecipe: A value cannot be, or a size is no multiple of the model's patches.
        """
        super().__init__(processor, config)
        sizes = (global_size, local_size) if local_crops else (global_size,)
        if config.backbone == "vit" and any(size % config.patch_size for size in sizes):
            raise InvalidRecipe(f"pretext: crops of {sizes} pixels are no multiples of patches of {config.patch_size}")
        for name, (low, high), most in (
            ("global_scale", global_scale, 1.0),
            ("local_scale", local_scale, 1.0),
            ("looks", looks, 1024),
            ("blur", blur, global_size),
        ):
            if not 0 < low <= high <= most:
                raise InvalidRecipe(f"pretext.{name} is {(low, high)}; it is a range above 0, up to {most}")
        self.local_crops = local_crops

        def kind(size: int, scale: Sequence[float], smooth: float) -> View:
            return View(
                size=size,
                scale=(scale[0], scale[1]),
                mirror=mirror,
                speckle=speckle,
                looks=(looks[0], looks[1]),
                smooth=smooth,
                blur=(blur[0] * size / global_size, blur[1] * size / global_size),
                gain=gain,
                contrast=contrast,
            )

        self.global_views = [kind(global_size, global_scale, probability) for probability in SMOOTH]
        self.local_view = kind(local_size, local_scale, SMOOTH_LOCAL)

    def cost(self, sample: Sample) -> int:
        """Return the pixels of all crops of an image."""
        return sum(v.size**2 for v in self.global_views) + self.local_crops * self.local_view.size**2

    def prepare(self, sample: Sample) -> Tensor:
        """Return the image's power relative to the reference, ``(rows, columns)``."""
        return self.processor.relative_power(sample)

    def view(self, prepared: Tensor, generator: Generator) -> dict[str, Tensor]:
        """Return ``global_crops`` ``(2, 1, size, size)``, and ``local_crops`` where there are any, normalised."""
        kinds = {"global_crops": self.global_views, "local_crops": [self.local_view] * self.local_crops}
        return {
            name: self.processor.standardise(torch.stack([v.draw(prepared, generator) for v in views])[:, None])
            for name, views in kinds.items()
            if views
        }

    def collate(self, views: Sequence[dict[str, Tensor]], randomness: Randomness) -> dict[str, Tensor]:
        """Stack the crops of one batch, ``(batch, crops, 1, size, size)`` of each kind; nothing is drawn here."""
        return {name: torch.stack([view[name] for view in views]) for name in views[0]}
