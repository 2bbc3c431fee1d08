"""SAR images in the containers that people have, told apart by content."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from domains.sar.formats.gdal import QUICKLOOKS, driver_of, envi_pair, read_gdal
from domains.sar.formats.hdf5 import MAGIC as HDF5_MAGIC
from domains.sar.formats.hdf5 import read_hdf5
from domains.sar.formats.limits import KNOWN, Limits
from domains.sar.formats.numpy_files import MAGIC as NPY_MAGIC
from domains.sar.formats.numpy_files import read_npy
from domains.sar.formats.safe import is_safe, is_tops, key_of, measurements
from domains.sar.raster import ArrayPixels, Raster
from domains.sar.survey import Survey, survey
from hub.doubts import Doubt
from hub.errors import InvalidInput, UnsupportedFormat
from hub.reading import Reader, Sample, Source, Span

WHOLE_PIXELS = 1 << 22
"""Pixels up to which an image is decoded at once, and so checked to its last pixel."""
DECIBELS = (-120.0, 60.0)
"""Range outside which negative values are no decibels."""
SENTINELS = (-32768.0, -9999.0, -99.0)
"""Values that producers use for missing pixels without saying so."""
SATURATED = 0.02
"""Share of pixels at the highest value from which on an image is saturated; bright targets are fewer."""
_ZIP = b"PK\x03\x04"


@dataclass
class RasterReader(Reader):
    """GeoTIFF, COSAR, NITF, SAFE, HDF5, ENVI, ``.npy`` and grey chips to `Raster` samples.

    An image above ``WHOLE_PIXELS`` stays in its file and is read by windows; a look at some of them stands for all.

    Attributes:
        max_bytes: Largest file.
        max_pixels: Most pixels of a band, whatever a header announces.
        max_bands: Most bands.
        max_expansion: Largest ratio of decoded to stored bytes.
        min_valid: Smallest share of pixels that hold data.
    """

    max_bytes: int = 1 << 33
    max_pixels: int = 1 << 27
    max_bands: int = 16
    max_expansion: int = 1_000
    min_valid: float = 0.05

    plain_form: ClassVar[str] = (
        'rows of a complex image, {"real": [[...], ...], "imaginary": [[...], ...]}, '
        'or of a detected one, {"amplitude": [[...], ...]}'
    )

    def find(self, folder: Path, suffixes: Collection[str]) -> list[Path]:
        """Return the images below a folder; a SAFE folder is one input, and nothing below it another."""
        scenes = [p.parent for p in sorted(folder.rglob("measurement")) if is_safe(p.parent)]
        inside = set(scenes)
        files = [f for f in super().find(folder, suffixes) if not inside & set(f.parents)]
        return sorted([*files, *scenes])

    def read(self, source: Source, span: Span | None = None) -> Iterator[Sample]:
        """Yield the image of a file, or the images of a SAFE folder or an HDF5 file; see `Reader.read`."""
        try:
            if span is not None:
                raise InvalidInput("an image has no time axis to cut a span from", code="no_time_axis")
            yield from self._read(source)
        except InvalidInput as error:
            raise error.at(source.name) from None

    def parse(self, value: Any, name: str = "input") -> Iterator[Sample]:
        """Yield the image of ``{"real": rows, "imaginary": rows}`` or ``{"amplitude": rows}``.

        Raises:
            InvalidInput: The value has another form, or its rows differ in length.
        """
        try:
            yield self._sample("", self._parsed(value), ())
        except InvalidInput as error:
            raise error.at(name) from None

    def _parsed(self, value: Any) -> Raster:
        wanted = f"expected {self.plain_form}"
        if not isinstance(value, Mapping) or set(value) not in ({"real", "imaginary"}, {"amplitude"}):
            raise InvalidInput(wanted, code="bad_form")
        try:
            parts = [np.array(value[key], dtype=np.float32) for key in sorted(value)]
        except (ValueError, TypeError, OverflowError):
            raise InvalidInput(f"rows of numbers, all of one length, are needed; {wanted}", code="bad_form") from None
        if any(part.ndim != 2 or part.shape != parts[0].shape for part in parts):
            raise InvalidInput(f"two-dimensional rows of one shape are needed; {wanted}", code="bad_form")
        self._limits().check_shape(1, *parts[0].shape)
        if len(parts) == 1:
            return Raster.from_array(parts[0])
        imaginary, real = parts
        return Raster.from_array(real + 1j * imaginary)

    def _limits(self) -> Limits:
        return Limits(self.max_bytes, self.max_pixels, self.max_bands, self.max_expansion)

    def _read(self, source: Source) -> Iterator[Sample]:
        if source.path is not None and source.path.is_dir():
            if not is_safe(source.path):
                raise UnsupportedFormat("a folder, but no Sentinel-1 SAFE folder: it holds no folder 'measurement'")
            for key, file in measurements(source.path):
                for sample in self._read(file):
                    yield dataclasses.replace(sample, key=key)
            return
        limits, size = self._limits(), source.size
        limits.check_file(size)
        head = source.head(64)
        driver = driver_of(head)
        warnings: list[str] = []
        if driver is not None:
            raster = read_gdal(source, driver, limits)
            if driver in QUICKLOOKS:
                text = "An 8-bit grey picture: its values are taken as amplitude of unknown scale."
                warnings.append(Doubt(text, "scale_assumed"))
            if is_tops(source.name):
                text = (
                    "A TOPS swath: its bursts lie below one another with black seams, and their Doppler centroid moves "
                    "along azimuth; deramped single bursts give better results."
                )
                warnings.append(Doubt(text, "geometry"))
            yield self._sample(key_of(source.name), raster, warnings)
        elif head.startswith(NPY_MAGIC):
            yield self._sample("", read_npy(source, limits), warnings)
        elif head.startswith(HDF5_MAGIC):
            for group, raster in read_hdf5(source, limits):
                yield self._sample(group, raster, warnings)
        elif (data := envi_pair(source.path, head)) is not None:
            yield self._sample("", read_gdal(Source.from_path(data, source.name), "ENVI", limits), warnings)
        else:
            raise UnsupportedFormat(_why_not(head))

    def _sample(self, key: str, raster: Raster, warnings: Collection[str]) -> Sample:
        """Check an image, settle what its values are, and wrap it."""
        bands, rows, columns = raster.shape
        if bands * rows * columns <= WHOLE_PIXELS and not raster.in_memory:
            raster = dataclasses.replace(raster, pixels=ArrayPixels(raster.values))
        raster, doubts = _settled(raster)
        found = survey(raster.band(0))
        self._check(raster, found)
        if found.valid < 0.99:
            text = f"{1 - found.valid:.0%} of the pixels hold no data; they are left out."
            doubts.append(Doubt(text, "missing_data"))
        if raster.in_memory and raster.quantity != "complex":
            share = float((raster.values == np.float32(found.high)).mean())
            if share >= SATURATED:
                doubts.append(Doubt(f"{share:.0%} of the pixels have the highest value: saturated.", "clipped"))
        facts = {
            "rows": rows,
            "columns": columns,
            "bands": list(raster.names) if any(raster.names) else bands,
            "quantity": raster.quantity,
            "calibration": raster.calibration,
            "georeferenced": raster.georeference is not None,
            "rms_amplitude": round(found.rms, 6),
        }
        return Sample(data=raster, key=key, warnings=(*warnings, *doubts), metadata=facts)

    def _check(self, raster: Raster, found: Survey) -> None:
        if not found.finite and raster.quantity == "complex":
            raise InvalidInput(
                "there are NaN or infinite pixels, and one of them spoils every spectrum it is in; mark missing pixels "
                "with zeros or a no-data value",
                code="not_finite",
            )
        if found.high <= found.low:
            raise InvalidInput("every pixel has the same value: there is nothing in the image", code="constant")
        if found.valid < self.min_valid:
            raise InvalidInput(
                f"only {found.valid:.1%} of the pixels hold data; at least {self.min_valid:.0%} are needed",
                code="no_data",
            )


def _settled(raster: Raster) -> tuple[Raster, list[str]]:
    """Return a real image with what its values are and which of them mean nothing, from a look at them."""
    doubts: list[str] = []
    if raster.quantity == "complex":
        return raster, doubts
    _, rows, columns = raster.shape
    # A third of a mebipixel tells decibels from amplitudes.
    step = max(1, int(np.sqrt(rows * columns / 350_000)))
    if raster.in_memory:
        values = raster.values[:, ::step, ::step]
    else:
        values = raster.read(slice(rows // 2, rows // 2 + 600), slice(columns // 2, columns // 2 + 600))
    finite = values[np.isfinite(values)]
    if raster.nodata is None:
        marked = next((s for s in SENTINELS if np.count_nonzero(finite == s) > 1), None)
        if marked is not None:
            text = f"Pixels of {marked:g} are taken as missing, although the file does not say so."
            doubts.append(Doubt(text, "missing_data"))
            raster = dataclasses.replace(raster, nodata=marked)
    finite = finite[finite != raster.nodata] if raster.nodata is not None else finite
    if not finite.size or finite.min() >= 0:
        return raster, doubts
    if raster.quantity == "decibel":
        return raster, doubts
    if raster.quantity == "intensity" or finite.min() < DECIBELS[0] or finite.max() > DECIBELS[1]:
        raise InvalidInput(
            f"values from {finite.min():.4g} to {finite.max():.4g}: neither amplitudes, which are not negative, nor "
            "decibels; complex data need both parts",
            code="bad_values",
        )
    doubts.append(Doubt("Negative values: taken as decibels.", "scale_assumed"))
    return dataclasses.replace(raster, quantity="decibel", calibration="decibels, as the file has them"), doubts


def _why_not(head: bytes) -> str:
    if head.startswith(b"<VRT"):
        return "a VRT only points at other files; give the file that it points at"
    if head.startswith(_ZIP):
        return "a ZIP archive; unpack it and give the SAFE folder or the image in it"
    if head.startswith(b"ENVI"):
        return "an ENVI header without its image: give both files on disk, side by side"
    return f"not a SAR image that is read here: {KNOWN}"
