"""One medical image, whatever file it came from: a picture, a slice or a volume in one convention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

AXES = ("foot to head", "front to back", "right to left")
"""Directions in which the last three axes of a volume with known geometry run: reversed, the ``LPS+`` of DICOM."""


@dataclass(frozen=True)
class MedicalImage:
    """A picture, one slice or a volume.

    Attributes:
        values: ``(channels, slices, rows, columns)`` float32. Hounsfield units for CT; for other modalities what the
            file stores, after its rescale slope and intercept; for pictures (PNG, JPEG, TIFF) and for whatever is in
            colour 0 to 1 of the format's range. One channel (grey) or three (RGB).
        affine: ``(4, 4)`` float64, from (slice, row, column) indices to millimetres in the ``RAS+`` frame of NIfTI, or
            ``None`` where the file knows no place in the patient. A volume with an affine is in canonical order: its
            axes run as `AXES` says, as closely as flips and transposition allow.
        spacing: Millimetres between the centres of neighbouring slices, rows and columns; ``None`` where unknown.
        modality: DICOM's code (``CT``, ``MR``, ``US``, ``CR``, ...), empty where unknown.
        slice_axis: 0, 1 or 2: along which of the last three axes the slices were acquired (for volumes; 0 otherwise).
        window: Centre and width of the window to look through that the file names, in the units of ``values``.
    """

    values: NDArray[np.float32]
    affine: NDArray[np.float64] | None = None
    spacing: tuple[float, float, float] | None = None
    modality: str = ""
    slice_axis: int = 0
    window: tuple[float, float] | None = None

    @property
    def is_volume(self) -> bool:
        """Whether there is more than one slice."""
        return self.values.shape[1] > 1

    def slices(self) -> NDArray[np.float32]:
        """Return the slices as they were acquired, ``(slices, channels, rows, columns)``, as they are looked at.

        Coronal and sagittal slices have the head at their top, as a single slice from a file has; so one slice is the
        same picture, alone or in its series.
        """
        slices = np.moveaxis(self.values, 1 + self.slice_axis, 0)
        # torch takes no arrays that run backwards, so they are copied.
        return slices if self.slice_axis == 0 else np.ascontiguousarray(slices[:, :, ::-1])


def from_slices(slices: NDArray[Any], slice_axis: int) -> NDArray[Any]:
    """Undo `MedicalImage.slices`: ``(slices, channels, rows, columns)`` to values, for what was made slice by slice.

    Args:
        slices: In any type.
        slice_axis: Of the image.
    """
    upright = slices if slice_axis == 0 else slices[:, :, ::-1]
    return np.ascontiguousarray(np.moveaxis(upright, 0, 1 + slice_axis))
