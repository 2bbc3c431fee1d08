"""Known scenes to set others beside: water, land and what stands on them, with simulated speckle."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from domains.sar.samples import coast, fields, simulate_slc
from hub.reading import Source

SIDE = 128
EACH = 2
"""Scenes of a kind."""
Scene = NDArray[np.float64]


def examples() -> list[Source]:
    """Return NumPy files of single-look complex scenes, each named after what it shows; the same on every call."""
    made = []
    for number in range(EACH):
        random = np.random.default_rng(100 + number)
        for seed, (name, scene) in enumerate(_scenes(random, number).items()):
            buffer = io.BytesIO()
            np.save(buffer, simulate_slc(scene, 10 * seed + number))
            made.append(Source.from_bytes(buffer.getvalue(), f"{name}-{number + 1}.npy"))
    return sorted(made, key=lambda source: source.name)


def _scenes(random: np.random.Generator, number: int) -> dict[str, Scene]:
    """Return reflectivities ``(SIDE, SIDE)`` by name."""
    sea = _sea(random)
    forest = np.exp(0.9 * _smooth(random, 2.0))
    ships = sea.copy()
    for _ in range(5):
        row, column = random.integers(8, SIDE - 8, 2)
        ships[row : row + 3, column : column + 7] = 60.0
    slick = sea * np.where(_smooth(random, 14) > 0.7, 0.06, 1.0)
    points = np.full((SIDE, SIDE), 0.05)
    points[12::24, 12::24] = 400.0
    rows, columns = np.indices((SIDE, SIDE))
    lake = np.where(np.hypot(rows - 64, (columns - 60) / 1.4) < 34 + 5 * _smooth(random, 10), 0.03, forest)
    return {
        "calm-sea": sea,
        "windy-sea": sea * np.exp(0.7 * np.sin(2 * np.pi * (rows + 0.4 * columns) / 14 + _smooth(random, 12))),
        "ships": ships,
        "oil-slick": slick,
        "coast": coast(SIDE, SIDE, 30 + number),
        "fields": fields(SIDE, SIDE, 40 + number),
        "forest": forest,
        "lake": lake,
        "city": _city(random),
        "corner-reflectors": points,
    }


def _smooth(random: np.random.Generator, size: float) -> Scene:
    """Return smooth noise of unit deviation."""
    noise = gaussian_filter(random.normal(size=(SIDE, SIDE)), size, mode="wrap")
    return noise / noise.std()


def _sea(random: np.random.Generator) -> Scene:
    return 0.1 * np.exp(0.25 * _smooth(random, 8))


def _city(random: np.random.Generator) -> Scene:
    """Blocks of houses: dark streets, bright walls that face the radar, some very bright corners."""
    scene = np.exp(0.5 * _smooth(random, 2))
    scene[::16] = scene[1::16] = 0.05
    scene[:, ::20] = scene[:, 1::20] = 0.05
    scene[:, 3::20] *= 25
    corners = random.integers(2, SIDE - 2, (60, 2))
    scene[corners[:, 0], corners[:, 1]] = 300.0
    return scene
