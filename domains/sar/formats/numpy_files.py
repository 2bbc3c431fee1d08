"""``.npy`` arrays: complex, pairs of real and imaginary parts, or real amplitudes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from domains.sar.formats.limits import Limits
from domains.sar.raster import PairedPixels, Raster
from hub.errors import InvalidInput, UnsupportedFormat
from hub.reading import Source

MAGIC = b"\x93NUMPY"


def read_npy(source: Source, limits: Limits) -> Raster:
    """Read an array of ``(rows, columns)``, or ``(rows, columns, 2)`` with real and imaginary parts.

    Raises:
        UnsupportedFormat: It holds Python objects, text, or a shape that is no image.
        TooLarge: Its header announces more than the limits allow.
        InvalidInput: It is cut off.
    """
    with source.open() as stream:
        try:
            version = npy.read_magic(stream)
            reader: Any = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, fortran, kind = reader(stream)
        except Exception:  # the header is a Python literal, whose parser raises what it likes
            raise InvalidInput("the header of the .npy file is damaged", code="damaged") from None
        start = stream.tell()
    if kind.hasobject:
        raise UnsupportedFormat(
            "an .npy file of Python objects, which would have to be unpickled; save numbers (complex64)",
            code="object_array",
        )
    pairs = len(shape) == 3 and shape[2] == 2 and kind.kind in "fiu"
    if kind.kind not in "fiuc" or not (len(shape) == 2 or pairs):
        described = " x ".join(map(str, shape)) or "a single value"
        raise UnsupportedFormat(
            f"an array {described} of {kind}; an image is (rows, columns), complex or real, or (rows, columns, 2) "
            "with real and imaginary parts",
            code="bad_shape",
        )
    rows, columns = shape[:2]
    limits.check_shape(1, rows, columns)
    there, announced = source.size - start, math.prod(shape) * kind.itemsize
    if there < announced:
        raise InvalidInput(
            f"the file is cut off: its header announces {announced:,} bytes of data, of which {there:,} are there",
            code="truncated",
        )
    array = _array(source, start, shape, kind, fortran)
    is_complex = pairs or kind.kind == "c"
    whole = "digital numbers, not calibrated" if kind.kind in "iu" else "digital numbers of unknown scale"
    if pairs:
        return Raster(PairedPixels(_Mapped(array.transpose(2, 0, 1))), "complex", whole)
    return Raster(_Mapped(array[None]), "complex" if is_complex else "amplitude", whole)


@dataclass(frozen=True)
class _Mapped:
    """Pixels of a mapped file of any number type, converted as they are read."""

    array: NDArray[np.generic] = field(repr=False)

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(bands, rows, columns)``."""
        bands, rows, columns = self.array.shape
        return bands, rows, columns

    def read(self, bands: Sequence[int], rows: slice, columns: slice) -> NDArray[np.generic]:
        """Return a window; see `domains.sar.raster.Pixels`."""
        values = np.asarray(self.array[list(bands), rows, columns])
        return values.astype(np.complex64 if values.dtype.kind == "c" else np.float32, copy=False)


def _array(
    source: Source, start: int, shape: tuple[int, ...], kind: np.dtype[Any], fortran: bool
) -> NDArray[np.generic]:
    order: Any = "F" if fortran else "C"
    if source.content is not None:
        flat = np.frombuffer(source.content, kind, math.prod(shape), start)
        return flat.reshape(shape, order=order)
    assert source.path is not None
    return np.memmap(source.path, kind, "r", start, shape, order)
