"""Medical images in the containers that people have, told apart by content."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from domains.medical.formats.dicom import is_bare_dataset, is_dicom, open_dicom
from domains.medical.formats.limits import KNOWN, Limits
from domains.medical.formats.nifti import GZIP, Volume, is_nifti, read_nifti, unpacked_head
from domains.medical.formats.pictures import format_of, read_picture
from domains.medical.formats.series import (
    Series,
    archive_files,
    assemble,
    folder_files,
    grouped,
    series_of,
    slice_paths,
)
from domains.medical.geometry import canonical, describe, spacing_of
from domains.medical.image import MedicalImage
from domains.medical.levels import level_doubts
from domains.medical.plain import FORM, parse_plain
from hub.doubts import Doubt
from hub.errors import InvalidInput, UnsupportedFormat
from hub.reading import Reader, Sample, Source, Span

HOUNSFIELD = ((-3_100.0, -900.0), (300.0, 32_768.0))
"""Where the lowest and the highest value of a CT volume lie: air, and bone or more."""
MOST_CLASSES = 6
"""Different whole numbers up to which a volume is taken for a mask; images hold hundreds."""
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_OTHERS = {
    b"NRRD": "NRRD",
    b"ObjectType": "MetaImage (.mha, .mhd)",
    b"\x89HDF": "HDF5",
    b"%PDF": "PDF",
    b"\0\0\0\x0cjP": "JPEG 2000 outside DICOM",
    b"MINC": "MINC",
}


@dataclass
class MedicalReader(Reader):
    """DICOM files, folders and archives, NIfTI volumes, and pictures to `MedicalImage` samples.

    One picture, one slice, one series or one volume is one sample, in one orientation. Nothing that identifies a
    patient is kept or repeated.

    Attributes:
        max_bytes: Largest file, folder, or unpacked archive.
        max_pixels: Most pixels of a slice.
        max_voxels: Most values of an image: 1 GiB of float32.
        max_slices: Most slices, frames, or files of a series.
        max_expansion: Largest ratio of decoded to stored bytes.
        min_side: Fewest rows and columns.
    """

    max_bytes: int = 1 << 30
    max_pixels: int = 1 << 26
    max_voxels: int = 1 << 28
    max_slices: int = 4_096
    max_expansion: int = 500
    min_side: int = 8

    plain_form: ClassVar[str] = FORM

    def find(self, folder: Path, suffixes: Collection[str]) -> list[Path]:
        """Return the images below a folder.

        DICOM files are found by content, for many have no suffix. A folder in which several belong to one series is one
        input; files that lie side by side but belong to a series each are inputs of their own.
        """
        slices = slice_paths(folder)
        beside_slices = set(slices)
        found = [f for f in super().find(folder, suffixes) if f not in beside_slices]
        for parent, group in itertools.groupby(slices, lambda path: path.parent):
            beside = list(group)
            series = [series_of(path) for path in beside]
            found += [parent] if len(set(series)) < len(series) else beside
        return sorted(found)

    def read(self, source: Source, span: Span | None = None) -> Iterator[Sample]:
        """Yield the image of a file, or the image of each series of a folder or an archive; see `Reader.read`."""
        try:
            if span is not None:
                raise InvalidInput("an image has no time axis to cut a span from", code="no_time_axis")
            yield from self._read(source)
        except InvalidInput as error:
            raise error.at(source.name) from None

    def parse(self, value: Any, name: str = "input") -> Iterator[Sample]:
        """Yield the image of ``{"rows": [[...], ...]}``; see ``plain_form``.

        Raises:
            InvalidInput: The value has another form.
        """
        try:
            image = parse_plain(value, self.bounds())
            yield _sample(image, {}, [])
        except InvalidInput as error:
            raise error.at(name) from None

    def bounds(self) -> Limits:
        """Return the limits as the formats take them."""
        names = ("max_bytes", "max_pixels", "max_voxels", "max_slices", "max_expansion", "min_side")
        return Limits(**{name: getattr(self, name) for name in names})

    def _read(self, source: Source) -> Iterator[Sample]:
        limits = self.bounds()
        if source.path is not None and source.path.is_dir():
            yield from _series(grouped(folder_files(source.path, limits), limits, "folder"))
            return
        limits.check_bytes(source.size)
        head = source.head(1024)
        if is_dicom(head):
            with source.open() as stream:
                yield _of_series(assemble([open_dicom(stream.read(), limits)], limits))
        elif head.startswith(_ZIP):
            yield from _series(grouped(archive_files(source, limits), limits, "ZIP archive"))
        elif (kind := format_of(head)) is not None:
            picture = read_picture(source, kind, limits)
            image = MedicalImage(picture.values[:, np.newaxis])
            yield _sample(image, {"bits": picture.bits}, picture.warnings)
        elif is_nifti(unpacked := unpacked_head(source)):
            yield _of_volume(read_nifti(source, limits))
        else:
            raise _unknown(head, unpacked)


def _series(found: Iterator[tuple[str, Series | InvalidInput]]) -> Iterator[Sample]:
    """Yield a sample for each series; where none can be used, raise the first one's error instead."""
    failed: list[tuple[str, InvalidInput]] = []
    used = 0
    for key, series in found:
        try:
            if isinstance(series, InvalidInput):
                raise series
            sample = _of_series(series, key)
        except InvalidInput as error:
            failed.append((key, error))
            continue
        used += 1
        yield sample
    if not used:
        key, error = failed[0]
        if len(failed) > 1:
            error.message = f"none of {len(failed)} series can be used; the first: {error.message}"
        raise error
    for key, error in failed:
        yield Sample(data=None, key=key, error=error)


