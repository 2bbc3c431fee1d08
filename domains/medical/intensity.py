"""What 0 and 1 stand for in an image: a window of Hounsfield units, percentiles, or the range of the format."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from domains.medical.image import MedicalImage

WINDOWS = {
    "soft_tissue": (40.0, 400.0),
    "abdomen": (50.0, 350.0),
    "brain": (40.0, 80.0),
    "bone": (400.0, 1800.0),
    "lung": (-600.0, 1500.0),
    "liver": (90.0, 150.0),
    "mediastinum": (40.0, 350.0),
}
"""Centre and width of the usual windows, Hounsfield units; ``abdomen`` is that of Alice, -125 to 225."""
AS_IN_FILE = "file"
"""Stands for the window that the file names, and for ``soft_tissue`` where it names none."""
GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""Weights of red, green and blue (ITU-R BT.601)."""

Window = str | Sequence[float]


def check_window(window: Window) -> None:
    """Raise ValueError when a window is neither known by name nor a centre and a positive width."""
    if isinstance(window, str):
        if window not in (*WINDOWS, AS_IN_FILE):
            names = ", ".join((*WINDOWS, AS_IN_FILE))
            raise ValueError(f"ct_window={window!r}: give [centre, width] or one of {names}")
    elif len(window) != 2 or not window[1] > 0:
        raise ValueError(f"ct_window={window}: a centre and a positive width, Hounsfield units")


def check_percentiles(percentiles: Sequence[float]) -> None:
    """Raise ValueError unless there are two of them, rising, between 0 and 100."""
    if len(percentiles) != 2 or not 0 <= percentiles[0] < percentiles[1] <= 100:
        raise ValueError(f"percentiles={percentiles}: two numbers, rising, between 0 and 100")


def unit_range(
    image: MedicalImage, window: Window, percentiles: Sequence[float], modality: str = ""
) -> NDArray[np.float32]:
    """Return an image's values brought to the range 0 to 1 and clipped there, of the same shape.

    CT goes through the window; a picture (no modality, no place in the patient) stays as it is; and what else there is
    goes from one percentile of the foreground to the other. Foreground is what is brighter than the darkest value,
    which is what most scanners and croppers fill the background with.

    Args:
        image: In whatever units its modality has.
        window: See `check_window`.
        percentiles: Lower and upper.
        modality: Of images that do not tell theirs.
    """
    known = image.modality or modality
    if known == "CT":
        if window == AS_IN_FILE:
            window = image.window or WINDOWS["soft_tissue"]
        centre, width = WINDOWS[window] if isinstance(window, str) else window
        low, high = centre - width / 2, centre + width / 2
    elif not known and image.affine is None and not image.is_volume:
        low, high = 0.0, 1.0
    else:
        foreground = image.values[image.values > image.values.min()]
        if not foreground.size:
            return np.zeros_like(image.values)
        low, high = np.percentile(foreground, percentiles)
        if not high > low:  # a foreground of one value, as of a mask
            low = high - 1.0
    return ((image.values - np.float32(low)) / np.float32(high - low)).clip(0, 1)


def grey(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return ``(channels, ...)`` of one or three channels as one, ``(...)``."""
    return values[0] if len(values) == 1 else np.tensordot(GREY, values, axes=1)
