"""One DICOM file: what it is, judged by the few elements that are read of it, and its slices' places.

Of the data set only the elements of ``ELEMENTS`` are read. None of them names a patient, a person, an institution or a
date, so nothing of that kind can be repeated anywhere. What pydicom raises or warns of quotes values, and is never
passed on.
"""

from __future__ import annotations

import hashlib
import io
import zlib
from dataclasses import dataclass, field

import pydicom
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, RTDoseStorage, SegmentationStorage, UID_dictionary

from domains.medical.formats.elements import numbers, plane, reworded
from domains.medical.formats.limits import Limits
from domains.medical.formats.quiet import quietly
from domains.medical.geometry import Plane
from hub.errors import InvalidInput, UnsupportedFormat

MAGIC_AT = 128
MAGIC = b"DICM"
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
ELEMENTS = (
    *("SOPClassUID", "SeriesInstanceUID", "Modality", "BurnedInAnnotation"),
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "WindowCenter", "WindowWidth"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *(
        f"{colour}PaletteColorLookupTable{part}"
        for colour in ("Red", "Green", "Blue")
        for part in ("Descriptor", "Data")
    ),
    *(f"Segmented{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
    *PIXELS,
)
"""Keywords of everything that is read from a data set."""
MODALITIES = frozenset(
    "BI CR CT DG DX ES GM IO IVOCT IVUS LS MG MR NM OCT OP OPM OPT OPTBSV OPTENF OT PT PX RF RG SC SM TG US VL XA "
    "XC".split()
)
"""Codes of images (PS3.3, C.7.3.1.1.1); any other word in their place is not repeated."""
NO_IMAGES = {
    "SEG": "a segmentation, the mask of an image",
    "RTDOSE": "a radiotherapy dose grid",
    "RTPLAN": "a radiotherapy plan",
    "RTSTRUCT": "a radiotherapy structure set",
    "SR": "a structured report",
    "KO": "a key object selection",
    "PR": "a presentation state",
    "REG": "a registration",
    "ECG": "a waveform",
    "HD": "a waveform",
    "DOC": "a document",
}
NO_IMAGE_CLASSES = {SegmentationStorage: "SEG", RTDoseStorage: "RTDOSE"}
"""Classes of objects that hold pixels and are no images, whatever they state as their modality."""
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"
_BLOCK = 1 << 22


@dataclass(frozen=True)
class Grid:
    """What the slices of one image share.

    Attributes:
        rows: Of a slice.
        columns: Of a slice.
        channels: 1 for grey, 3 for colour, a palette's too.
        bits: Stored bits of a sample.
        photometric: Photometric interpretation as the file states it.
        modality: DICOM's code, or nothing.
    """

    rows: int
    columns: int
    channels: int
    bits: int
    photometric: str
    modality: str


@dataclass(frozen=True)
class DicomFile:
    """One file, its pixels still encoded.

    Attributes:
        dataset: Its elements, those of ``ELEMENTS`` alone.
        syntax: Transfer syntax.
        series: Short hash of the series' UID, which itself would identify the patient; empty when there is none.
        grid: What its frames share.
        planes: Where each frame lies.
        burned_in: Whether the header says that text is part of the pixels.
    """

    dataset: Dataset = field(repr=False)
    syntax: UID
    series: str
    grid: Grid
    planes: tuple[Plane, ...] = field(repr=False)
    burned_in: bool

    @property
    def frames(self) -> int:
        """How many slices the file holds."""
        return len(self.planes)


def is_dicom(head: bytes) -> bool:
    """Tell a DICOM file by its first 132 bytes."""
    return head[MAGIC_AT : MAGIC_AT + 4] == MAGIC


def is_bare_dataset(head: bytes) -> bool:
    """Tell a data set without preamble and file meta information, which DICOM's network protocol sends."""
    return head[:2] in (b"\x02\0", b"\x08\0") and head[3:4] == b"\0" and head[2:3] < b"\x20"


@quietly()
def open_dicom(content: bytes, limits: Limits) -> DicomFile:
    """Read the header of a file and hold it against its size; pixels are left encoded.

    Raises:
        UnsupportedFormat: It is no image, or in an encoding that cannot be decoded here.
        TooLarge: The header announces more than the limits allow.
        InvalidInput: It is damaged, or its header contradicts itself.
    """
    with reworded("the DICOM file is damaged: its elements cannot be read to their end"):
        _check_deflated(content, limits)
        dataset = pydicom.dcmread(io.BytesIO(content), specific_tags=list(ELEMENTS))
        syntax = UID(str(getattr(dataset.file_meta, "TransferSyntaxUID", "")))
        sop_class = UID(str(dataset.get("SOPClassUID", "") or dataset.file_meta.get("MediaStorageSOPClassUID", "")))
        modality = str(dataset.get("Modality", "") or "").strip()
        pixels = [keyword for keyword in PIXELS if keyword in dataset]
    if not syntax:
        raise InvalidInput("the DICOM file names no transfer syntax: its encoding is not known", code="no_syntax")
    if UID_dictionary.get(syntax, ("", ""))[1] != "Transfer Syntax":
        raise UnsupportedFormat(
            "the transfer syntax is private or unknown; save the image uncompressed", code="transfer_syntax"
        )
    _check_is_image(sop_class, modality, bool(pixels))
    grid = _grid(dataset, modality if modality in MODALITIES else "")
    frames = _count(dataset, "NumberOfFrames", 1)
    limits.check_shape(grid.channels, frames, grid.rows, grid.columns)
    _check_length(dataset, pixels[0], syntax, grid, frames, limits)
    with reworded("the DICOM file is damaged: its elements cannot be read"):
        series = str(dataset.get("SeriesInstanceUID", "") or "")
        burned_in = str(dataset.get("BurnedInAnnotation", "") or "").strip() == "YES"
    return DicomFile(
        dataset,
        syntax,
        hashlib.sha256(series.encode()).hexdigest()[:8] if series else "",
        grid,
        tuple(plane(dataset, frame) for frame in range(frames)),
        burned_in,
    )


def syntax_name(syntax: UID) -> str:
    """Return the standard's name of a transfer syntax."""
    return str(syntax.name)


def _check_deflated(content: bytes, limits: Limits) -> None:
    """Inflate a data set without keeping it, because pydicom inflates whatever there is at once."""
    with io.BytesIO(content) as stream:
        stream.seek(MAGIC_AT + len(MAGIC))
        meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
        if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
            return
        inflater, size, rest = zlib.decompressobj(-zlib.MAX_WBITS), 0, stream.read()
    while rest and not inflater.eof:
        size += len(inflater.decompress(rest, _BLOCK))
        rest = inflater.unconsumed_tail
        limits.check_bytes(size)
        limits.check_expansion(size, len(content))


def _check_is_image(sop_class: UID, modality: str, pixels: bool) -> None:
    modality = NO_IMAGE_CLASSES.get(sop_class, modality)
    what = NO_IMAGES.get(modality)
    name = str(sop_class.name) if sop_class in UID_dictionary else ""
    if sop_class == MEDIA_DIRECTORY:
        raise UnsupportedFormat("a DICOMDIR, which only lists files; give the folder of the images", code="no_image")
    if what is not None:
        raise UnsupportedFormat(f"a DICOM file, but {what} ({modality}) and no image", code="no_image")
    if not pixels:
        described = f"of the class {name!r} " if name else ""
        raise UnsupportedFormat(f"a DICOM file {described}without pixels; give an image", code="no_pixels")


def _count(dataset: Dataset, keyword: str, default: int | None = None) -> int:
    found = numbers(dataset, keyword, 1)
    if found is None:
        if default is None:
            raise InvalidInput(f"the element {keyword} is missing; an image has it", code="bad_element")
        return default
    if found[0] != int(found[0]) or found[0] < 0:
        raise InvalidInput(f"the element {keyword} is not a whole number", code="bad_element")
    return int(found[0])


def _grid(dataset: Dataset, modality: str) -> Grid:
    with reworded("the element PhotometricInterpretation cannot be read", code="bad_element"):
        photometric = str(dataset.get("PhotometricInterpretation", "") or "").strip()
    samples = _count(dataset, "SamplesPerPixel", 1)
    grey = photometric in ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
    colour = photometric in COLOURS
    if not (grey and samples == 1) and not (colour and samples == 3):
        known = photometric if grey or colour else "something unknown"
        raise UnsupportedFormat(
            f"{samples} samples a pixel of which the photometric interpretation is {known}; grey, palette, RGB and YBR "
            "images are read",
            code="bad_photometric",
        )
    allocated = _count(dataset, "BitsAllocated")
    stored = _count(dataset, "BitsStored", allocated)
    if allocated not in (8, 16, 32, 64) or not 1 <= stored <= allocated:
        raise UnsupportedFormat(
            f"{stored} bits stored in {allocated} allocated; images of 8, 16 or 32 bits are read", code="bad_bits"
        )
    channels = 3 if colour or photometric.startswith("PALETTE") else 1
    return Grid(_count(dataset, "Rows"), _count(dataset, "Columns"), channels, stored, photometric, modality)


def _check_length(dataset: Dataset, keyword: str, syntax: UID, grid: Grid, frames: int, limits: Limits) -> None:
    """Hold the encoded bytes against what Rows, Columns and the rest announce."""
    with reworded("the pixel data cannot be read"):
        there = len(dataset[keyword].value or b"")
    samples = _count(dataset, "SamplesPerPixel", 1)
    announced = frames * grid.rows * grid.columns * samples * (_count(dataset, "BitsAllocated") // 8)
    if there == 0:
        raise InvalidInput("the pixel data are empty", code="no_pixels")
    if syntax.is_encapsulated:
        limits.check_expansion(announced, there)
        return
    if grid.photometric == "YBR_FULL_422":  # two of three samples are shared by two pixels
        announced = announced * 2 // 3
    if there < announced:
        raise InvalidInput(
            f"{announced:,} bytes of pixels are announced by Rows, Columns and the rest, {there:,} are there: the file "
            "is cut off, or its header is wrong",
            code="truncated",
        )
    if there >= announced + max(2, announced // frames):
        raise InvalidInput(
            f"{announced:,} bytes of pixels are announced by Rows, Columns and the rest, but {there:,} are there: the "
            "header is wrong",
            code="bad_length",
        )