def _of_series(series: Series, key: str = "") -> Sample:
    values, affine, axis = series.values, series.affine, 0
    facts: dict[str, Any] = {"bits": series.bits, "transfer_syntax": series.syntax}
    spacing = series.spacing
    if affine is not None:
        facts["orientation"] = describe(affine)
        values, affine, axis = canonical(values, affine)
        spacing = spacing_of(affine)
    image = MedicalImage(values, affine, spacing, series.modality, axis, series.window)
    return _sample(image, facts, series.warnings, key)


def _of_volume(volume: Volume) -> Sample:
    values = volume.values[np.newaxis]
    _check_not_labels(values)
    doubts = list(volume.warnings)
    facts: dict[str, Any] = {"bits": 8 * volume.stored.dtype.itemsize}
    if volume.oriented:
        facts["orientation"] = describe(volume.affine, volume.slice_axis)
    turned, affine, axis = canonical(values, volume.affine, volume.slice_axis)
    modality = ""
    low, high = float(turned.min()), float(turned.max())
    if HOUNSFIELD[0][0] <= low <= HOUNSFIELD[0][1] and HOUNSFIELD[1][0] <= high <= HOUNSFIELD[1][1]:
        modality = "CT"
        text = f"Values from {low:.0f} to {high:.0f}: taken as Hounsfield units of a CT, as NIfTI cannot say so."
        doubts.append(Doubt(text, "scale_assumed"))
    image = MedicalImage(turned, affine if volume.oriented else None, spacing_of(affine), modality, axis)
    return _sample(image, facts, doubts)


def _sample(image: MedicalImage, facts: Mapping[str, Any], warnings: Collection[str], key: str = "") -> Sample:
    """Check an image's values, and wrap it with what is safe to tell of it."""
    _check_values(image.values)
    channels, slices, rows, columns = image.values.shape
    told: dict[str, Any] = {"slices": slices, "rows": rows, "columns": columns, "channels": channels}
    if image.modality:
        told["modality"] = image.modality
    if image.spacing is not None:
        told["spacing_mm"] = [round(n, 4) for n in image.spacing]
    if image.window is not None:
        told["window"] = [round(n, 4) for n in image.window]
    return Sample(data=image, key=key, warnings=(*warnings, *level_doubts(image)), metadata={**told, **facts})


def _check_values(values: NDArray[np.float32]) -> None:
    low, high = values.min(), values.max()  # NaN where there is one
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = np.count_nonzero(~np.isfinite(values))
        raise InvalidInput(
            f"{bad:,} of {values.size:,} values are NaN, infinite or too large for float32; give numbers",
            code="not_finite",
        )
    if low == high:
        raise InvalidInput("every pixel has the same value: there is nothing in the image", code="constant")


def _check_not_labels(values: NDArray[np.float32]) -> None:
    """Raise UnsupportedFormat for the classes of a mask, which are often sent in place of their image."""
    for look in (values[:, ::3, ::3, ::3], values):  # the first settles it for every real image
        classes = np.unique(look)
        if not 1 < len(classes) <= MOST_CLASSES or (classes != np.round(classes)).any():
            return
    raise UnsupportedFormat(
        f"the volume holds the whole numbers {', '.join(f'{n:g}' for n in classes)} and no others: it is a mask of "
        "classes and not an image",
        code="label_map",
    )


def _unknown(head: bytes, unpacked: bytes) -> UnsupportedFormat:
    """Return the error for content that is not read here, as exact as its first bytes allow."""
    if is_bare_dataset(head):
        return UnsupportedFormat(
            "a DICOM data set without preamble and file meta information: its encoding is not known; save it as a "
            "DICOM file (PS3.10)",
            code="no_meta",
        )
    if head.startswith(GZIP):
        what = "is damaged" if not unpacked else "holds DICOM; unpack it" if is_dicom(unpacked) else "holds no NIfTI"
        return UnsupportedFormat(f"a gzip stream that {what}; {KNOWN} are read")
    name = next((name for magic, name in _OTHERS.items() if head.startswith(magic)), None)
    if name is not None:
        return UnsupportedFormat(f"{name} is not read; {KNOWN} are")
    return UnsupportedFormat(f"the content is no medical image that is known here: {KNOWN} are read")
