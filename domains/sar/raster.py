"""A SAR image as the systems see it: pixels that are read by windows, what they measure, and where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_opening

Quantity = Literal["complex", "amplitude", "intensity", "decibel"]

UNKNOWN_SCALE = "digital numbers of unknown scale"
WHOLE = slice(None)
EMPTY_SIDE = 5
"""Side in pixels of the smallest square of zeros that counts as no data; dark water has single zeros too."""


class Pixels(Protocol):
    """Where the pixels of an image come from. Several threads may read at once."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(bands, rows, columns)``."""

    def read(self, bands: Sequence[int], rows: slice, columns: slice) -> NDArray[np.generic]:
        """Return ``(bands, rows, columns)`` of a window, complex64 or float32.

        Raises:
            InvalidInput: The file ends before the window does, or is damaged there.
        """


@dataclass(frozen=True)
class ArrayPixels:
    """Pixels in memory.

    Attributes:
        array: ``(bands, rows, columns)`` complex64 or float32.
    """

    array: NDArray[np.generic] = field(repr=False)

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(bands, rows, columns)``."""
        bands, rows, columns = self.array.shape
        return bands, rows, columns

    def read(self, bands: Sequence[int], rows: slice, columns: slice) -> NDArray[np.generic]:
        """Return a window; see `Pixels`."""
        return self.array[list(bands), rows, columns]


@dataclass(frozen=True)
class PairedPixels:
    """Bands that hold real and imaginary parts in turn, as complex bands."""

    parts: Pixels

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(bands, rows, columns)``, half the bands of the parts."""
        bands, rows, columns = self.parts.shape
        return bands // 2, rows, columns

    def read(self, bands: Sequence[int], rows: slice, columns: slice) -> NDArray[np.generic]:
        """Return a window, complex64; see `Pixels`."""
        parts = self.parts.read([2 * band + part for band in bands for part in (0, 1)], rows, columns)
        values = np.empty(parts[0::2].shape, np.complex64)
        values.real, values.imag = parts[0::2], parts[1::2]
        return values


@dataclass(frozen=True)
class ControlPoint:
    """A ground control point: pixel coordinates and where on Earth they lie."""

    row: float
    column: float
    x: float
    y: float
    z: float


@dataclass(frozen=True)
class Georeference:
    """Where an image lies.

    Attributes:
        crs: Coordinate reference system as WKT; empty when unknown.
        transform: Affine pixel-to-world coefficients (a, b, c, d, e, f), or ``None`` for an image in radar geometry.
        points: Ground control points, which images in radar geometry have instead.
    """

    crs: str = ""
    transform: tuple[float, float, float, float, float, float] | None = None
    points: tuple[ControlPoint, ...] = ()


@dataclass(frozen=True)
class Raster:
    """One SAR image of one or several bands on one grid.

    Attributes:
        pixels: Where the values come from; in memory, or read by windows from a file.
        quantity: What a value is: ``complex`` (single-look), ``amplitude``, ``intensity`` or ``decibel``.
        calibration: What one unit of it means, for people.
        names: Of the bands, polarisations where the file tells them.
        georeference: Where it lies, as far as the file tells.
        nodata: Value that marks missing pixels; NaN always does.
    """

    pixels: Pixels = field(repr=False)
    quantity: Quantity
    calibration: str = UNKNOWN_SCALE
    names: tuple[str, ...] = ()
    georeference: Georeference | None = field(default=None, repr=False)
    nodata: float | None = None

    @classmethod
    def from_array(cls, values: NDArray[np.generic], quantity: Quantity | None = None) -> Raster:
        """Return an image in memory.

        Args:
            values: ``(rows, columns)`` or ``(bands, rows, columns)``; complex or real.
            quantity: ``complex`` for complex values, ``amplitude`` otherwise, unless given.
        """
        array = values if values.ndim == 3 else values[None]
        is_complex = np.iscomplexobj(array)
        kept = array.astype(np.complex64 if is_complex else np.float32, copy=False)
        return cls(ArrayPixels(kept), quantity or ("complex" if is_complex else "amplitude"))

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(bands, rows, columns)``."""
        return self.pixels.shape

    @property
    def in_memory(self) -> bool:
        """Whether reading costs no access to a file."""
        return isinstance(self.pixels, ArrayPixels)

    @property
    def values(self) -> NDArray[np.generic]:
        """All pixels, ``(bands, rows, columns)`` complex64 or float32; read anew each time unless in memory."""
        return self.read()

    def read(self, rows: slice = WHOLE, columns: slice = WHOLE) -> NDArray[np.generic]:
        """Return a window of all bands, ``(bands, rows, columns)``.

        Raises:
            InvalidInput: The file is damaged there.
        """
        return self.pixels.read(range(self.shape[0]), rows, columns)

    def band(self, number: int) -> Raster:
        """Return one band as an image of its own."""
        names = self.names[number : number + 1]
        if isinstance(self.pixels, ArrayPixels):
            return replace(self, pixels=ArrayPixels(self.pixels.array[number : number + 1]), names=names)
        return replace(self, pixels=_OneBand(self.pixels, number), names=names)

    def valid(self, values: NDArray[np.generic]) -> NDArray[np.bool_]:
        """Return which pixels of a window hold data, in its shape.

        Missing are values that are not finite or equal ``nodata``, and areas of exact zeros that hold a square of
        ``EMPTY_SIDE`` pixels.
        """
        valid = np.isfinite(values)
        if self.nodata is not None and not np.isnan(self.nodata):
            valid &= values != self.nodata
        if self.quantity == "decibel":
            return valid
        square = np.ones((EMPTY_SIDE, EMPTY_SIDE), bool)
        for band, zero in zip(valid, values == 0, strict=True):
            if zero.any():
                # The border goes on beyond the window, so that a thin empty edge is found too.
                padded = np.pad(zero, EMPTY_SIDE, mode="edge")
                inner = slice(EMPTY_SIDE, -EMPTY_SIDE)
                band &= ~(binary_opening(padded, square)[inner, inner] & zero)
        return valid

    def amplitude(self, values: NDArray[np.generic]) -> NDArray[np.float32]:
        """Return the amplitude of a window's values, whatever the quantity; NaN where a value has none."""
        if self.quantity == "complex":
            return np.abs(values).astype(np.float32)
        real = values.astype(np.float32)
        if self.quantity == "decibel":
            return np.power(10.0, real / 20).astype(np.float32)
        return np.sqrt(real) if self.quantity == "intensity" else real


@dataclass(frozen=True)
class _OneBand:
    """One band of several."""

    pixels: Pixels
    number: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(1, rows, columns)``."""
        return 1, *self.pixels.shape[1:]

    def read(self, bands: Sequence[int], rows: slice, columns: slice) -> NDArray[np.generic]:
        """Return a window; see `Pixels`."""
        return self.pixels.read([self.number] * len(bands), rows, columns)
