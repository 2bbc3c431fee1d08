"""Pretraining batches of LVM-Med: two views of each picture, or of some slices of each volume."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from domains.medical.lvm_med.configuration import LVMMedConfig
from domains.medical.lvm_med.processing import LVMMedProcessor
from domains.medical.lvm_med.views import Augmentation
from domains.medical.slice_table import SliceTable
from hub.errors import InvalidRecipe
from hub.reading import Sample
from hub.training.collation import Collator, Randomness

PARTITIONS = 4
"""Parts of a volume that ``global_local`` tells apart, unless the recipe says otherwise (Chaitanya et al. 2020)."""


class LVMMedCollator(Collator):
    """Images to pairs of views with the places of their cells."""

    processor: LVMMedProcessor
    config: LVMMedConfig

    def __init__(
        self,
        processor: LVMMedProcessor,
        config: LVMMedConfig,
        size: int = 0,
        slices: int = 0,
        working_size: int = 0,
        slice_table: str = "",
        **augmentation: Any,
    ) -> None:
        """Set how views are drawn.

        Args:
            processor: Brings values to the range 0 to 1, and standardises.
            config: Names the objective.
            size: Side of a view, pixels; 0 for the processor's.
            slices: Of each volume so many slices are drawn, one from each of so many equal parts; 0 for one (for
                ``global_local`` for four).
            working_size: Longest side of the images that views are drawn from, pixels; larger ones are shrunk first. 0
                for what leaves the smallest crop sharp.
            slice_table: Written by ``fmhub reduce-slices``; of volumes that stand in it only the slices kept are drawn.
            augmentation: See `Augmentation`.

        Raises:
            InvalidRecipe: An option does not exist, or cannot be.
            InvalidManifest: The table of slices cannot be read.
        """
        super().__init__(processor, config)
        size = size or processor.size
        pairs: dict[str, Any] = {name: tuple(v) if isinstance(v, Sequence) else v for name, v in augmentation.items()}
        try:
            self.augmentation = Augmentation(size, **pairs)
        except TypeError as error:
            raise InvalidRecipe(f"pretext: {error}") from None
        for name in ("scale", "ratio", "sigma"):
            low, high = getattr(self.augmentation, name)
            if not 0 < low <= high:
                raise InvalidRecipe(f"pretext.{name} is {(low, high)}; it is a range above 0")
        if config.arch == "sam_vit" and size % config.patch_size:
            raise InvalidRecipe(f"pretext.size is {size}, no multiple of patches of {config.patch_size} pixels")
        self.slices = slices or (PARTITIONS if "global_local" in config.objectives else 1)
        self.working_size = working_size or round(size / self.augmentation.scale[0] ** 0.5)
        self.side = config.map_side(size)
        self.table = SliceTable.read(Path(slice_table)) if slice_table else None

    def cost(self, sample: Sample) -> int:
        """Return the pixels of all views of an image; 0 for a picture where the objective asks for places of slices."""
        slices = sample.data.values.shape[1 + sample.data.slice_axis]
        if "global_local" in self.config.objectives and slices < self.slices:
            return 0
        return 2 * min(self.slices, slices) * self.augmentation.size**2

    def prepare(self, sample: Sample) -> Tensor:
        """Return the slices in the range 0 to 1, ``(slices, channels, rows, columns)``, no larger than needed."""
        pixels = self.processor.unit_slices(sample)
        kept = self.table.kept(sample.data) if self.table is not None else None
        if kept is not None:
            pixels = pixels[kept]
        rows, columns = pixels.shape[2:]
        factor = self.working_size / max(rows, columns)
        if factor >= 1:
            return pixels
        smaller = (max(1, round(rows * factor)), max(1, round(columns * factor)))
        return F.interpolate(pixels, size=smaller, mode="bicubic", antialias=True).clamp(0, 1)

    def view(self, prepared: Tensor, generator: Generator) -> dict[str, Tensor]:
        """Return ``first`` and ``second`` ``(drawn, 3, size, size)``, the places of their cells, and ``partition``."""
        count = len(prepared)
        drawn = min(self.slices, count)
        found: dict[str, list[Tensor]] = {"first": [], "second": [], "first_places": [], "second_places": []}
        for part in range(drawn):
            first, last = part * count // drawn, (part + 1) * count // drawn
            number = first + int(torch.randint(last - first, (), generator=generator))
            for name in ("first", "second"):
                view, where = self.augmentation.draw(prepared[number], self.side, generator)
                found[name].append(self.processor.standardise(view[None])[0])
                found[f"{name}_places"].append(where)
        return {name: torch.stack(parts) for name, parts in found.items()} | {"partition": torch.arange(drawn)}

    def collate(self, views: Sequence[dict[str, Tensor]], randomness: Randomness) -> dict[str, Tensor]:
        """Put the views of one batch together, and draw the seed of the noise on the matching's scores."""
        batch = {name: torch.cat([view[name] for view in views]) for name in views[0]}
        return {**batch, "noise_seed": torch.randint(2**62, (1,), generator=randomness.shared)}
