"""Results as GeoTIFF with the georeference of the image that they were made from."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.transform import Affine
from rasterio.windows import Window

from domains.sar.formats.quiet import quietly
from domains.sar.raster import Georeference, Raster

BIG = 1 << 31
"""Bytes of pixels from which on a BigTIFF is written: offsets of a plain one end at 4 GiB."""


class GeoTiff:
    """A one-band float32 GeoTIFF that is written from top to bottom.

    Missing pixels of the original image are written as 0, which the file declares as its no-data value.
    """

    def __init__(self, target: Path | BinaryIO, original: Raster, description: str) -> None:
        """Prepare the file.

        Args:
            target: Path, or a binary stream that is filled at the end.
            original: The image whose size, georeference and missing pixels it takes over.
            description: How it was made.
        """
        self._target = target
        self._original = original
        self._description = description
        self._memory = None if isinstance(target, Path) else rasterio.MemoryFile()
        self._dataset: Any = None

    def __enter__(self) -> GeoTiff:
        """Create the file."""
        _, rows, columns = self._original.shape
        options: dict[str, Any] = {"driver": "GTiff", "width": columns, "height": rows, "count": 1, "dtype": "float32"}
        options |= {
            "nodata": 0.0,
            "bigtiff": "YES" if rows * columns * 4 > BIG else "NO",
            **georeference_options(self._original.georeference),
        }
        with quietly():
            if self._memory is not None:
                self._dataset = self._memory.open(**options)
            else:
                self._dataset = rasterio.open(self._target, "w", **options)
        self._dataset.update_tags(DESPECKLED=self._description, CALIBRATION=self._original.calibration)
        self._dataset.set_band_description(1, "amplitude")
        return self

    def write(self, row: int, values: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Write finished rows ``(rows, columns)``, the first of which is ``row``; return which pixels hold data."""
        rows, columns = values.shape
        window = (slice(row, row + rows), slice(0, columns))
        valid = self._original.valid(self._original.read(*window))[0]
        self._dataset.write(np.where(valid, values, np.float32(0)), 1, window=Window(0, row, columns, rows))
        return valid

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the file."""
        self._dataset.close()
        if self._memory is not None:
            if error is None:
                self._memory.seek(0)
                assert not isinstance(self._target, Path)
                self._target.write(self._memory.read())
            self._memory.close()


def read_band(content: bytes) -> NDArray[np.float32]:
    """Return the pixels of such a file, ``(rows, columns)``."""
    with quietly(), rasterio.MemoryFile(content) as memory, memory.open() as dataset:
        return dataset.read(1)


def georeference_options(georeference: Georeference | None) -> dict[str, Any]:
    """Return the options with which rasterio writes a file that lies where an image does; none for one of no place."""
    if georeference is None:
        return {}
    crs = CRS.from_wkt(georeference.crs) if georeference.crs else None
    if georeference.points:
        points = [GroundControlPoint(p.row, p.column, p.x, p.y, p.z) for p in georeference.points]
        return {"gcps": points, "crs": crs}
    return {"transform": Affine(*georeference.transform), "crs": crs} if georeference.transform else {}
