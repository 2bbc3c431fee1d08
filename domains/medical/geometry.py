"""Where slices lie in the patient: their order, the affine of a volume, and one orientation for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from nibabel.orientations import (
    aff2axcodes,
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)
from numpy.typing import NDArray

from hub.doubts import Doubt
from hub.errors import InvalidInput

VOLUME_AXES = ("S", "P", "L")
"""Directions of a canonical volume's axes in nibabel's letters: foot to head, front to back, right to left."""
SLICE_AXES = {"S": ("S", "P", "L"), "P": ("P", "I", "L"), "L": ("L", "I", "P")}
"""Of a single slice, by the axis it is perpendicular to, as radiologists look at it."""
PLANES = {"S": "axial", "P": "coronal", "L": "sagittal"}
_OPPOSITE = {"I": "S", "A": "P", "R": "L"}
LARGEST_GAP = 1.5
"""Of the median distance of neighbouring slices: above it, a slice is missing."""
EVEN = 0.1
"""Relative deviation from the median distance up to which slices count as evenly spaced."""
UPRIGHT = 2.0
"""Degrees up to which a plane is called axial, coronal or sagittal without more."""
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Plane:
    """Where one slice lies, in the patient coordinates of DICOM (``LPS+``, millimetres).

    Attributes:
        position: ``(3,)`` of the centre of the first pixel, or ``None``.
        directions: ``(2, 3)`` unit vectors along a row and down a column, or ``None``.
        spacing: Between rows and between columns, or ``None``.
        thickness: Distance to the next slice as the header states it, or ``None``.
    """

    position: NDArray[np.float64] | None = None
    directions: NDArray[np.float64] | None = None
    spacing: tuple[float, float] | None = None
    thickness: float | None = None

    @property
    def placed(self) -> bool:
        """Whether all that an affine needs is known."""
        return self.position is not None and self.directions is not None and self.spacing is not None


@dataclass(frozen=True)
class Stack:
    """Slices in order.

    Attributes:
        order: Indices of the planes along their normal.
        affine: ``(4, 4)`` from (slice, row, column) to ``RAS+`` millimetres, or ``None``.
        spacing: Between slices, rows and columns, or ``None``.
        warnings: What a user should know, one sentence each.
    """

    order: list[int]
    affine: NDArray[np.float64] | None
    spacing: tuple[float, float, float] | None
    warnings: tuple[str, ...] = ()


def stack(planes: Sequence[Plane]) -> Stack:
    """Put slices in order by their positions projected on their normal.

    Raises:
        InvalidInput: Some have no place, they are not parallel, two lie at one place, or one is missing between them.
    """
    count = len(planes)
    placed = sum(p.placed for p in planes)
    if placed == 0:
        spacing = planes[0].spacing
        known = (planes[0].thickness or 1.0, *spacing) if spacing and count == 1 else None
        text = "The frames have no place in the patient: they are taken as slices in their order."
        unplaced = (Doubt(text, "orientation_assumed"),)
        return Stack(list(range(count)), None, known, unplaced if count > 1 else ())
    if placed < count:
        raise InvalidInput(
            f"{count - placed} of {count} slices have no position, orientation or spacing in the patient, so that they "
            "cannot be put in order",
            code="no_position",
        )
    first = planes[0]
    assert first.directions is not None and first.spacing is not None
    _check_parallel(planes)
    across, down = first.directions
    normal = np.cross(across, down)
    positions = np.array([p.position for p in planes])
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    between = _checked_gaps(along[order])
    doubts: list[str] = []
    if count > 1:
        step = (positions[order[-1]] - positions[order[0]]) / (count - 1)
        tilt = np.degrees(np.arccos(np.clip(step @ normal / np.linalg.norm(step), -1, 1)))
        if np.abs(between / np.median(between) - 1).max() > EVEN:
            text = (
                f"The slices are {between.min():.3g} to {between.max():.3g} mm apart; they are taken as evenly spaced."
            )
            doubts.append(Doubt(text, "uneven_spacing"))
        if tilt > UPRIGHT:
            text = f"The slices are shifted against each other (gantry tilt of {tilt:.0f} degrees)."
            doubts.append(Doubt(text, "uneven_spacing"))
    else:
        step = normal * (first.thickness or 1.0)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = step, down * first.spacing[0], across * first.spacing[1]
    affine[:3, 3] = positions[order[0]]
    return Stack(order.tolist(), LPS_TO_RAS @ affine, spacing_of(affine), tuple(doubts))


def _check_parallel(planes: Sequence[Plane]) -> None:
    reference = planes[0]
    assert reference.directions is not None and reference.spacing is not None
    for plane in planes[1:]:
        assert plane.directions is not None and plane.spacing is not None
        if not np.allclose(plane.directions, reference.directions, atol=1e-2):
            raise InvalidInput(
                "the slices differ in orientation; give the slices of one orientation, without a localizer",
                code="mixed_orientation",
            )
        if not np.allclose(plane.spacing, reference.spacing, rtol=1e-2):
            raise InvalidInput("the slices differ in pixel spacing; give the slices of one grid", code="mixed_spacing")


def _checked_gaps(along: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distances of neighbours, ``(slices - 1,)`` mm, of positions in order."""
    between = np.diff(along)
    count = len(along)
    same = np.flatnonzero(between < 1e-3)
    if same.size:
        raise InvalidInput(
            f"slices {same[0] + 1} and {same[0] + 2} of {count}, counted along their normal, lie at one place: a slice "
            "is there twice, or these are several echoes, phases or time points; give one of them",
            code="same_position",
        )
    wide = np.flatnonzero(between > LARGEST_GAP * np.median(between)) if count > 2 else np.array([], int)
    if wide.size:
        raise InvalidInput(
            f"slices {wide[0] + 1} and {wide[0] + 2} of {count}, counted along their normal, are "
            f"{between[wide[0]]:.4g} mm apart, where the median is {np.median(between):.4g} mm: a slice is missing",
            code="missing_slice",
        )
    return between


