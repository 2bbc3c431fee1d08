"""Files of DICOM to images: one file, or the series of a folder or an archive."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray

from domains.medical.formats.dicom import MAGIC_AT, DicomFile, is_dicom, open_dicom, syntax_name
from domains.medical.formats.limits import Limits
from domains.medical.formats.pixels import values_of, window_of
from domains.medical.formats.quiet import quietly
from domains.medical.geometry import stack
from hub.archives import DAMAGE, check_members
from hub.doubts import Doubt
from hub.errors import InvalidInput, TooLarge, UnsupportedFormat
from hub.reading import Source

HEAD = MAGIC_AT + 4


@dataclass(frozen=True)
class Series:
    """The slices of one image in order, in their own orientation.

    Attributes:
        values: ``(channels, slices, rows, columns)`` float32.
        affine: From (slice, row, column) to ``RAS+`` millimetres, or ``None``.
        spacing: Between slices, rows and columns, or ``None``.
        modality: DICOM's code, or nothing.
        window: Centre and width in the units of the values, or ``None``.
        bits: Stored bits of a sample.
        syntax: Name of the transfer syntax.
        warnings: What a user should know, one sentence each.
    """

    values: NDArray[np.float32] = field(repr=False)
    affine: NDArray[np.float64] | None
    spacing: tuple[float, float, float] | None
    modality: str
    window: tuple[float, float] | None
    bits: int
    syntax: str
    warnings: tuple[str, ...] = ()


@quietly()
def assemble(files: Sequence[DicomFile], limits: Limits) -> Series:
    """Put the frames of one series in order and decode them.

    Raises:
        UnsupportedFormat: The pixels cannot be decoded here.
        TooLarge: All slices together exceed the limits.
        InvalidInput: The files do not fit together, or lie in the patient in a way that makes no volume.
    """
    first = files[0]
    sizes = {(f.grid.rows, f.grid.columns) for f in files}
    if len(sizes) > 1:
        described = ", ".join(f"{rows} x {columns}" for rows, columns in sorted(sizes)[:4])
        raise InvalidInput(f"the slices of the series differ in size ({described})", code="mixed_size")
    if len({(f.grid.channels, f.grid.modality, f.grid.photometric == "MONOCHROME1") for f in files}) > 1:
        raise InvalidInput("the files of the series differ in modality or in colour", code="mixed_kind")
    frames = [(number, frame) for number, file in enumerate(files) for frame in range(file.frames)]
    limits.check_shape(first.grid.channels, len(frames), first.grid.rows, first.grid.columns)
    planes = [files[number].planes[frame] for number, frame in frames]
    if len(files) > 1 and not any(p.placed for p in planes):
        raise InvalidInput(
            f"{len(files)} files of one series without positions in the patient: they are no volume; give them one by "
            "one",
            code="no_position",
        )
    stacked = stack(planes)
    order = [frames[place] for place in stacked.order]
    values = values_of(files, order)
    middle = order[len(order) // 2]
    window = window_of(files[middle[0]], middle[1])
    doubts = list(stacked.warnings)
    if first.grid.photometric == "MONOCHROME1":
        window = _invert(values, window)
        text = "MONOCHROME1: the values are inverted within their range, so that bright is high."
        doubts.append(Doubt(text, "inverted"))
    if any(f.burned_in for f in files):
        text = "The header says that text is burned into the pixels; it may name the patient."
        doubts.append(Doubt(text, "identity_risk"))
    syntaxes = sorted({syntax_name(f.syntax) for f in files})
    return Series(
        values,
        stacked.affine,
        stacked.spacing,
        first.grid.modality,
        window if first.grid.channels == 1 else None,
        first.grid.bits,
        ", ".join(syntaxes),
        tuple(doubts),
    )


def _invert(values: NDArray[np.float32], window: tuple[float, float] | None) -> tuple[float, float] | None:
    """Mirror values within their range, in place, and return the window that then shows the same."""
    both = values.min() + values.max()
    np.subtract(both, values, out=values)
    return (float(both) - window[0], window[1]) if window else None


def series_of(path: Path) -> str:
    """Return what files of one series have in common; of a file that cannot be opened, something of its own."""
    try:
        with quietly(), path.open("rb") as stream:
            header = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
            return str(header.get("SeriesInstanceUID", "") or path)
    except Exception:  # the reader will say what is wrong with it
        return str(path)


def folder_files(folder: Path, limits: Limits) -> Iterator[bytes]:
    """Yield the content of each DICOM file in a folder, or below it when there is none in the folder itself.

    Raises:
        TooLarge: There are too many files, or too many bytes.
    """
    below = slice_paths(folder)
    total = 0
    for number, path in enumerate([p for p in below if p.parent == folder] or below, 1):
        total += path.stat().st_size
        _check_growth(number, total, limits, "folder")
        yield path.read_bytes()


def slice_paths(folder: Path) -> list[Path]:
    """Return the DICOM files below a folder, by content, sorted; hidden ones and a DICOMDIR are left out."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.name.upper() != "DICOMDIR"
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and is_dicom(Source(path.name, path).head(HEAD))
    ]


