"""Results as files: volumes as NIfTI where their image lies, pictures as PNG. No file says whose image it was."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from domains.medical.image import MedicalImage
from hub.errors import UnsupportedOption

SUFFIXES = (".nii.gz", ".nii", ".npy", ".png")


def nifti(voxels: NDArray[np.generic], image: MedicalImage) -> bytes:
    """Return voxels on an image's grid as a gzipped NIfTI file, in the axis order nearest to ``RAS+``.

    So a volume that was read from a ``RAS+`` file comes out voxel by voxel where it was. Without a place in the
    patient, voxels lie at their spacing (1 mm where that is unknown) from the origin. Equal voxels give equal bytes.

    Args:
        voxels: ``(slices, rows, columns)`` uint8 or float32.
        image: Whose grid it is.
    """
    affine = np.diag([*(image.spacing or (1.0, 1.0, 1.0)), 1.0]) if image.affine is None else image.affine
    # (column, row, slice) is the (x, y, z) that viewers expect of a file without a place in the patient.
    turned = affine[:, [2, 1, 0, 3]] if image.affine is not None else np.diag(affine.diagonal()[[2, 1, 0, 3]])
    file = nibabel.Nifti1Image(np.ascontiguousarray(voxels.transpose(2, 1, 0)), turned)
    file.header.set_xyzt_units("mm")
    return gzip.compress(nibabel.as_closest_canonical(file).to_bytes(), mtime=0)


def write_image(path: Path, image: MedicalImage) -> None:
    """Write an image of one channel, in the format of the file's suffix.

    Args:
        path: ``.nii.gz`` or ``.nii`` with the image's place; ``.npy`` for ``(slices, rows, columns)`` float32, of a
            picture or single slice ``(rows, columns)``; ``.png`` for a picture, 16 bits a pixel.
        image: With values in any units, for PNG from 0 to 1.

    Raises:
        UnsupportedOption: There is no such format, or it cannot hold this image.
    """
    suffix = suffix_of(path, image)
    values = image.values[0]
    flat = values if image.is_volume else values[0]
    if suffix.startswith(".nii"):
        content = nifti(values, image)
        path.write_bytes(content if suffix == ".nii.gz" else gzip.decompress(content))
    elif suffix == ".npy":
        stream = io.BytesIO()
        np.save(stream, flat, allow_pickle=False)
        path.write_bytes(stream.getvalue())
    else:
        levels = (flat.clip(0, 1) * 65535).round().astype(np.uint16)
        Image.fromarray(levels).save(path)


def suffix_of(path: Path, image: MedicalImage) -> str:
    """Return which of `SUFFIXES` a result is to be written as.

    Raises:
        UnsupportedOption: There is no such format, or it cannot hold this image.
    """
    suffix = next((s for s in SUFFIXES if path.name.lower().endswith(s)), None)
    if suffix is None:
        raise UnsupportedOption(f"{path.name}: name a file that ends with {', '.join(SUFFIXES)}", param="out")
    if suffix == ".png" and (image.is_volume or image.affine is not None or image.modality):
        raise UnsupportedOption(
            f"{path.name}: a PNG holds a picture from 0 to 1, and this image has slices, a place in a patient or units "
            "of its own; name a .nii.gz or .npy file",
            param="out",
        )
    return suffix
