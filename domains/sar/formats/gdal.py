"""What GDAL decodes, through rasterio: GeoTIFF, COSAR, NITF, ENVI, and grey PNG and JPEG chips.

The driver is chosen here by the content and is the only one that GDAL may use, so that nobody sends a virtual raster
that points elsewhere. GDAL looks at no other file than the image, except ENVI's header.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError
from rasterio.windows import Window

from domains.sar.formats.limits import Limits
from domains.sar.formats.quiet import quietly
from domains.sar.raster import ControlPoint, Georeference, PairedPixels, Quantity, Raster
from hub.errors import InvalidInput, UnsupportedFormat
from hub.reading import Source

MAGIC: Mapping[bytes, str] = {
    b"II*\0": "GTiff",
    b"MM\0*": "GTiff",
    b"II+\0": "GTiff",
    b"MM\0+": "GTiff",
    b"NITF02": "NITF",
    b"NSIF01": "NITF",
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
}
QUICKLOOKS = ("PNG", "JPEG")
POLARISATION_TAGS = ("POLARIMETRIC_INTERP", "POLARISATION", "POLARIZATION")
"""Tags of a band that name its polarisation; the first is that of GDAL's own SAR drivers."""
COSAR_MAGIC = slice(28, 32)
COSAR_BURST = slice(0, 4)
_OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_CACHEMAX": 64,
    "GTIFF_IGNORE_READ_ERRORS": "NO",
}
_BESIDE = {"ENVI": {"GDAL_DISABLE_READDIR_ON_OPEN": "FALSE"}}
"""Drivers that find their header by a look at the folder."""
CENTRED = 0.25
"""Largest ratio of mean to standard deviation at which two bands can be real and imaginary parts."""
ALIKE = 2.0
"""Largest ratio of the standard deviations of real and imaginary parts."""


def driver_of(head: bytes) -> str | None:
    """Return the GDAL driver of a file that begins like this, or ``None``."""
    if head[COSAR_MAGIC] == b"CSAR":
        return "COSAR"
    return next((driver for magic, driver in MAGIC.items() if head.startswith(magic)), None)


def envi_pair(path: Path | None, head: bytes) -> Path | None:
    """Return the binary file of an ENVI image, given it or its header; ``None`` when there is no such pair."""
    if path is None or not path.is_file():
        return None
    if head.startswith(b"ENVI"):
        plain = path.with_suffix("")
        candidates = (plain, *(plain.with_suffix(s) for s in (".img", ".slc", ".dat", ".bin", ".raw")))
        return next((c for c in candidates if c != path and c.is_file()), None)
    for header in (path.with_suffix(".hdr"), path.with_name(path.name + ".hdr")):
        if header != path and header.is_file():
            with header.open("rb") as stream:
                return path if stream.read(4) == b"ENVI" else None
    return None


@dataclass(frozen=True)
class GdalPixels:
    """Pixels that GDAL decodes window by window.

    A dataset is not safe to share between threads, so one is kept for each.
    """

    source: Source
    driver: str
    shape: tuple[int, int, int]
    complex_values: bool
    _threads: threading.local = field(default_factory=threading.local, repr=False, compare=False)

    def read(self, bands: Sequence[int], rows: slice, columns: slice) -> NDArray[np.generic]:
        """Return a window; see `domains.sar.raster.Pixels`."""
        top, bottom, _ = rows.indices(self.shape[1])
        left, right, _ = columns.indices(self.shape[2])
        window = Window(left, top, right - left, bottom - top)
        with rasterio.Env(**_options(self.driver)), _damage(self.driver):
            dataset = self._dataset()
            values = dataset.read([band + 1 for band in bands], window=window)
        return values.astype(np.complex64 if self.complex_values else np.float32, copy=False)

    def _dataset(self) -> Any:
        if not hasattr(self._threads, "dataset"):
            self._threads.dataset = _open(self.source, self.driver)
        return self._threads.dataset

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open datasets behind: a process that reads for training opens its own."""
        return {k: v for k, v in vars(self).items() if k != "_threads"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _threads=threading.local())


def read_gdal(source: Source, driver: str, limits: Limits) -> Raster:
    """Open an image with one driver and describe it; of its pixels only a few are decoded.

    Raises:
        UnsupportedFormat: A colour image, or a type of values that is no SAR image.
        TooLarge: The header announces more than the limits allow.
        InvalidInput: It cannot be opened, or is cut off.
    """
    size = source.size
    if driver == "COSAR":
        _check_cosar(source, size)
    with rasterio.Env(**_options(driver)), _damage(driver):
        with _open(source, driver) as dataset:
            bands, rows, columns = dataset.count, dataset.height, dataset.width
            limits.check_shape(bands, rows, columns)
            width = max(np.dtype(_numpy_type(kind)).itemsize for kind in dataset.dtypes)
            limits.check_expansion(bands * rows * columns * width, size)
            _check_colours(dataset, driver)
            is_complex = [kind.startswith("complex") for kind in dataset.dtypes]
            if any(is_complex) != all(is_complex):
                raise UnsupportedFormat("complex and real bands in one file; all bands must be of one kind")
            pixels = GdalPixels(source, driver, (bands, rows, columns), is_complex[0])
            raster = Raster(
                pixels,
                quantity="complex" if is_complex[0] else _quantity(dataset),
                calibration=_calibration(dataset, driver),
                names=_names(dataset),
                georeference=_georeference(dataset),
                nodata=None if dataset.nodata is None else float(np.real(dataset.nodata)),
            )
    return _paired(raster) if bands % 2 == 0 and "float32" in dataset.dtypes else raster


@contextmanager
def _damage(driver: str) -> Iterator[None]:
    """Turn rasterio's errors, whose text quotes paths, to one of ours."""
    try:
        yield
    except RasterioError:
        raise InvalidInput(
            f"the file is damaged or cut off: it cannot be decoded as {driver}", code="damaged"
        ) from None


