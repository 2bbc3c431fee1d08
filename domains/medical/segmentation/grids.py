"""Between an image's own grid and what an encoder sees of it: slices of one size, or windows of a volume."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from domains.medical.alice.orientation import from_ras, to_ras
from domains.medical.image import MedicalImage, from_slices
from hub.reading import Sample

Draw = Callable[[int], int]
"""A random number below the one given."""
AT_ONCE = 8
"""Slices or windows in one pass."""


class Grid(Protocol):
    """One way in which images reach an encoder. A feature is what the processor's ``prepare`` returns."""

    def split(self, batch: Mapping[str, Tensor]) -> list[Any]:
        """Return the features that a processor's ``pad`` made a batch of."""

    def labels(self, mask: NDArray[np.int64], feature: Any, sample: Sample) -> Tensor:
        """Return an image's mask ``(slices, rows, columns)`` on the feature's grid; what lies outside is background."""

    def view(self, feature: Any, labels: Tensor, roi: tuple[int, ...], draw: Draw) -> tuple[Tensor, Tensor]:
        """Return a random view ``(channels, *grid)`` and its labels ``(*grid)``."""

    def probabilities(self, model: Any, feature: Any, sample: Sample) -> Tensor:
        """Return ``(classes, slices, rows, columns)`` on the image's own grid."""


class SliceGrid:
    """Slices of one size, each by itself (LVM-Med): a feature is ``(slices, channels, size, size)``."""

    def split(self, batch: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the slices of each image."""
        return list(batch["pixel_values"].split(batch["slice_counts"].tolist()))

    def labels(self, mask: NDArray[np.int64], feature: Tensor, sample: Sample) -> Tensor:
        """Return ``(slices, size, size)``: the class at the centre of each pixel."""
        classes = replace(sample.data, values=mask[None].astype(np.float32))
        return F.interpolate(
            torch.from_numpy(np.ascontiguousarray(classes.slices())), feature.shape[2:], mode="nearest-exact"
        )[:, 0].long()

    def view(self, feature: Tensor, labels: Tensor, roi: tuple[int, ...], draw: Draw) -> tuple[Tensor, Tensor]:
        """Return a random slice, whole."""
        number = draw(len(feature))
        return feature[number], labels[number]

    def probabilities(self, model: Any, feature: Tensor, sample: Sample) -> Tensor:
        """Segment each slice and bring it to its own size."""
        image: MedicalImage = sample.data
        size = image.slices().shape[2:]
        slices = []
        for some in feature.split(AT_ONCE):
            logits = model.segment_logits(some.to(model.device)).cpu()
            slices.append(F.interpolate(logits, size, mode="bilinear", align_corners=False).softmax(1))
        return torch.from_numpy(from_slices(torch.cat(slices).numpy(), image.slice_axis))


class WindowGrid:
    """Windows of a volume (Alice): a feature has ``volume``, ``starts`` of windows, and ``bounds`` of what is image."""

    def split(self, batch: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """Return volume, starts and bounds of each image; volumes keep the batch's padding, which no window reaches."""
        return [
            {"volume": volume[0], "starts": starts[starts[:, 0] >= 0], "bounds": bounds}
            for volume, starts, bounds in zip(batch["volumes"], batch["starts"], batch["bounds"], strict=True)
        ]

    def labels(self, mask: NDArray[np.int64], feature: dict[str, Tensor], sample: Sample) -> Tensor:
        """Return ``(x, y, z)`` at the volume's spacing and with its border."""
        low, high = feature["bounds"].tolist()
        turned = torch.from_numpy(np.ascontiguousarray(to_ras(mask)).astype(np.float32))
        inside = F.interpolate(
            turned[None, None], [h - n for n, h in zip(low, high, strict=True)], mode="nearest-exact"
        )
        labels = torch.zeros(feature["volume"].shape, dtype=torch.long)
        labels[tuple(slice(n, h) for n, h in zip(low, high, strict=True))] = inside[0, 0].long()
        return labels

    def view(
        self, feature: dict[str, Tensor], labels: Tensor, roi: tuple[int, ...], draw: Draw
    ) -> tuple[Tensor, Tensor]:
        """Return a random window."""
        volume = feature["volume"]
        where = tuple(
            slice(first, first + side)
            for first, side in ((draw(n - side + 1), side) for n, side in zip(volume.shape, roi, strict=True))
        )
        return volume[where][None], labels[where]

    def probabilities(self, model: Any, feature: dict[str, Tensor], sample: Sample) -> Tensor:
        """Segment overlapping windows, mean where they overlap, and go back to the image's voxels and axes."""
        volume, roi = feature["volume"], model.config.roi
        places = [
            tuple(slice(s, s + n) for s, n in zip(start, roi, strict=True)) for start in feature["starts"].tolist()
        ]
        total = count = torch.zeros(())
        for first in range(0, len(places), AT_ONCE):
            some = places[first : first + AT_ONCE]
            windows = torch.stack([volume[p][None] for p in some])
            found = model.segment_logits(windows.to(model.device)).softmax(1).cpu()
            if total.ndim == 0:
                total, count = torch.zeros(found.shape[1], *volume.shape), torch.zeros(volume.shape)
            for place, one in zip(some, found, strict=True):
                total[:, *place] += one
                count[place] += 1
        inside = tuple(slice(n, h) for n, h in zip(*feature["bounds"].tolist(), strict=True))
        mean = total[:, *inside] / count[inside]
        shape = sample.data.values.shape[:0:-1]
        if mean.shape[1:] != shape:
            mean = F.interpolate(mean[None], shape, mode="trilinear", align_corners=False)[0]
        return torch.from_numpy(np.ascontiguousarray(from_ras(mean.numpy())))


def grid_of(dimensions: int) -> Grid:
    """Return the grid of encoders of slices (2) or volumes (3)."""
    return SliceGrid() if dimensions == 2 else WindowGrid()
