"""Small single-look complex images to try things on: synthetic scenes with speckle as a real system leaves it."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from scipy.ndimage import gaussian_filter

LEVEL = 200.0
"""Root mean square amplitude of every scene, digital numbers."""
BANDWIDTH = 0.8
"""Share of the sampling frequency that the simulated system passes."""
HAMMING = 0.6
"""Of its weighting: 1 would be none."""


def simulate_slc(reflectivity: NDArray[np.floating], seed: int = 0) -> NDArray[np.complex64]:
    """Return a single-look complex image of a scene.

    White circular noise of the scene's power, passed through the system: speckle is correlated over one or two pixels,
    as in real products.

    Args:
        reflectivity: ``(rows, columns)``, expected intensity, any scale.
        seed: Of the noise.

    Returns:
        ``(rows, columns)`` complex64, with root mean square amplitude near ``LEVEL``.
    """
    random = np.random.default_rng(seed)
    white = random.normal(0, 1, (*reflectivity.shape, 2)).view(np.complex128)[..., 0]
    response = np.outer(*(_response(n) for n in reflectivity.shape))
    image = np.fft.ifft2(np.fft.fft2(np.sqrt(reflectivity) * white) * response)
    return (image * LEVEL / np.sqrt(np.square(np.abs(image)).mean())).astype(np.complex64)


def _response(length: int) -> NDArray[np.float64]:
    """Return one axis of the system's transfer function, zero frequency first."""
    frequency = np.fft.fftfreq(length)
    weights = HAMMING + (1 - HAMMING) * np.cos(2 * np.pi * frequency / BANDWIDTH)
    return np.where(np.abs(frequency) <= BANDWIDTH / 2, weights, 0.0)


def fields(rows: int, columns: int, seed: int = 0) -> NDArray[np.float64]:
    """Return the reflectivity of farmland: parcels of different brightness, a road, and a few bright farms."""
    random = np.random.default_rng(seed)
    across, down = np.arange(columns) // 24, np.arange(rows) // 32
    levels = 10 ** random.uniform(-1, 0.5, (int(down[-1]) + 1, int(across[-1]) + 1))
    scene = levels[down][:, across]
    scene[:, columns // 3 : columns // 3 + 3] = 0.02
    for _ in range(4):
        row, column = random.integers(8, rows - 8), random.integers(8, columns - 8)
        scene[row - 2 : row + 2, column - 2 : column + 2] = 20.0
    return scene


def coast(rows: int, columns: int, seed: int = 0) -> NDArray[np.float64]:
    """Return the reflectivity of a coast: dark water, brighter land with smooth texture, a line between them."""
    random = np.random.default_rng(seed)
    height = gaussian_filter(random.normal(0, 1, (rows, columns)), 20)
    slope = np.linspace(-1, 1, columns)[None, :] * height.std()
    texture = gaussian_filter(random.normal(0, 1, (rows, columns)), 3)
    land = np.exp(1.5 * texture / texture.std() * 0.3)
    return np.where(height + 2 * slope > 0, land, 0.05)


def write_samples(folder: Path) -> list[Path]:
    """Write synthetic complex images in the formats that people have; the same on every call.

    Args:
        folder: An existing folder.
    """
    scenes = {
        "synthetic-fields.tif": simulate_slc(fields(160, 192, 1), 1),
        "synthetic-fields-cint16.tiff": simulate_slc(fields(128, 128, 2), 2),
        "synthetic-coast.npy": simulate_slc(coast(160, 160, 3), 3),
        "synthetic-coast.cos": simulate_slc(coast(128, 160, 4), 4),
        "synthetic-fields.h5": simulate_slc(fields(128, 144, 5), 5),
    }
    paths = [folder / name for name in scenes]
    for path, image in zip(paths, scenes.values(), strict=True):
        _write(path, image)
    return paths


def _write(path: Path, image: NDArray[np.complex64]) -> None:
    if path.suffix == ".npy":
        np.save(path, image)
    elif path.suffix == ".cos":
        path.write_bytes(as_cosar(image))
    elif path.suffix == ".h5":
        _write_hdf5(path, image)
    else:
        _write_tiff(path, image, "complex_int16" if path.suffix == ".tiff" else "complex64")


def _write_tiff(path: Path, image: NDArray[np.complex64], kind: str) -> None:
    rows, columns = image.shape
    # In radar geometry, so with control points at the corners instead of a transform.
    corners = ((0, 0, 7.0, 45.1), (0, columns, 7.03, 45.1), (rows, 0, 7.0, 45.08), (rows, columns, 7.03, 45.08))
    points = [GroundControlPoint(row, column, x, y, 0.0) for row, column, x, y in corners]
    shape = {"height": rows, "width": columns, "count": 1}
    with rasterio.open(path, "w", driver="GTiff", dtype=kind, gcps=points, crs="EPSG:4326", **shape) as file:
        file.write(np.round(image) if kind == "complex_int16" else image, 1)


def as_cosar(image: NDArray[np.complexfloating]) -> bytes:
    """Return an image as the bytes of a COSAR file of one burst (TerraSAR-X product specification, section 3.3).

    Args:
        image: ``(rows, columns)`` complex, rounded to 16-bit parts.
    """
    rows, columns = image.shape
    line, lines = 2 + columns, rows + 4
    words = np.zeros((lines, line), ">i4")
    words[0, :7] = (4 * line * lines, 0, columns, rows, 1, 4 * line, lines)
    words[0, 7] = int.from_bytes(b"CSAR", "big")
    words[0, 8:10] = 1
    words[4:, :2] = (1, columns)
    parts = np.round(image).view(image.real.dtype).astype(">i2")
    words[4:, 2:] = np.ascontiguousarray(parts).view(">i4")
    return words.tobytes()


def _write_hdf5(path: Path, image: NDArray[np.complex64]) -> None:
    """Write the layout of a NISAR product, whose parts are half-precision numbers."""
    pairs = np.empty(image.shape, [("r", "<f2"), ("i", "<f2")])
    pairs["r"], pairs["i"] = image.real, image.imag
    with h5py.File(path, "w") as file:
        file.create_dataset("science/LSAR/RSLC/swaths/frequencyA/VV", data=pairs, track_times=False)
