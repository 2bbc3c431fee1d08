"""MERLIN's processor and reader: what an image must be for the network, and what is doubtful about it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from domains.sar.merlin.configuration import MULTIPLE
from domains.sar.raster import WHOLE, Raster
from domains.sar.reading import RasterReader
from domains.sar.survey import survey
from hub.doubts import Doubt
from hub.errors import InvalidInput
from hub.processing import Processor
from hub.reading import Sample, Source, Span

WHITE = 0.5
"""Edge power from which on speckle counts as white on an axis: real systems oversample."""
LOPSIDED = 0.25
"""Share of power without a counterpart from which on a spectrum counts as not symmetric."""


@dataclass
class MerlinReader(RasterReader):
    """Images for a despeckling network, one sample a band, with warnings where it was not trained for them.

    Attributes:
        wants_complex: Whether single-look complex images are needed, or detected ones.
        min_rms: Smallest root mean square amplitude that the network was trained for, digital numbers.
        max_rms: Largest.
        target_rms: What other amplitudes are scaled to before the network; 0 for not at all.
    """

    wants_complex: bool = True
    min_rms: float = 50.0
    max_rms: float = 1_000.0
    target_rms: float = 150.0

    def read(self, source: Source, span: Span | None = None) -> Iterator[Sample]:
        """Yield each band of the file's images; see `Reader.read`."""
        for sample in super().read(source, span):
            try:
                yield from self._bands(sample)
            except InvalidInput as error:
                raise error.at(source.name) from None

    def parse(self, value: Any, name: str = "input") -> Iterator[Sample]:
        """Yield the image of a plain value; see `RasterReader.parse`."""
        for sample in super().parse(value, name):
            try:
                yield from self._bands(sample)
            except InvalidInput as error:
                raise error.at(name) from None

    def factor(self, rms: float) -> float:
        """Return what an image of this root mean square amplitude is multiplied with."""
        return 1.0 if self.min_rms <= rms <= self.max_rms or not self.target_rms else self.target_rms / rms

    def _bands(self, sample: Sample) -> Iterator[Sample]:
        whole: Raster = sample.data
        count = whole.shape[0]
        for number in range(count):
            raster = whole.band(number)
            name = (raster.names[0] if raster.names else "") or (f"band{number + 1}" if count > 1 else "")
            key = "/".join(part for part in (sample.key, name if count > 1 else "") if part)
            warnings, rms = self._judged(raster)
            facts = {**sample.metadata, "bands": [name] if name else 1, "rms_amplitude": round(rms, 6)}
            yield dataclasses.replace(
                sample, data=raster, key=key, warnings=(*sample.warnings, *warnings), metadata=facts
            )

    def _judged(self, raster: Raster) -> tuple[list[str], float]:
        """Return what is doubtful about an image, and its root mean square amplitude.

        Raises:
            InvalidInput: The network cannot be used on it at all.
        """
        _, rows, columns = raster.shape
        if min(rows, columns) < MULTIPLE:
            raise InvalidInput(
                f"the image has {rows} x {columns} pixels; at least {MULTIPLE} x {MULTIPLE} are needed",
                code="too_small",
            )
        if self.wants_complex and raster.quantity != "complex":
            raise InvalidInput(
                f"detected data ({raster.quantity}), and single-look complex data are needed: the network learns one "
                "part of a complex image from the other. For detected images use SAR2SAR or a classical filter",
                code="not_complex",
            )
        found = survey(raster)
        if self.wants_complex and found.real:
            raise InvalidInput(
                "the imaginary part is zero or the phase constant: a detected image stored as complex, whose two parts "
                "say the same. For detected images use SAR2SAR or a classical filter",
                code="not_complex",
            )
        warnings = list(self._doubts_of_level(found.rms))
        if self.wants_complex:
            if min(found.edge_power) > WHITE:
                text = (
                    "The spectrum is flat up to its edges: the speckle is white, as no real system leaves it, and the "
                    "network, trained on correlated speckle, will leave much of it in and change the mean."
                )
                warnings.append(Doubt(text, "spectrum"))
            if max(found.asymmetry) > LOPSIDED:
                text = (
                    "The spectrum is not symmetric even when centred, so real and imaginary parts are not independent; "
                    "less speckle will be removed."
                )
                warnings.append(Doubt(text, "spectrum"))
            if raster.georeference is not None and raster.georeference.transform is not None:
                text = "The image is geocoded: resampling moves and shapes the spectrum; despeckle in radar geometry."
                warnings.append(Doubt(text, "geometry"))
        return warnings, found.rms

    def _doubts_of_level(self, rms: float) -> Iterator[str]:
        if self.min_rms <= rms <= self.max_rms:
            return
        consequence = "too dark an image keeps its speckle and becomes biased"
        if self.target_rms:
            consequence = f"it is scaled to {self.target_rms:g} for the network, and back"
        text = (
            f"The root mean square amplitude is {rms:.4g}; the network was trained for {self.min_rms:g} to "
            f"{self.max_rms:g}: {consequence}."
        )
        yield Doubt(text, "level_out_of_range")