def archive_files(source: Source, limits: Limits) -> Iterator[bytes]:
    """Yield the content of each DICOM file in a ZIP archive; nothing is written, and no name in it is used.

    Raises:
        TooLarge: There are too many files, or too many bytes, or far more bytes than the archive has.
        InvalidInput: It is damaged or encrypted.
    """
    try:
        with source.open() as stream, zipfile.ZipFile(stream) as archive:
            members = [m for m in archive.infolist() if not m.is_dir() and not _is_hidden(m.filename)]
            check_members(members)
            _check_growth(len(members), sum(m.file_size for m in members), limits, "archive")
            limits.check_expansion(sum(m.file_size for m in members), source.size)
            total = 0
            for member in members:
                with archive.open(member) as part:
                    head = part.read(HEAD)
                    if not is_dicom(head) or member.filename.upper().endswith("DICOMDIR"):
                        continue
                    content = head + part.read(limits.max_bytes - total)
                total += len(content)
                _check_growth(0, total, limits, "archive")
                yield content
    except DAMAGE as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput("the ZIP archive is damaged or encrypted", code="damaged") from None


def _check_growth(count: int, total: int, limits: Limits, what: str) -> None:
    if count > limits.max_slices:
        raise TooLarge(f"the {what} holds more than {limits.max_slices:,} files", code="too_many_files")
    if total > limits.max_bytes:
        raise TooLarge(f"the files of the {what} have more than {limits.max_bytes:,} bytes")


def _is_hidden(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    return "__MACOSX" in parts or parts[-1].startswith(".")


def grouped(contents: Iterator[bytes], limits: Limits, what: str) -> Iterator[tuple[str, Series | InvalidInput]]:
    """Yield each series among files, or why it cannot be used, under a key.

    The key is a short hash of the series' UID, or nothing where there is one series only. A file that cannot be opened
    is a series of its own, named by its number among the DICOM files, in the order of their names.

    Raises:
        UnsupportedFormat: There is no DICOM file at all.
    """
    series: dict[str, list[DicomFile]] = {}
    damaged: list[tuple[str, InvalidInput]] = []
    number = 0
    for number, content in enumerate(contents, 1):
        try:
            file = open_dicom(content, limits)
        except InvalidInput as error:
            damaged.append((f"file-{number}", error))
        else:
            series.setdefault(file.series or f"file-{number}", []).append(file)
    if number == 0:
        raise UnsupportedFormat(
            f"the {what} holds no DICOM file; the slices of one series belong in it", code="no_image"
        )
    if number == 1 and damaged:
        raise damaged[0][1]
    only = len(series) + len(damaged) == 1
    for key in list(series):
        try:
            yield "" if only else key, assemble(series.pop(key), limits)
        except InvalidInput as error:
            yield "" if only else key, error
    yield from damaged