def spacing_of(affine: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the millimetres from voxel to voxel along each axis of an affine."""
    slices, rows, columns = (round(float(n), 6) for n in np.linalg.norm(affine[:3, :3], axis=0))
    return slices, rows, columns


def check_affine(affine: NDArray[np.float64]) -> None:
    """Raise InvalidInput for an affine that maps no volume into space."""
    if not np.isfinite(affine).all():
        raise InvalidInput("the affine holds NaN or infinite values; it must map voxels to millimetres", code="affine")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if lengths.min() < 1e-6 or abs(np.linalg.det(affine[:3, :3] / np.maximum(lengths, 1e-12))) < 1e-3:
        raise InvalidInput(
            "the affine cannot be inverted: it maps the volume to a plane, a line or a point", code="affine"
        )


def canonical(
    values: NDArray[np.float32], affine: NDArray[np.float64], slice_axis: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.float64], int]:
    """Flip and transpose to the one orientation of `domains.medical.image`.

    Args:
        values: ``(channels, a, b, c)``.
        affine: From indices of the last three axes to ``RAS+`` millimetres.
        slice_axis: Which of the last three axes the slices were acquired along.

    Returns:
        Values and affine in canonical order, and where the slice axis went. A single slice, whose slice axis must be
        the first, keeps it there; its rows and columns are turned to how its plane is looked at.
    """
    letters = tuple(_OPPOSITE.get(c, c) for c in aff2axcodes(affine))
    wanted = VOLUME_AXES if values.shape[1 + slice_axis] > 1 else SLICE_AXES[letters[slice_axis]]
    change = ornt_transform(io_orientation(affine), axcodes2ornt(wanted))
    turned = np.moveaxis(apply_orientation(np.moveaxis(values, 0, -1), change), -1, 0)
    return (
        np.ascontiguousarray(turned, np.float32),
        affine @ inv_ornt_aff(change, values.shape[1:]),
        int(change[slice_axis, 0]),
    )


def describe(affine: NDArray[np.float64], slice_axis: int = 0) -> str:
    """Return the plane in which slices were acquired: ``"axial"``, ``"coronal, oblique by 12 degrees"``."""
    first, second = (affine[:3, axis] for axis in range(3) if axis != slice_axis)
    normal = np.cross(first, second)
    parts = np.abs(normal) / np.linalg.norm(normal)
    plane = ("sagittal", "coronal", "axial")[int(parts.argmax())]
    angle = float(np.degrees(np.arccos(min(parts.max(), 1.0))))
    return plane if angle <= UPRIGHT else f"{plane}, oblique by {angle:.0f} degrees"
