"""NIfTI-1 and NIfTI-2 volumes in one file, plain or gzipped; the header is judged before a voxel is read."""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from numpy.typing import NDArray

from domains.medical.formats.limits import Limits
from domains.medical.formats.quiet import quietly
from domains.medical.geometry import check_affine, spacing_of
from hub.doubts import Doubt
from hub.errors import InvalidInput, UnsupportedFormat
from hub.reading import Source

GZIP = b"\x1f\x8b"
_SIZES = {348: (Nifti1Header, b"n+1\0", slice(344, 348)), 540: (Nifti2Header, b"n+2\0", slice(4, 8))}
_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
"""NumPy types of the data type codes that are read; the standard's nifti1.h lists them all."""
_OTHER_TYPES = {
    1: "binary",
    32: "complex",
    128: "RGB",
    1536: "float128",
    1792: "complex",
    2048: "complex",
    2304: "RGBA",
}
_MILLIMETRES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
"""In one unit of length, by the lower three bits of ``xyzt_units``."""
COARSE = 1.5
"""Ratio of voxel sizes from which on the longest is taken as the distance of slices."""
LAST_START = 1 << 24
"""Bytes that header and extensions may take before the voxels."""
TAIL = 1 << 20
"""Bytes behind the voxels up to which a gzip stream is followed to its check sum."""
_BLOCK = 1 << 22


@dataclass(frozen=True)
class Volume:
    """What a NIfTI file holds, in its own order.

    Attributes:
        stored: ``(x, y, z)`` of the type in the file.
        slope: To multiply with.
        intercept: To add then.
        affine: ``(4, 4)`` from (x, y, z) indices to ``RAS+`` millimetres; where the header tells no orientation,
            the voxel sizes alone.
        oriented: Whether the header tells the orientation.
        slice_axis: 0, 1 or 2: which axis the slices were acquired along.
        warnings: What a user should know, one sentence each.
    """

    stored: NDArray[np.generic] = field(repr=False)
    slope: float
    intercept: float
    affine: NDArray[np.float64]
    oriented: bool
    slice_axis: int
    warnings: tuple[str, ...] = ()

    @property
    def values(self) -> NDArray[np.float32]:
        """Voxels after slope and intercept, ``(x, y, z)`` float32; too large values become infinite."""
        with np.errstate(over="ignore", invalid="ignore"):
            values = self.stored.astype(np.float32)
            if (self.slope, self.intercept) != (1.0, 0.0):
                values *= np.float32(self.slope)
                values += np.float32(self.intercept)
        return values