def _options(driver: str) -> dict[str, Any]:
    return {**_OPTIONS, **_BESIDE.get(driver, {})}


def _open(source: Source, driver: str) -> Any:
    options = {"driver": driver}
    with quietly():
        if source.content is not None:
            return rasterio.MemoryFile(source.content).open(**options)
        return rasterio.open(source.path, **options)


def _numpy_type(kind: str) -> str:
    return {"complex_int16": "complex64"}.get(kind, kind)


def _check_cosar(source: Source, size: int) -> None:
    """Hold the bytes that the first burst announces against those that are there."""
    announced = int.from_bytes(source.head(4)[COSAR_BURST], "big")
    if announced > size:
        raise InvalidInput(
            f"the file is cut off: its first burst announces {announced:,} bytes, of which {size:,} are there",
            code="truncated",
        )


def _check_colours(dataset: Any, driver: str) -> None:
    colours = {ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.palette}
    if colours & set(dataset.colorinterp) and {"uint8"} >= set(dataset.dtypes):
        raise UnsupportedFormat(
            f"a colour image ({driver}): a picture of SAR data, not the data; give the complex or amplitude values",
            code="colour_image",
        )


def _names(dataset: Any) -> tuple[str, ...]:
    """Return what the file calls each band: its description, or the polarisation in its tags; empty where neither."""
    names = []
    for number, description in enumerate(dataset.descriptions, 1):
        tags = dataset.tags(number)
        names.append(description or next((tags[tag] for tag in POLARISATION_TAGS if tag in tags), ""))
    return tuple(names)


def _quantity(dataset: Any) -> Quantity:
    """Return what the file says its real values are, or ``amplitude`` for want of a word."""
    told = " ".join([*(u or "" for u in dataset.units), *dataset.tags().values()]).lower()
    words: tuple[tuple[str, Quantity], ...] = (("decibel", "decibel"), ("intensity", "intensity"))
    return next((quantity for word, quantity in words if word in told), "amplitude")


def _calibration(dataset: Any, driver: str) -> str:
    tags = dataset.tags()
    if "CALIBRATION" in tags:
        return tags["CALIBRATION"][:200]
    if driver in QUICKLOOKS:
        return "8-bit grey values of unknown scale"
    kinds = set(dataset.dtypes)
    whole = kinds <= {"complex_int16", "uint8", "uint16", "int16"}
    return "digital numbers, not calibrated" if whole else "digital numbers of unknown scale"


def _georeference(dataset: Any) -> Georeference | None:
    points, points_crs = dataset.gcps
    if points:
        crs = points_crs.to_wkt() if points_crs else ""
        return Georeference(crs, None, tuple(ControlPoint(p.row, p.col, p.x, p.y, p.z or 0.0) for p in points))
    if dataset.transform.is_identity:
        return None
    return Georeference(dataset.crs.to_wkt() if dataset.crs else "", tuple(dataset.transform)[:6])


def _paired(raster: Raster) -> Raster:
    """Return float bands that behave like real and imaginary parts as complex bands, others as they are."""
    _, rows, columns = raster.shape
    middle = (slice(max(0, rows // 2 - 256), rows // 2 + 256), slice(max(0, columns // 2 - 256), columns // 2 + 256))
    values = raster.read(*middle).astype(np.float64)
    if raster.quantity != "amplitude" or not np.isfinite(values).all():
        return raster
    mean, spread = values.mean((1, 2)), values.std((1, 2))
    centred = (np.abs(mean) <= CENTRED * spread).all() and (values.min((1, 2)) < 0).all()
    real, imaginary = spread[0::2], spread[1::2]
    if not centred or not ((real <= ALIKE * imaginary) & (imaginary <= ALIKE * real)).all():
        return raster
    pairs = tuple(name for name in raster.names[0::2] if name)
    names = pairs if len(pairs) == len(raster.names) // 2 else ()
    return Raster(PairedPixels(raster.pixels), "complex", raster.calibration, names, raster.georeference, raster.nodata)
