"""HDF5: NISAR and other products that keep images as two-dimensional datasets.

Only datasets whose values lie in the file itself are read: a dataset can also point at other files.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from domains.sar.formats.limits import Limits
from domains.sar.raster import PairedPixels, Raster
from hub.errors import InvalidInput, UnsupportedFormat
from hub.reading import Source

MAGIC = b"\x89HDF\r\n\x1a\n"
MAX_OBJECTS = 100_000
SMALLEST_SIDE = 32
"""Below this a two-dimensional dataset is a table of metadata, not an image."""
PARTS = (("r", "i"), ("real", "imag"))
"""Field names of complex numbers stored as compounds; numpy knows none of float16, which NISAR uses."""
SPLIT = ("s_i", "s_q")
"""Names of two datasets that hold the parts (ICEYE)."""


@dataclass(frozen=True)
class Hdf5Pixels:
    """Datasets of one shape as bands, opened anew for each window."""

    source: Source
    paths: tuple[str, ...]
    shape: tuple[int, int, int]

    def read(self, bands: Sequence[int], rows: slice, columns: slice) -> NDArray[np.generic]:
        """Return a window; see `domains.sar.raster.Pixels`."""
        try:
            with _open(self.source) as file:
                return np.stack([_plain(file[self.paths[band]][rows, columns]) for band in bands])
        except (OSError, RuntimeError, KeyError, ValueError, OverflowError, TypeError):
            raise InvalidInput("the HDF5 file is damaged or cut off", code="damaged") from None


def read_hdf5(source: Source, limits: Limits) -> Iterator[tuple[str, Raster]]:
    """Yield each group's images as the bands of one raster, with the group's name.

    Complex images where there are any, else real ones.

    Raises:
        UnsupportedFormat: There are no images in it.
        TooLarge: A dataset announces more than the limits allow.
        InvalidInput: It is damaged.
    """
    try:
        with _open(source) as file:
            found = _images(file)
            kinds = {path: _kind(file[path].dtype) for path in found}
    except (OSError, RuntimeError, KeyError, ValueError, OverflowError, TypeError, AttributeError):
        raise InvalidInput("the HDF5 file is damaged or cut off", code="damaged") from None
    wanted = "complex" if "complex" in kinds.values() else "real"
    groups: dict[tuple[str, tuple[int, int]], list[str]] = {}
    for path, shape in found.items():
        if kinds[path] == wanted:
            groups.setdefault((path.rpartition("/")[0], shape), []).append(path)
    if not groups:
        raise UnsupportedFormat("an HDF5 file without a two-dimensional image in it", code="no_image")
    for (group, (rows, columns)), paths in groups.items():
        limits.check_shape(len(paths), rows, columns)
        pixels = Hdf5Pixels(source, tuple(paths), (len(paths), rows, columns))
        names = tuple(path.rpartition("/")[2] for path in paths)
        if wanted == "complex":
            raster = Raster(pixels, "complex", "units of the product, see its documentation", names)
        elif names == SPLIT:
            raster = Raster(PairedPixels(pixels), "complex", "digital numbers, see the product's calibration factor")
        else:
            raster = Raster(pixels, "amplitude", "units of the product, see its documentation", names)
        yield group if len(groups) > 1 else "", raster


def _open(source: Source) -> h5py.File:
    return h5py.File(source.path if source.content is None else io.BytesIO(source.content), "r")


def _images(file: h5py.File) -> dict[str, tuple[int, int]]:
    """Return path and shape of the datasets that can be images; links to other files are not followed."""
    found: dict[str, tuple[int, int]] = {}
    seen = 0

    def visit(name: str, item: Any) -> None:
        nonlocal seen
        seen += 1
        if seen > MAX_OBJECTS:
            raise ValueError("too many objects")
        if not isinstance(item, h5py.Dataset) or item.ndim != 2 or min(item.shape) < SMALLEST_SIDE:
            return
        if item.external is None and not item.is_virtual and _kind(item.dtype):
            found[name] = (int(item.shape[0]), int(item.shape[1]))

    file.visititems(visit)
    return found


def _kind(dtype: np.dtype[Any]) -> str:
    if dtype.kind == "c" or dtype.names in PARTS:
        return "complex"
    return "real" if dtype.kind in "fiu" else ""


def _plain(values: NDArray[Any]) -> NDArray[np.generic]:
    if values.dtype.names:
        real, imaginary = (values[name].astype(np.float32) for name in values.dtype.names)
        return (real + 1j * imaginary).astype(np.complex64)
    return values.astype(np.complex64 if values.dtype.kind == "c" else np.float32)