def is_nifti(head: bytes) -> bool:
    """Tell by the first 540 bytes, unpacked, whether this is meant to be NIfTI, damaged or not."""
    sizes = {int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big")}
    return bool(sizes & set(_SIZES)) or head[344:347] in (b"n+1", b"ni1") or head[4:7] in (b"n+2", b"ni2")


def unpacked_head(source: Source, size: int = 1024) -> bytes:
    """Return the first bytes of a file, unpacked where it is a gzip stream; what can be had of a damaged one."""
    head = source.head(4096)
    if not head.startswith(GZIP):
        return head[:size]
    try:
        return zlib.decompressobj(wbits=31).decompress(head, size)
    except zlib.error:
        return b""


def read_nifti(source: Source, limits: Limits) -> Volume:
    """Read the volume of a file.

    Raises:
        UnsupportedFormat: Voxels that are no grey values, a pair of two files, or not three dimensions.
        TooLarge: The header announces more than the limits allow.
        InvalidInput: The header contradicts itself, or the file is cut off.
    """
    head = unpacked_head(source)
    header, endian = _header(head)
    shape = _shape(header, limits)
    kind = _type(header, endian)
    start = float(header["vox_offset"])
    if not (header.sizeof_hdr <= start <= LAST_START and start == int(start)):
        raise InvalidInput(
            f"the header puts the voxels at byte {start:g}, where no volume of a NIfTI file begins", code="bad_offset"
        )
    size = math.prod(shape) * kind.itemsize
    limits.check_bytes(size)
    if source.head(2) == GZIP:
        limits.check_expansion(size, source.size)
    data = _content(source, int(start), size)
    stored = np.frombuffer(data, kind).reshape(shape, order="F")
    affine, oriented, warnings = _affine(header)
    slope, intercept = _scale(header)
    return Volume(stored, slope, intercept, affine, oriented, _slice_axis(header, affine), tuple(warnings))


def _header(head: bytes) -> tuple[Any, str]:
    """Return the header, and ``<`` or ``>``."""
    for size, (kind, magic, place) in _SIZES.items():
        for order, endian in (("little", "<"), ("big", ">")):
            if int.from_bytes(head[:4], order) != size:  # type: ignore[arg-type]
                continue
            if len(head) < size:
                raise InvalidInput("the file is cut off within its NIfTI header", code="truncated")
            if head[place][:2] == b"ni":
                raise UnsupportedFormat(
                    "the header of a NIfTI pair (.hdr and .img); give the volume as one file (.nii or .nii.gz)"
                )
            if head[place] != magic:
                raise InvalidInput(
                    f"the header has the size of a NIfTI header but not its magic ({magic[:3].decode()})",
                    code="bad_magic",
                )
            with quietly():
                return kind(head[:size], endianness=endian, check=False), endian
    raise InvalidInput(
        "the header's first field, its own size, is neither 348 (NIfTI-1) nor 540 (NIfTI-2)", code="bad_header"
    )


def _shape(header: Any, limits: Limits) -> tuple[int, int, int]:
    dimensions = [int(d) for d in header["dim"]]
    count, extents = dimensions[0], dimensions[1:]
    if not 1 <= count <= 7:
        raise InvalidInput(f"the header announces {count} dimensions; NIfTI has 1 to 7", code="bad_dimensions")
    used = extents[:count]
    if min(used) < 1:
        raise InvalidInput(
            f"the header announces {' x '.join(map(str, used))} voxels; every extent must be at least 1", code="empty"
        )
    if any(extent > 1 for extent in used[3:]):
        raise UnsupportedFormat(
            f"{count} dimensions ({' x '.join(map(str, used))}): a volume has three; give one time point or channel",
            code="bad_dimensions",
        )
    x, y, z = [*used, 1, 1][:3]
    if min(x, y, z) == 1:
        raise UnsupportedFormat(
            f"{x} x {y} x {z} voxels are one slice or less, and NIfTI is read as a volume; give a slice as DICOM or as "
            "a picture",
            code="no_volume",
        )
    # Which axis is which is not known yet: the shortest may be the slices'.
    limits.check_shape(1, *sorted((x, y, z)))
    return x, y, z


def _type(header: Any, endian: str) -> np.dtype[Any]:
    code = int(header["datatype"])
    if code not in _TYPES:
        name = _OTHER_TYPES.get(code, f"of the unknown type {code}")
        raise UnsupportedFormat(
            f"the voxels are {name}; integers or floating-point numbers are needed", code="bad_type"
        )
    kind = np.dtype(endian + _TYPES[code])
    if int(header["bitpix"]) != 8 * kind.itemsize:
        raise InvalidInput(
            f"the header announces voxels of {int(header['bitpix'])} bits, but their type has {8 * kind.itemsize}",
            code="bad_type",
        )
    return kind


def _content(source: Source, start: int, size: int) -> bytes | bytearray:
    """Return the bytes of the voxels; never more is unpacked than the header, already judged, announces."""
    packed = source.head(2) == GZIP
    with source.open() as stream:
        try:
            if not packed:
                stream.seek(start)
                data: bytes | bytearray = stream.read(size) if source.size >= start else b""
            else:
                with gzip.GzipFile(fileobj=stream) as unpacked:
                    data = _unpacked(unpacked, start, size)
        except (OSError, EOFError, zlib.error):
            raise InvalidInput("the gzip stream is damaged or cut off", code="truncated") from None
    if len(data) < size:
        raise InvalidInput(
            f"the file is cut off: {size:,} bytes of voxels are announced, {len(data):,} are there", code="truncated"
        )
    return data


def _unpacked(stream: gzip.GzipFile, start: int, size: int) -> bytearray:
    for first in range(0, start, _BLOCK):
        stream.read(min(_BLOCK, start - first))
    data = bytearray()
    while len(data) < size and (block := stream.read(min(_BLOCK, size - len(data)))):
        data += block
    stream.read(TAIL)  # to the end, where the check sum is
    return data


def _scale(header: Any) -> tuple[float, float]:
    """Return slope and intercept; a slope of 0 or NaN means none (nifti1.h, "data scaling")."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or math.isnan(slope):
        return 1.0, 0.0
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise InvalidInput("the header scales the voxels by a value that is not finite", code="bad_scale")
    return slope, intercept


def _affine(header: Any) -> tuple[NDArray[np.float64], bool, list[str]]:
    """Return the affine, whether it tells the orientation, and doubts."""
    sizes = np.array(header["pixdim"][1:4], np.float64)
    if not (np.isfinite(sizes).all() and (sizes > 0).all()):
        raise InvalidInput(
            "the header states voxel sizes (pixdim) that are zero, negative or not finite", code="spacing"
        )
    oriented = int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0
    doubts: list[str] = []
    if int(header["sform_code"]) > 0:
        affine = header.get_sform()
    elif oriented:
        try:
            affine = header.get_qform()
        except ValueError:
            raise InvalidInput("the quaternion of the header (qform) is no rotation", code="affine") from None
    else:
        affine = np.diag([*sizes, 1.0])
        text = "The header tells no orientation: axes from left to right, back to front, foot to head are taken."
        doubts.append(Doubt(text, "orientation_assumed"))
    affine = np.asarray(affine, np.float64)
    check_affine(affine)
    if not np.allclose(spacing_of(affine), sizes, rtol=0.01):
        text = "The header states two different voxel sizes; those of its affine are taken."
        doubts.append(Doubt(text, "spacing_assumed"))
    affine[:3] *= _MILLIMETRES.get(int(header["xyzt_units"]) & 7, 1.0)
    return affine, oriented, doubts


def _slice_axis(header: Any, affine: NDArray[np.float64]) -> int:
    """Return the axis that the header names, else the clearly coarsest, else the last."""
    named = int(header["dim_info"]) >> 4 & 3
    if named:
        return named - 1
    sizes = np.array(spacing_of(affine))
    coarsest = int(sizes.argmax())
    return coarsest if sizes[coarsest] >= COARSE * np.sort(sizes)[1] else 2
