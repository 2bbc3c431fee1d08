"""Known images to set others beside: slices and volumes of synthetic heads, and of objects to test scanners on."""

from __future__ import annotations

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from domains.medical.samples import as_dicom, phantom
from hub.reading import Source

SIDE = 64
CUBE = 32
Values = NDArray[np.float32]


def examples() -> list[Source]:
    """Return DICOM slices and NIfTI volumes, each named after what it holds; the same on every call."""
    made = []
    for seed in (11, 12):
        head = phantom(9, SIDE, SIDE, seed)
        for level, place in (("base of head", 1), ("middle of head", 4), ("top of head", 7)):
            made.append(_slice(f"MR {level} {seed - 10}", 900 * head[place], "MR", seed))
        made.append(_slice(f"CT middle of head {seed - 10}", 2000 * head[4] - 1000, "CT", seed))
    for name, volume in _objects(1, SIDE).items():
        made.append(_slice(f"MR {name}", 900 * volume[0], "MR", 31))
    for seed in (21, 22, 23):
        made.append(_volume(f"head volume {seed - 20}", phantom(CUBE, CUBE, CUBE, seed)))
    for name, volume in _objects(CUBE, CUBE).items():
        made.append(_volume(f"{name} volume", volume))
    return made


def _objects(slices: int, side: int) -> dict[str, Values]:
    """Return a bottle of water, bars, grains and noise, each ``(slices, side, side)`` from 0 to 1."""
    random = np.random.default_rng(5)
    shape = (slices, side, side)
    y, x = np.meshgrid(*(np.linspace(-1, 1, side),) * 2, indexing="ij")
    disc = (x**2 + y**2 < 0.7).astype(float)
    bars = (np.sin(2 * np.pi * (2 + 2 * (y > 0)) * x) > 0) * (np.abs(x) < 0.8) * (np.abs(y) < 0.8)
    grains = gaussian_filter(random.normal(size=shape), (0 if slices == 1 else 2, 2, 2)) > 0.06
    plain = {
        "bottle of water": np.broadcast_to(0.6 * disc, shape),
        "bars": np.broadcast_to(0.8 * bars, shape),
        "grains": 0.7 * grains * disc,
        "noise": 0.3 + 0.1 * random.normal(size=shape),
    }
    return {
        name: np.clip(values + random.normal(0, 0.015, shape), 0, 1).astype(np.float32)
        for name, values in plain.items()
    }


def _slice(name: str, values: Values, modality: str, seed: int) -> Source:
    return Source.from_bytes(as_dicom(values, modality, seed), f"{name.replace(' ', '-')}.dcm")


def _volume(name: str, values: Values) -> Source:
    """From (foot to head, front to back, right to left) to the RAS+ order of NIfTI."""
    oriented = np.round(1000 * values[:, ::-1, ::-1].transpose(2, 1, 0)).astype(np.int16)
    image = nibabel.Nifti1Image(oriented, np.diag([2.0, 2.0, 2.0, 1.0]))
    return Source.from_bytes(image.to_bytes(), f"{name.replace(' ', '-')}.nii")