class MerlinProcessor(Processor):
    """Images of one band to padded batches of real and imaginary parts."""

    model_input_names: ClassVar[list[str]] = ["pixel_values", "sizes", "scale"]
    cost_unit = "pixels"
    batch_cost = 1 << 19

    def __init__(
        self,
        input: str = "complex",
        min_rms: float = 50.0,
        max_rms: float = 1_000.0,
        target_rms: float = 150.0,
        **kwargs: Any,
    ) -> None:
        """Set what images the network takes.

        Args:
            input: ``"complex"`` or ``"amplitude"``, as in the model's configuration.
            min_rms: Smallest root mean square amplitude that the network was trained for, digital numbers.
            max_rms: Largest.
            target_rms: What other amplitudes are scaled to before the network, and back after it; 0 for not at all.
            kwargs: Attributes that transformers keeps in a saved processor.
        """
        self.input = input
        self.min_rms = min_rms
        self.max_rms = max_rms
        self.target_rms = target_rms
        super().__init__(**kwargs)

    def reader(self) -> MerlinReader:
        """Return the reader that refuses what this network cannot take."""
        return MerlinReader(
            wants_complex=self.input == "complex",
            min_rms=self.min_rms,
            max_rms=self.max_rms,
            target_rms=self.target_rms,
        )

    def cost(self, sample: Sample) -> int:
        """Return the number of pixels."""
        return math.prod(sample.data.shape[1:])

    def factor(self, sample: Sample) -> float:
        """Return what the sample's values are multiplied with before the network."""
        rms = sample.metadata.get("rms_amplitude") or survey(sample.data).rms
        return self.reader().factor(rms)

    def parts(self, raster: Raster, rows: slice = WHOLE, columns: slice = WHOLE) -> Tensor:
        """Return real and imaginary parts, or the amplitude, of a window; missing pixels are 0.

        Returns:
            ``(parts, rows, columns)`` float32.
        """
        values = raster.read(rows, columns)
        values = np.where(raster.valid(values), values, 0)
        if self.input == "amplitude":
            return torch.from_numpy(raster.amplitude(values))
        return torch.from_numpy(np.concatenate([values.real, values.imag]).astype(np.float32, copy=False))

    def prepare(self, sample: Sample) -> tuple[Tensor, float]:
        """Return the parts of an image, and the factor that suits it to the network."""
        return self.parts(sample.data), self.factor(sample)

    def pad(self, features: Sequence[tuple[Tensor, float]]) -> dict[str, Tensor]:
        """Collate images, padded with zeros at the bottom and right; ``sizes`` says how far each goes."""
        shapes = [image.shape for image, _ in features]
        if len(set(shapes)) == 1:
            pixels = torch.stack([image for image, _ in features]) if len(features) > 1 else features[0][0][None]
        else:
            rows, columns = max(s[1] for s in shapes), max(s[2] for s in shapes)
            pixels = torch.zeros(len(features), shapes[0][0], rows, columns)
            for place, (image, _) in zip(pixels, features, strict=True):
                place[:, : image.shape[1], : image.shape[2]] = image
        return {
            "pixel_values": pixels,
            "sizes": torch.tensor([[s[1], s[2]] for s in shapes]),
            "scale": torch.tensor([factor for _, factor in features], dtype=torch.float32),
        }
