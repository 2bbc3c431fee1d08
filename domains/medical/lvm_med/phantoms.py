"""Synthetic slices of heads: an atlas's tissues under random contrasts, shapes, lesions and faults of a scanner.

Contrasts are drawn rather than copied, so that a network sees more kinds of image than any scanner makes (domain
randomisation, as in Billot et al. 2023, SynthSeg). Skull, scalp and face are shells and blobs around the atlas's brain.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter, map_coordinates

Floats = NDArray[np.float32]

TISSUES = ("grey", "white", "fluid", "skull", "scalp", "face")
CONTRASTS = {
    "T1": (0.55, 0.8, 0.15, 0.12, 0.85, 0.5),
    "T2": (0.6, 0.4, 1.0, 0.1, 0.6, 0.45),
    "FLAIR": (0.6, 0.5, 0.1, 0.1, 0.6, 0.45),
    "PD": (0.8, 0.65, 0.9, 0.15, 0.7, 0.6),
}
"""Usual brightness of the tissues in magnetic resonance; what is drawn lies around one of these, or anywhere."""
GAP, BONE, SKIN = 3.0, 9.0, 17.0
"""Distances from the brain's surface at which fluid, skull and scalp end, millimetres of a typical head."""


@dataclass(frozen=True)
class Atlas:
    """Tissue maps of a head, 1 mm, axes from left to right, back to front, foot to head.

    Attributes:
        tissues: ``(6, x, y, z)`` shares of the tissues, in the order of `TISSUES`.
    """

    tissues: Floats

    @classmethod
    def read(cls, grey: Path, white: Path, brain: Path, margin: int = 24) -> Atlas:
        """Build the maps from those of grey and white matter and an image of the brain alone (NIfTI, RAS+).

        Args:
            grey: Share of grey matter, any scale.
            white: Share of white matter.
            brain: Positive inside the brain.
            margin: Voxels added on each side, for skull and scalp.
        """

        def load(path: Path) -> Floats:
            values: Floats = nibabel.nifti1.load(path).get_fdata(dtype=np.float32)
            padded: Floats = np.pad(values / float(values.max()), margin)
            return padded

        grey_map, white_map, inside = load(grey), load(white), load(brain) > 0
        outside = distance_transform_edt(~inside).astype(np.float32)
        fluid = (outside <= GAP) * np.clip(1 - grey_map - white_map, 0, 1)
        skull = ((outside > GAP) & (outside <= BONE)).astype(np.float32)
        scalp = ((outside > BONE) & (outside <= SKIN)).astype(np.float32)
        x, y, z = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in inside.shape), indexing="ij")
        front = (x / 0.5) ** 2 + ((y - 0.45) / 0.45) ** 2 + ((z + 0.75) / 0.6) ** 2 < 1
        neck = (x / 0.45) ** 2 + ((y + 0.15) / 0.45) ** 2 < 1
        face = ((front | (neck & (z < -0.6))) & (outside > BONE)).astype(np.float32)
        tissues = np.stack([grey_map, white_map, fluid, skull, scalp * (1 - face), face])
        return cls(tissues)


def head_slice(atlas: Atlas, size: int, random: np.random.Generator) -> Floats:
    """Return a random slice through a random head.

    Args:
        atlas: Whose tissues.
        size: Side of the image, pixels.
        random: Where all randomness comes from.

    Returns:
        ``(size, size)``, 0 to 1.
    """
    places = _plane(atlas.tissues.shape[1:], size, random)
    shares = np.stack([map_coordinates(t, places, order=1, mode="constant") for t in atlas.tissues])
    kind = random.choice([*CONTRASTS, "any"])
    usual = np.array(CONTRASTS.get(kind, random.uniform(0, 1, len(TISSUES))))
    levels = np.clip(usual + random.normal(0, 0.08, len(TISSUES)), 0.02, 1)
    texture = np.stack([_smooth(size, random.uniform(0.8, 4), random) for _ in TISSUES])
    rough = np.array([0.06, 0.04, 0.04, 0.3, 0.15, 0.5])[:, None, None]
    image = (shares * levels[:, None, None] * np.clip(1 + rough * texture, 0, 2)).sum(0)
    # Cavities of the face: what lies below a level of smooth noise is air.
    image *= 1 - shares[5] * (_smooth(size, random.uniform(2, 5), random) > 0.5)
    brain = shares[:3].sum(0)
    for _ in range(random.choice([0, 1, 1, 2])):
        image = _lesion(image, brain, random)
    return _scanned(image, random)


