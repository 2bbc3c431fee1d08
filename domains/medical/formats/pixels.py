"""Encoded pixels of DICOM frames to values: decoded, in colour or grey, rescaled."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.encaps import generate_frames
from pydicom.pixels import apply_color_lut, apply_modality_lut, get_decoder
from pydicom.pixels.decoders.base import Decoder
from pydicom.uid import UID, JPEG2000TransferSyntaxes, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGTransferSyntaxes

from domains.medical.formats.dicom import DicomFile, Grid, syntax_name
from domains.medical.formats.elements import groups, of_frame, reworded
from hub.errors import InvalidInput, UnsupportedFormat

TRANSFORMATION = "PixelValueTransformationSequence"
_OWN_SIZE = (*JPEG2000TransferSyntaxes, *JPEGTransferSyntaxes)
"""Syntaxes whose frames announce a size of their own."""
_EIGHT_BIT = (JPEGBaseline8Bit, JPEGExtended12Bit)
"""Syntaxes of which Pillow decodes 8 bits alone."""


def decoder_of(file: DicomFile) -> Decoder:
    """Return what decodes a file's pixels.

    Raises:
        UnsupportedFormat: Nothing that is installed does; the text names the transfer syntax.
    """
    name = syntax_name(file.syntax)
    try:
        decoder = get_decoder(UID(file.syntax))
    except NotImplementedError:
        decoder = None
    if decoder is None or not decoder.is_available or (file.syntax in _EIGHT_BIT and file.grid.bits > 8):
        raise UnsupportedFormat(
            f"the pixels are encoded as {name} with {file.grid.bits} bits, which cannot be decoded here; save the "
            "image uncompressed, or as RLE, JPEG 2000 or 8-bit JPEG",
            code="transfer_syntax",
        )
    return decoder


def values_of(files: Sequence[DicomFile], order: Sequence[tuple[int, int]]) -> NDArray[np.float32]:
    """Return the values of frames, ``(channels, slices, rows, columns)``.

    Grey values are those of the modality: rescaled (Hounsfield units for CT); MONOCHROME1 is not inverted here. Colour
    is 0 to 1.

    Args:
        files: All of one grid.
        order: For each slice, which file and which of its frames; every frame once.

    Raises:
        UnsupportedFormat: The pixels cannot be decoded here.
        InvalidInput: They are damaged, or a CT does not say how they become Hounsfield units.
    """
    grid = files[0].grid
    values = np.empty((grid.channels, len(order), grid.rows, grid.columns), np.float32)
    places = {frame: place for place, frame in enumerate(order)}
    for number, file in enumerate(files):
        for frame, stored in enumerate(_decoded(file, decoder_of(file))):
            place = places[number, frame]
            if grid.channels == 3:
                values[:, place] = np.moveaxis(_colours(file, stored), -1, 0)
            else:
                values[0, place] = _rescaled(file, frame, stored)
    return values


def _decoded(file: DicomFile, decoder: Decoder) -> NDArray[np.generic]:
    """Return all frames as they are stored, ``(frames, rows, columns)`` or ``(frames, rows, columns, 3)`` RGB."""
    grid = file.grid
    with reworded(f"the pixels are damaged: they cannot be decoded as {syntax_name(file.syntax)}"):
        if file.syntax in _OWN_SIZE:
            for encoded in generate_frames(file.dataset.PixelData, number_of_frames=file.frames):
                _check_size(encoded, grid)
        # All at once: pydicom looks for each single frame from the start, and its iterator fails on signs to correct.
        stored, _ = decoder.as_array(file.dataset, raw=False)
        return stored.reshape(file.frames, grid.rows, grid.columns, *stored.shape[3 - (file.frames == 1) :])


def _check_size(encoded: bytes, grid: Grid) -> None:
    """Hold what a JPEG or JPEG 2000 stream announces by itself against the header, before it is decoded."""
    with Image.open(io.BytesIO(encoded), formats=["JPEG", "JPEG2000"]) as picture:
        if picture.size != (grid.columns, grid.rows):
            raise InvalidInput(
                f"the frame itself has {picture.size[1]} x {picture.size[0]} pixels, where the header announces "
                f"{grid.rows} x {grid.columns}",
                code="bad_length",
            )


def _colours(file: DicomFile, stored: NDArray[np.generic]) -> NDArray[np.float32]:
    """Return ``(rows, columns, 3)``, 0 to 1."""
    if stored.ndim == 3:
        return stored.astype(np.float32) / np.float32(2**file.grid.bits - 1)
    with reworded("the palette of the image is damaged"):
        coloured = apply_color_lut(stored, file.dataset)[..., :3]
    return coloured.astype(np.float32) / np.float32(np.iinfo(coloured.dtype).max)


def _rescaled(file: DicomFile, frame: int, stored: NDArray[np.generic]) -> NDArray[np.float32]:
    if file.dataset.get("ModalityLUTSequence"):
        with reworded("the modality look-up table is damaged"):
            return np.asarray(apply_modality_lut(stored, file.dataset), np.float32)
    slope = of_frame(file.dataset, frame, TRANSFORMATION, "RescaleSlope", 1)
    intercept = of_frame(file.dataset, frame, TRANSFORMATION, "RescaleIntercept", 1)
    if file.grid.modality == "CT" and (slope is None or intercept is None):
        raise InvalidInput(
            "a CT without RescaleSlope and RescaleIntercept: how its pixels become Hounsfield units is not known",
            code="no_rescale",
        )
    if slope is not None and slope[0] == 0:
        raise InvalidInput("RescaleSlope is 0: every pixel would have the same value", code="bad_scale")
    with np.errstate(over="ignore", invalid="ignore"):
        values = stored.astype(np.float32)
        if slope is not None:
            values *= np.float32(slope[0])
        if intercept is not None:
            values += np.float32(intercept[0])
    return values


def window_of(file: DicomFile, frame: int) -> tuple[float, float] | None:
    """Return centre and width of the first window that the file names for a frame, if it can be used."""
    found: list[float] = []
    for keyword in ("WindowCenter", "WindowWidth"):
        with reworded(f"the element {keyword} does not hold numbers", code="bad_element"):
            value = _element(file, frame, keyword)
            several = np.iterable(value) and not isinstance(value, str)
            found.append(float(value[0] if several else value) if value is not None else float("nan"))
    centre, width = found
    return (centre, width) if np.isfinite(found).all() and width > 0 else None


def _element(file: DicomFile, frame: int, keyword: str) -> Any:
    for group in groups(file.dataset, frame):
        macro = group.get("FrameVOILUTSequence")
        if macro and keyword in macro[0]:
            return macro[0][keyword].value or None
    return file.dataset.get(keyword) or None
