"""Class numbers as files that viewers open."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from torch import Tensor

from domains.medical.image import MedicalImage
from domains.medical.writing import nifti
from hub.modeling import TaskFile


def class_file(classes: Tensor, image: MedicalImage) -> TaskFile:
    """Return class numbers as NIfTI with the image's affine; of a picture without a place in a patient, as PNG.

    Args:
        classes: ``(slices, rows, columns)``, below 256.
        image: What was segmented.
    """
    numbers = classes.cpu().numpy().astype(np.uint8)
    if image.is_volume or image.affine is not None:
        return TaskFile(nifti(numbers, image), "application/gzip", "segments.nii.gz")
    stream = io.BytesIO()
    Image.fromarray(numbers[0]).save(stream, "PNG")
    return TaskFile(stream.getvalue(), "image/png", "segments.png")