def _plane(shape: tuple[int, ...], size: int, random: np.random.Generator) -> Floats:
    """Return where the pixels of a random plane lie in the atlas, ``(3, size, size)`` voxels, top row first."""
    axis = int(random.integers(3))
    across = [(1, 2), (0, 2), (0, 1)][axis]
    # Rows run from the top (of the head, or its front in an axial slice), columns along the other axis.
    down, right = across[1], across[0]
    frame = np.eye(3)[[down, right, axis]]
    frame[0] *= -1
    frame = frame @ _rotation(random.normal(0, 0.12, 3))
    zoom, stretch = random.uniform(0.95, 1.45), random.uniform(0.85, 1.15)
    field = max(shape) / zoom
    steps = (np.arange(size) + 0.5) / size - 0.5
    rows, columns = np.meshgrid(steps * field * stretch, steps * field, indexing="ij")
    bend = [_smooth(size, random.uniform(size / 12, size / 6), random) * random.uniform(0, 5) for _ in range(2)]
    depth = random.uniform(-0.32, 0.32) * shape[axis]
    centre = np.array(shape) / 2 + random.normal(0, 4, 3)
    offsets = np.stack([rows + bend[0], columns + bend[1], np.full_like(rows, depth)], axis=-1) @ frame
    places: Floats = np.moveaxis(offsets + centre, -1, 0).astype(np.float32)
    return places


def _rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    turned = np.eye(3)
    for axis, angle in enumerate(angles):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        one = np.eye(3)
        one[[first, second], [first, second]] = np.cos(angle)
        one[first, second], one[second, first] = -np.sin(angle), np.sin(angle)
        turned = turned @ one
    return turned


def _smooth(size: int, width: float, random: np.random.Generator) -> NDArray[np.float64]:
    """Return smooth noise of unit deviation."""
    noise = gaussian_filter(random.normal(0, 1, (size, size)), width, mode="wrap")
    scaled: NDArray[np.float64] = noise / noise.std()
    return scaled


def _lesion(image: Floats, brain: Floats, random: np.random.Generator) -> Floats:
    """Put a lesion somewhere in the brain: solid, or a rim around a core, with or without oedema."""
    inside = np.argwhere(brain > 0.5)
    if not len(inside):
        return image
    size = len(image)
    row, column = inside[random.integers(len(inside))]
    rows, columns = np.meshgrid(np.arange(size) - row, np.arange(size) - column, indexing="ij")
    angle, ratio = random.uniform(0, np.pi), random.uniform(0.6, 1.0)
    along = np.cos(angle) * rows + np.sin(angle) * columns
    aside = (np.cos(angle) * columns - np.sin(angle) * rows) / ratio
    radius = random.uniform(0.02, 0.11) * size
    distance = np.hypot(along, aside) / radius
    distance = distance + random.uniform(0.0, 0.35) * _smooth(size, max(1.0, radius / 2), random)
    level = random.uniform(0.0, 1.1) * image.max()
    if random.random() < 0.4:
        halo = np.clip((random.uniform(1.4, 2.2) - distance) * 2, 0, 1) * (brain > 0.3)
        image = image + halo * random.uniform(-0.25, 0.25)
    body = np.clip((1 - distance) * radius / 1.5, 0, 1)
    core = random.uniform(0, 1) * image.max() if random.random() < 0.4 else level
    centre = np.clip((random.uniform(0.5, 0.8) - distance) * radius / 1.5, 0, 1)
    filling = level * (1 - centre) + core * centre
    filled: Floats = image * (1 - body) + body * filling
    return filled


def _scanned(image: Floats, random: np.random.Generator) -> Floats:
    """Return an image as a scanner gives it: uneven coils, blur, noise, another curve of brightness."""
    size = len(image)
    image = np.clip(image, 0, None) * np.exp(random.uniform(0, 0.35) * _smooth(size, size / 4, random))
    image = gaussian_filter(image, random.uniform(0.2, 0.9))
    noise = random.uniform(0.0, 0.04)
    image = np.hypot(image + random.normal(0, noise, image.shape), random.normal(0, noise, image.shape))
    top = float(np.quantile(image, random.uniform(0.97, 0.999)))
    scaled: Floats = (np.clip(image / max(top, 1e-6), 0, 1) ** random.uniform(0.7, 1.4)).astype(np.float32)
    return scaled
