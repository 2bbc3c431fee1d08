"""Alice's processor: a volume to RAS+ intensities from 0 to 1, and the windows that cover it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from domains.medical.alice.orientation import to_ras
from domains.medical.image import MedicalImage
from domains.medical.intensity import check_percentiles, check_window, grey, unit_range
from domains.medical.reading import MedicalReader
from hub.errors import InvalidInput, TooLarge, UnsupportedFormat
from hub.processing import Processor
from hub.reading import Sample


class AliceProcessor(Processor):
    """Volumes to windows of one size.

    What it does to a volume, in this order: colours become grey; the axes become RAS+; if ``spacing`` is set, voxels
    are resampled to it; intensities are brought to 0 to 1 (CT through a window of Hounsfield units, other modalities
    between percentiles of the whole volume's foreground); sides shorter than a window are extended on both ends with
    zeros, as published crops are at the borders. Windows overlap evenly and end at the borders.
    """

    cost_unit: ClassVar[str] = "voxels"
    batch_cost: ClassVar[int] = 4 * 64**3

    def __init__(
        self,
        roi: Sequence[int] = (64, 64, 64),
        overlap: float = 0.5,
        spacing: Sequence[float] | None = None,
        ct_window: str | Sequence[float] = "abdomen",
        percentiles: Sequence[float] = (0.5, 99.5),
        modality: str = "",
        min_side: int = 4,
        max_windows: int = 4096,
        **kwargs: Any,
    ) -> None:
        """Set what is done to a volume.

        Args:
            roi: Sides of a window along x, y and z, voxels; the model's.
            overlap: Least share of a window's side that it has in common with the next one.
            spacing: Millimetres along x, y and z to resample to; ``None`` leaves voxels as they are, as published.
            ct_window: For CT: see `domains.medical.intensity.check_window`. (transformers drops an attribute named
                ``window`` when it saves a processor.)
            percentiles: For other modalities: which become 0 and 1.
            modality: DICOM's code of images that do not tell theirs; NIfTI files never do, so a model of CT has ``CT``.
            min_side: Least voxels along each side of a volume.
            max_windows: Most windows of one volume.
            kwargs: Attributes that transformers keeps in a saved processor.

        Raises:
            ValueError: A setting cannot be.
        """
        check_window(ct_window)
        check_percentiles(percentiles)
        if len(roi) != 3 or min(roi) < 1 or not 0 <= overlap < 1:
            raise ValueError(f"roi={roi}, overlap={overlap}: three sides, and a share below 1")
        if spacing is not None and not (len(spacing) == 3 and min(spacing) > 0):
            raise ValueError(f"spacing={spacing}: three positive numbers of millimetres, or None")
        super().__init__(**kwargs)
        self.roi = list(roi)
        self.overlap = overlap
        self.spacing = None if spacing is None else list(spacing)
        self.ct_window = ct_window if isinstance(ct_window, str) else list(ct_window)
        self.percentiles = list(percentiles)
        self.modality = modality
        self.min_side = min_side
        self.max_windows = max_windows

    def reader(self) -> MedicalReader:
        """Return the medical domain's reader."""
        return MedicalReader()

    def cost(self, sample: Sample) -> int:
        """Return the voxels of all windows of a volume.

        Raises:
            InvalidInput: See `shape`.
        """
        return self._windows(sample.data) * math.prod(self.roi)

    def shape(self, image: MedicalImage) -> list[int]:
        """Return the sides of a volume along x, y and z as the model will see it, voxels.

        Raises:
            UnsupportedFormat: It is a picture or a single slice.
            InvalidInput: It is too small, or its spacing is needed and not known.
        """
        if not image.is_volume:
            raise UnsupportedFormat(
                "this model takes volumes, and this is a single picture or slice; give the whole series (a folder or "
                "a zip of its slices) or a NIfTI volume",
                code="not_a_volume",
            )
        sides = list(image.values.shape[:0:-1])
        if self.spacing is not None:
            if image.spacing is None:
                raise InvalidInput(
                    f"the spacing of the voxels is not known, and this model wants {self.spacing} mm; give a file that "
                    "states it (DICOM, NIfTI)",
                    code="unknown_spacing",
                )
            own = image.spacing[::-1]
            sides = [max(1, round(n * old / new)) for n, old, new in zip(sides, own, self.spacing, strict=True)]
        if min(sides) < self.min_side:
            raise InvalidInput(
                f"the volume has {' x '.join(map(str, sides))} voxels; each side needs at least {self.min_side}",
                code="too_small",
            )
        return sides

    def volume(self, sample: Sample) -> Tensor:
        """Return a whole volume as the model sees it, ``(x, y, z)`` float32 from 0 to 1.

        Raises:
            InvalidInput: See `shape`.
        """
        image: MedicalImage = sample.data
        shape = self.shape(image)
        values = np.ascontiguousarray(to_ras(grey(image.values)))
        if values.shape != tuple(shape):
            values = _resampled(values, shape)
        image = dataclasses.replace(image, values=values[np.newaxis])
        return torch.from_numpy(unit_range(image, self.ct_window, self.percentiles, self.modality)[0])

    def prepare(self, sample: Sample) -> dict[str, Tensor]:
        """Return ``volume`` ``(x, y, z)``, no side shorter than a window, ``starts`` and ``bounds``.

        Raises:
            TooLarge: It would take more than ``max_windows`` windows.
            InvalidInput: See `shape`.
        """
        windows = self._windows(sample.data)
        if windows > self.max_windows:
            raise TooLarge(f"the volume needs {windows} windows; at most {self.max_windows} are encoded")
        return self.extended(self.volume(sample))

    def extended(self, volume: Tensor) -> dict[str, Tensor]:
        """Extend a volume ``(x, y, z)`` from 0 to 1 to at least a window, and lay windows over it; see `prepare`."""
        size = torch.tensor(volume.shape)
        missing = (torch.tensor(self.roi) - size).clamp(min=0)
        low = missing // 2
        # Of the last axis first, as torch wants it.
        volume = F.pad(volume, torch.stack([low, missing - low], dim=1).flip(0).flatten().tolist())
        sides = [torch.tensor(_starts(s, side, self.overlap)) for s, side in zip(volume.shape, self.roi, strict=True)]
        return {
            "volume": volume,
            "starts": torch.cartesian_prod(*sides),
            "bounds": torch.stack([low, low + size]),
        }

    def pad(self, features: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Put volumes into one tensor, each at the beginning of its row; see `AliceModel.forward`."""
        largest = [max(f["volume"].shape[axis] for f in features) for axis in range(3)]
        volumes = torch.zeros(len(features), 1, *largest)
        starts = torch.full((len(features), max(len(f["starts"]) for f in features), 3), -1)
        for row, feature in enumerate(features):
            x, y, z = feature["volume"].shape
            volumes[row, 0, :x, :y, :z] = feature["volume"]
            starts[row, : len(feature["starts"])] = feature["starts"]
        return {"volumes": volumes, "starts": starts, "bounds": torch.stack([f["bounds"] for f in features])}

    def windows(self, feature: dict[str, Tensor]) -> Tensor:
        """Return the windows of a prepared volume, ``(windows, 1, x, y, z)``, for `AliceModel.pyramid`."""
        return torch.stack(
            [
                feature["volume"][tuple(slice(s, s + side) for s, side in zip(start, self.roi, strict=True))][None]
                for start in feature["starts"].tolist()
            ]
        )

    def _windows(self, image: MedicalImage) -> int:
        """Return how many windows a volume takes."""
        sides = zip(self.shape(image), self.roi, strict=True)
        return math.prod(len(_starts(size, side, self.overlap)) for size, side in sides)


def _starts(size: int, side: int, overlap: float) -> list[int]:
    """Return the first voxels of the fewest windows that cover an axis with at least this overlap, evenly spread."""
    if size <= side:
        return [0]
    step = max(1, int(side * (1 - overlap)))
    count = -(-(size - side) // step) + 1
    return [int(start) for start in np.linspace(0, size - side, count).round()]


def _resampled(values: NDArray[np.float32], shape: Sequence[int]) -> NDArray[np.float32]:
    """Resample trilinearly to a shape, smoothed before where it shrinks."""
    from monai.transforms import Resize

    resize = Resize(tuple(shape), mode="trilinear", anti_aliasing=True)
    return resize(torch.from_numpy(values)[None])[0].numpy().astype(np.float32)
