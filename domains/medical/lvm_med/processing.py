"""LVM-Med's processor: pictures, slices and volumes to normalised RGB images of one size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from domains.medical.image import MedicalImage
from domains.medical.intensity import check_percentiles, check_window, unit_range
from hub.errors import InvalidInput
from hub.processing import Processor
from hub.reading import Reader, Sample

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class LVMMedProcessor(Processor):
    """Images to ``(slices, 3, size, size)``: to the range 0 to 1, resize, grey to RGB, standardise.

    What 0 and 1 stand for follows from the modality. CT is seen through a window in Hounsfield units; pictures are
    taken as they are; all else goes from one percentile of the whole image's foreground to another. The foreground is
    what lies above the least value.
    """

    model_input_names: ClassVar[list[str]] = ["pixel_values", "slice_counts"]
    cost_unit = "pixels"
    batch_cost = 1_605_632  # 32 slices of 224 x 224

    def __init__(
        self,
        size: int = 224,
        ct_window: str | Sequence[float] = "soft_tissue",
        percentiles: Sequence[float] = (0.5, 99.5),
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        min_side: int = 8,
        **kwargs: Any,
    ) -> None:
        """Set size and normalisation.

        Args:
            size: Side of the model's input, pixels. Images are stretched to the square, as the published models'
                were, with an antialiased bicubic filter.
            ct_window: For CT: ``[centre, width]`` in Hounsfield units, the name of a usual one, or ``file`` for the
                window that the file names (``soft_tissue`` where it names none).
            percentiles: For other modalities.
            mean: Of red, green and blue, subtracted; ImageNet's.
            std: Of the three, divided by.
            min_side: Shortest side to accept, pixels.
            kwargs: Attributes that transformers keeps in a saved processor.

        Raises:
            ValueError: A setting cannot be.
        """
        check_window(ct_window)
        check_percentiles(percentiles)
        if size < 1 or len(mean) != 3 or len(std) != 3 or not min(std) > 0:
            raise ValueError(f"size={size}, mean={mean}, std={std}: size and three std are positive")
        super().__init__(**kwargs)
        self.size = size
        self.ct_window = ct_window if isinstance(ct_window, str) else list(ct_window)
        self.percentiles = list(percentiles)
        self.mean = list(mean)
        self.std = list(std)
        self.min_side = min_side

    def reader(self) -> Reader:
        """Return the medical domain's reader."""
        from domains.medical.reading import MedicalReader

        return MedicalReader()

    def cost(self, sample: Sample) -> int:
        """Return the pixels that the model will see: those of all slices."""
        image: MedicalImage = sample.data
        return image.values.shape[1 + image.slice_axis] * self.size * self.size

    def unit_slices(self, sample: Sample) -> Tensor:
        """Return the slices in the range 0 to 1, ``(slices, channels, rows, columns)`` float32, of their own size.

        Raises:
            InvalidInput: They are too small, or have neither one channel nor three.
        """
        image: MedicalImage = sample.data
        _, channels, rows, columns = image.slices().shape
        if min(rows, columns) < self.min_side:
            raise InvalidInput(
                f"the image has {rows} x {columns} pixels; each side needs at least {self.min_side}", code="too_small"
            )
        if channels not in (1, 3):
            raise InvalidInput(f"the image has {channels} channels; grey has 1 and RGB 3", code="channels")
        values = unit_range(image, self.ct_window, self.percentiles)
        return torch.from_numpy(np.ascontiguousarray(np.moveaxis(values, 1 + image.slice_axis, 0)))

    def standardise(self, pixels: Tensor) -> Tensor:
        """Return images in the range 0 to 1 as the model sees them.

        Args:
            pixels: ``(images, 1 or 3, rows, columns)``.

        Returns:
            ``(images, 3, rows, columns)``.
        """
        mean, std = (torch.tensor(v, dtype=pixels.dtype)[:, None, None] for v in (self.mean, self.std))
        return (pixels - mean) / std

    def prepare(self, sample: Sample) -> Tensor:
        """Return one image as the model sees it, ``(slices, 3, size, size)`` float32.

        Raises:
            InvalidInput: See `unit_slices`.
        """
        return self.standardise(resize(self.unit_slices(sample), self.size))

    def pad(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Put the slices of several images behind each other.

        Returns:
            ``pixel_values`` ``(slices, 3, size, size)`` and ``slice_counts`` ``(batch,)``, how many each image has.
        """
        return {
            "pixel_values": torch.cat(list(features)),
            "slice_counts": torch.tensor([len(f) for f in features]),
        }


def resize(pixels: Tensor, size: int) -> Tensor:
    """Stretch images ``(images, channels, rows, columns)`` in the range 0 to 1 to squares; bicubic, antialiased."""
    if pixels.shape[2:] == (size, size):
        return pixels
    # The cubic filter overshoots at edges.
    return F.interpolate(pixels, size=(size, size), mode="bicubic", antialias=True).clamp(0, 1)
