"""A picture of an image: a slice in its window, or the three middle planes of a volume; never a text of its header."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from domains.medical.image import MedicalImage
from domains.medical.intensity import AS_IN_FILE, unit_range
from hub.drawing import as_png, new_figure
from hub.modeling import TaskFile
from hub.reading import Sample

LARGEST_SIDE = 512
"""Pixels; of larger planes every second, third, ... is drawn."""
PLANES = ("axial", "coronal", "sagittal")


def preview(sample: Sample, small: bool = False) -> TaskFile:
    """Return a PNG of a slice, or of a volume's three middle planes with the head up, in their true proportions.

    Args:
        sample: Of the domain's reader.
        small: One plane without a caption, for a list.
    """
    image: MedicalImage = sample.data
    planes = _planes(image)[: 1 if small else 3]
    grey = _in_window(image, [values for values, _ in planes])
    widths = [values.shape[2] for values, _ in planes]
    heights = [values.shape[1] * aspect for values, aspect in planes]
    if small:
        figure = new_figure(200, 140)
    else:
        figure = new_figure(760 if len(planes) > 1 else 480, 320 if len(planes) > 1 else 420)
    figure.set_facecolor("black")
    scale = [w / h for w, h in zip(widths, heights, strict=True)]
    every = figure.subplots(1, len(planes), squeeze=False, width_ratios=scale)[0]
    for number, (axes, pixels, (_, aspect)) in enumerate(zip(every, grey, planes, strict=True)):
        axes.imshow(np.moveaxis(np.broadcast_to(pixels, (3, *pixels.shape[1:])), 0, -1), aspect=aspect)
        axes.set_axis_off()
        if not small:
            axes.set_title(_caption(image, number, len(planes)), color="#c9d1d6", fontsize=9)
    return as_png(figure)


def _planes(image: MedicalImage) -> list[tuple[NDArray[np.float32], float]]:
    """Return planes ``(channels, rows, columns)`` and the height of their pixels over the width."""
    slices, rows, columns = image.spacing or (1.0, 1.0, 1.0)
    values = image.values
    if not image.is_volume:
        return [_reduced(values[:, 0], rows / columns)]
    _, depth, height, width = values.shape
    return [
        _reduced(values[:, depth // 2], rows / columns),
        # The first axis runs from foot to head, and pictures from top to bottom.
        _reduced(values[:, ::-1, height // 2], slices / columns),
        _reduced(values[:, ::-1, :, width // 2], slices / rows),
    ]


def _reduced(plane: NDArray[np.float32], aspect: float) -> tuple[NDArray[np.float32], float]:
    down, across = (-(-side // LARGEST_SIDE) for side in plane.shape[1:])
    return plane[:, ::down, ::across], aspect * down / across


def _in_window(image: MedicalImage, planes: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    """Bring planes to 0 to 1 by one window for all."""
    flat = np.concatenate([plane.reshape(len(plane), -1) for plane in planes], axis=1)
    kind = image.modality or ("volume" if image.is_volume or image.affine is not None else "")
    seen = unit_range(replace(image, values=flat[:, None, None]), AS_IN_FILE, (0.5, 99.5), kind)[:, 0, 0]
    ends = np.cumsum([plane[0].size for plane in planes])[:-1]
    parts = np.split(seen, ends, axis=1)
    return [part.reshape(plane.shape) for part, plane in zip(parts, planes, strict=True)]


def _caption(image: MedicalImage, number: int, planes: int) -> str:
    rows, columns = image.values.shape[2:]
    if planes > 1:
        axis = image.values.shape[1 + number]
        name = PLANES[number] if image.affine is not None else f"axis {number + 1}"
        return f"{name}, {axis // 2 + 1} of {axis}"
    size = f"{columns} x {rows} pixels"
    return f"{image.modality}, {size}" if image.modality else size
