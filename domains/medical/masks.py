"""Segmentation masks: the classes of an image's voxels, in the image's own order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from domains.medical.formats.limits import Limits
from domains.medical.formats.nifti import is_nifti, read_nifti, unpacked_head
from domains.medical.formats.pictures import format_of, read_labels
from domains.medical.geometry import canonical
from domains.medical.image import MedicalImage
from domains.medical.reading import MedicalReader
from hub.errors import InvalidInput, UnsupportedFormat
from hub.reading import Source

MAX_CLASS = 255
MOST_EMPTY = 10_000
"""Most voxels that PNG, with 1 bit for each, packs into a byte."""
NEAR = 0.1
"""Share of a voxel by which the corners of a mask and of its image may lie apart."""


def read_mask(source: Source, image: MedicalImage, reader: MedicalReader | None = None) -> NDArray[np.int64]:
    """Read the mask of an image: NIfTI for a volume, a grey or palette picture for a single slice.

    Args:
        source: The mask's file.
        image: What it is the mask of, as the reader gives it.
        reader: Whose limits hold; those of a `MedicalReader` by default.

    Returns:
        ``(slices, rows, columns)`` of class numbers, 0 for background, in the order of ``image.values``.

    Raises:
        UnsupportedFormat: The file is neither of the two.
        InvalidInput: The mask is damaged, holds something else than class numbers, or does not fit the image.
    """
    # A mask is next to empty: it compresses as far as its format can.
    limits = replace((reader or MedicalReader()).bounds(), max_expansion=MOST_EMPTY)
    try:
        limits.check_bytes(source.size)
        if (kind := format_of(source.head(16))) is not None:
            labels = read_labels(source, kind, limits)[np.newaxis]
        elif is_nifti(unpacked_head(source)):
            labels = _volume(source, image, limits)
        else:
            raise UnsupportedFormat(
                "no mask that is known here: NIfTI (.nii, .nii.gz) for volumes, PNG or TIFF with class numbers as "
                "pixels for slices",
                code="bad_mask",
            )
        if labels.shape != image.values.shape[1:]:
            raise InvalidInput(
                f"the mask has {_by(labels.shape)} slices, rows and columns, its image {_by(image.values.shape[1:])}",
                code="mask_shape",
            )
        if labels.min() < 0 or labels.max() > MAX_CLASS:
            raise InvalidInput(
                f"the mask holds numbers from {labels.min()} to {labels.max()}; classes are 0 to {MAX_CLASS}",
                code="bad_mask",
            )
        return labels
    except InvalidInput as error:
        raise error.at(source.name) from None


def _volume(source: Source, image: MedicalImage, limits: Limits) -> NDArray[np.int64]:
    volume = read_nifti(source, limits)
    values = volume.values[np.newaxis]
    turned, affine, _ = canonical(values, volume.affine)
    if not np.isfinite(turned).all() or (turned != np.round(turned)).any():
        raise InvalidInput("the mask holds numbers that are not whole: it is an image, not a mask", code="bad_mask")
    if turned.shape[1:] == image.values.shape[1:] and image.affine is not None and volume.oriented:
        corners = np.array([[0, 0, 0, 1], [*(n - 1 for n in turned.shape[1:]), 1]]).T
        apart = np.abs((affine - image.affine) @ corners)[:3].max()
        if apart > NEAR * min(np.linalg.norm(image.affine[:3, :3], axis=0)):
            raise InvalidInput(
                f"the mask lies {apart:.3g} mm beside its image: their affines differ; resample one to the other",
                code="mask_place",
            )
    return turned[0].astype(np.int64)


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
