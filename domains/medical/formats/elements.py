"""Single elements of a DICOM data set, checked, and those that each frame may have its own of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from domains.medical.formats.quiet import quietly
from domains.medical.geometry import Plane
from hub.errors import InvalidInput


@contextmanager
def reworded(message: str, code: str = "damaged") -> Iterator[None]:
    """Replace whatever pydicom raises by ``message``: its own texts quote the values of elements."""
    try:
        with quietly():
            yield
    except InvalidInput:
        raise
    except Exception:  # damaged files lead pydicom to raise anything
        raise InvalidInput(message, code=code) from None


def numbers(dataset: Dataset, keyword: str, count: int) -> NDArray[np.float64] | None:
    """Return the numbers of an element, ``(count,)``, or ``None`` where it is absent or empty.

    Raises:
        InvalidInput: It holds something else.
    """
    with reworded(f"the element {keyword} does not hold numbers", code="bad_element"):
        value = dataset.get(keyword)
        if value is None or (isinstance(value, str | list) and not len(value)):
            return None
        found = np.array(value if np.iterable(value) and not isinstance(value, str) else [value], np.float64)
    if found.size == 0:
        return None
    if found.shape != (count,) or not np.isfinite(found).all():
        raise InvalidInput(
            f"the element {keyword} holds {found.size} numbers, where {count} finite ones belong", code="bad_element"
        )
    return found


def groups(dataset: Dataset, frame: int) -> Iterator[Dataset]:
    """Yield where the elements of a frame may be: its functional groups, those that all share, the data set."""
    for keyword in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        sequence = dataset.get(keyword)
        if sequence:
            yield sequence[frame if keyword.startswith("Per") else 0]


def of_frame(dataset: Dataset, frame: int, macro: str, keyword: str, count: int) -> NDArray[np.float64] | None:
    """Return the numbers of an element that each frame may have its own of.

    Args:
        dataset: The whole data set.
        frame: Number of the frame.
        macro: Keyword of the functional group's sequence (PS3.3, C.7.6.16.2).
        keyword: Of the element in it.
        count: How many numbers belong in it.
    """
    with reworded("the functional groups of the frames are damaged, or fewer than the frames"):
        for group in groups(dataset, frame):
            if macro in group and group[macro].value and keyword in group[macro].value[0]:
                return numbers(group[macro].value[0], keyword, count)
    return numbers(dataset, keyword, count)


def plane(dataset: Dataset, frame: int) -> Plane:
    """Return where a frame lies.

    Raises:
        InvalidInput: A spacing is not positive, or the directions are not at right angles.
    """
    position = of_frame(dataset, frame, "PlanePositionSequence", "ImagePositionPatient", 3)
    directions = of_frame(dataset, frame, "PlaneOrientationSequence", "ImageOrientationPatient", 6)
    spacing = of_frame(dataset, frame, "PixelMeasuresSequence", "PixelSpacing", 2)
    if spacing is not None and not (spacing > 0).all():
        raise InvalidInput("PixelSpacing is not positive; it must be the millimetres between pixels", code="spacing")
    if directions is not None:
        directions = directions.reshape(2, 3)
        lengths = np.linalg.norm(directions, axis=1)
        if not np.allclose(lengths, 1, atol=1e-2) or abs(float(directions[0] @ directions[1])) > 1e-2:
            raise InvalidInput(
                "ImageOrientationPatient does not hold two unit vectors at right angles", code="bad_orientation"
            )
        directions /= lengths[:, np.newaxis]
    thickness = None
    for keyword in ("SpacingBetweenSlices", "SliceThickness"):
        found = of_frame(dataset, frame, "PixelMeasuresSequence", keyword, 1)
        if thickness is None and found is not None and found[0] > 0:
            thickness = float(found[0])
    pair = (float(spacing[0]), float(spacing[1])) if spacing is not None else None
    return Plane(position, directions, pair, thickness)
