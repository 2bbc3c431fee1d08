"""Nereus's processor: SAR images to normalised intensities of one size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from domains.sar.nereus.intensity import BRIGHTEST, decibels, grow, read_power, shrink
from domains.sar.raster import UNKNOWN_SCALE, Raster
from domains.sar.reading import RasterReader
from hub.doubts import Doubt
from hub.errors import InvalidInput
from hub.processing import Processor
from hub.reading import Sample

REFERENCES = ("image", "absolute")
OVERSAMPLING = 2
"""Images are read at no less than this times the model's size, so that crops of them are sharp."""


class NereusProcessor(Processor):
    """Detected or complex SAR images to ``(1, size, size)``: power, centre crop, resize, decibels, clip, standardise.

    Size and normalisation are those of pretraining. They are saved with the checkpoint and have no defaults: an
    embedding under any other normalisation means nothing, so a checkpoint that lacks them is refused.
    """

    model_input_names: ClassVar[list[str]] = ["pixel_values"]
    cost_unit = "pixels"
    batch_cost = 524_288

    def __init__(
        self,
        size: int | None = None,
        mean: float | None = None,
        std: float | None = None,
        clip: Sequence[float] | None = None,
        reference: str | None = None,
        crop: int = 0,
        band: str | int = "VV",
        min_side: int = 8,
        max_missing: float = 0.5,
        **kwargs: Any,
    ) -> None:
        """Set size and normalisation; a pixel becomes ``(clip(10 log10(power / reference)) - mean) / std``.

        Args:
            size: Side of the model's input, pixels; smaller and larger images are resized.
            mean: Of the pretraining set, dB after clipping.
            std: Of the pretraining set, dB after clipping.
            clip: Lowest and highest level kept, dB.
            reference: What decibels are relative to: ``image``, each image's own mean power, for sensors without
                calibration; or ``absolute``, one unit of the file, for one calibrated product.
            crop: Side of the centre crop taken first, pixels; 0 for none. Where the size of a chip tells its class
                or its length, resizing without a crop would give both away.
            band: Which band of an image with several: a polarisation, or a number from 0.
            min_side: Shortest side to accept, pixels.
            max_missing: Largest share of missing pixels to accept; they take the mean power of the others.
            kwargs: Attributes that transformers keeps in a saved processor.

        Raises:
            ValueError: A setting is missing or cannot be.
        """
        given = {"size": size, "mean": mean, "std": std, "clip": clip, "reference": reference}
        missing = [name for name, value in given.items() if value is None]
        if missing:
            raise ValueError(
                f"{', '.join(missing)} not given: size and normalisation are those of pretraining, and without them "
                "an embedding means nothing"
            )
        assert size is not None and std is not None and mean is not None and clip is not None
        if reference not in REFERENCES:
            raise ValueError(f"reference={reference!r} is none of {', '.join(REFERENCES)}")
        if size < 1 or not std > 0 or len(clip) != 2 or not clip[0] < mean < clip[1]:
            raise ValueError(
                f"size={size}, mean={mean}, std={std}, clip={clip}: size and std are positive, and the mean lies "
                "between the two ends of clip"
            )
        super().__init__(**kwargs)
        self.size = size
        self.mean = mean
        self.std = std
        self.clip = list(clip)
        self.reference = reference
        self.crop = crop
        self.band = band
        self.min_side = min_side
        self.max_missing = max_missing

    def reader(self) -> RasterReader:
        """Return the SAR domain's reader."""
        return RasterReader()

    def cost(self, sample: Sample) -> int:
        """Return the pixels that the model will see, the same for every image."""
        return self.size * self.size

    def doubts(self, sample: Sample) -> Iterator[Doubt]:
        """Yield what of size and scale is unlike the images of pretraining."""
        _, rows, columns = sample.data.shape
        if self.reference == "absolute" and sample.data.calibration == UNKNOWN_SCALE:
            text = "Nothing states the calibration, and the model learnt from one calibrated product."
            yield Doubt(text, "scale_assumed")
        if min(rows, columns) < self.size / 2:
            text = f"{rows} x {columns} pixels are enlarged to {self.size} x {self.size}, with little in them."
            yield Doubt(text, "length_out_of_range")

    def relative_power(self, sample: Sample) -> Tensor:
        """Return the image before it is resized: ``(rows, columns)`` float32 power over the reference's.

        Raises:
            InvalidInput: The image is too small, holds too little, has several bands of which none is the one asked
                for, or is on another scale than that of pretraining.
        """
        image = self._one_band(sample.data)
        sides = image.shape[1:]
        if min(sides) < self.min_side:
            raise InvalidInput(
                f"the image has {sides[0]} x {sides[1]} pixels; each side needs at least {self.min_side}",
                code="too_small",
            )
        values, missing = read_power(image, self.crop, OVERSAMPLING * self.size)
        if missing > self.max_missing:
            raise InvalidInput(
                f"{missing:.0%} of the image's pixels are missing; at most {self.max_missing:.0%} may be",
                code="missing_pixels",
            )
        power = torch.from_numpy(values)
        if self.reference == "image":
            return (power / power.mean()).float()
        levels = decibels(power)
        low, high = self.clip
        outside = float(((levels < low) | (levels > high)).float().mean())
        if outside > 0.5:
            raise InvalidInput(
                f"{outside:.0%} of the image lies outside {low:g} to {high:g} dB, the levels of pretraining (its "
                f"median is {float(levels.median()):.1f} dB; values are {sample.data.calibration}); bring it to the "
                "same calibration",
                code="wrong_scale",
            )
        return power.clamp(max=BRIGHTEST).float()

    def standardise(self, levels: Tensor) -> Tensor:
        """Clip and standardise decibels, any shape."""
        return (levels.clamp(*self.clip) - self.mean) / self.std

    def prepare(self, sample: Sample) -> Tensor:
        """Return one image as the model sees it, ``(1, size, size)`` float32.

        Raises:
            InvalidInput: See `relative_power`.
        """
        power = shrink(self.relative_power(sample), self.size)
        return self.standardise(grow(decibels(power), self.size))[None]

    def pad(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Stack images, which are all of one size: ``pixel_values`` ``(batch, 1, size, size)``."""
        return {"pixel_values": torch.stack(list(features))}

    def _one_band(self, image: Raster) -> Raster:
        count = image.shape[0]
        if count == 1:
            return image
        if isinstance(self.band, int) and self.band < count:
            return image.band(self.band)
        names = [name.upper() for name in image.names]
        if isinstance(self.band, str) and names.count(self.band.upper()) == 1:
            return image.band(names.index(self.band.upper()))
        known = ", ".join(image.names) if any(image.names) else "without names"
        raise InvalidInput(
            f"the image has {count} bands ({known}), and the model takes band {self.band!r}; give that band alone",
            code="ambiguous_band",
        )
