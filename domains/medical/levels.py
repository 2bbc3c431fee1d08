"""What speaks against the values and the spacing of an image that is accepted."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from domains.medical.image import MedicalImage
from hub.doubts import Doubt

LOOK = 1 << 17
"""Values that are looked at, evenly spread: enough to tell shares of a hundredth."""
FEW = 16
"""Different values up to which an image is a drawing or a mask rather than a picture of a body."""
WHITE_SHARE = 0.2
"""Share of values at the highest one from which on an image is overexposed, or has a white ground."""
SPACING = (0.05, 12.0)
"""Millimetres from voxel to voxel between which the volumes of clinical scanners lie."""


def level_doubts(image: MedicalImage) -> Iterator[Doubt]:
    """Yield what a user should know about an image's values and spacing."""
    values = image.values.reshape(-1)
    values = values[:: max(1, values.size // LOOK)]
    different = len(np.unique(values))
    if different <= FEW:
        yield Doubt(f"The image holds {different} different values: a drawing or a mask?", "few_values")
    elif (share := float((values == values.max()).mean())) >= WHITE_SHARE:
        yield Doubt(f"{share:.0%} of the values are the highest one: overexposed, or on a white ground.", "clipped")
    if image.modality == "CT" and float(values.min()) >= 0:
        text = "A CT without a value below 0: fat and air are missing, so these are no Hounsfield units."
        yield Doubt(text, "scale_implausible")
    if image.is_volume and image.spacing is not None:
        low, high = min(image.spacing), max(image.spacing)
        if low < SPACING[0] or high > SPACING[1]:
            text = f"Voxels {low:.3g} to {high:.3g} mm apart; scanners leave {SPACING[0]:g} to {SPACING[1]:g} mm."
            yield Doubt(text, "spacing_out_of_range")
