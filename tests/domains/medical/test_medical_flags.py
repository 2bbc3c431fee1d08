from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from domains.medical.reading import MedicalReader
from hub.reading import Source

NOISE = np.random.default_rng(0).normal(100, 20, (24, 24, 24)).astype(np.float32)


def volume(values: np.ndarray, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Source:
    image = nib.Nifti1Image(values, np.diag([*spacing, 1.0]))
    image.header.set_xyzt_units("mm")
    return Source.from_bytes(image.to_bytes(), "volume.nii")


@pytest.mark.parametrize(
    ("source", "flags"),
    [
        (volume(NOISE), ()),
        (volume(NOISE, (1.0, 1.0, 40.0)), ("spacing_out_of_range",)),
        (volume(NOISE, (0.01, 0.01, 0.01)), ("spacing_out_of_range",)),
        (volume(np.minimum(NOISE, 100)), ("clipped",)),
        (volume(np.round(NOISE / 15)), ("few_values",)),
        (volume(np.where(NOISE > 130, 900, -1000 + NOISE)), ("scale_assumed",)),
    ],
    ids=["volume", "thick slices", "microscope", "overexposed", "drawing", "like a CT"],
)
def test_flags_of_a_volume(source: Source, flags: tuple[str, ...]) -> None:
    (sample,) = MedicalReader().read(source)
    assert sample.flags == flags
