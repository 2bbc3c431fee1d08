"""Small synthetic images to try things on: a phantom of a head, in the containers that people have."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid
from scipy.ndimage import gaussian_filter

SERIES_SLICES = 24


def phantom(slices: int, rows: int, columns: int, seed: int = 0) -> NDArray[np.float32]:
    """Return a head-like volume: skull, brain with soft folds, two ventricles and some lesions.

    Args:
        slices: From foot to head.
        rows: From front to back.
        columns: From right to left.
        seed: Of its shape and texture.

    Returns:
        ``(slices, rows, columns)`` float32, 0 (air) to 1 (bone).
    """
    random = np.random.default_rng(seed)
    shape = (slices, rows, columns)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    lean = random.uniform(-0.08, 0.08, 3)
    radius = np.sqrt(((z - lean[0]) / 1.1) ** 2 + ((y - lean[1]) / 0.9) ** 2 + ((x - lean[2]) / 0.75) ** 2)
    folds = gaussian_filter(random.normal(0, 1, shape), (1.0, 1.5, 1.5))
    head = np.where(radius < 0.88, 0.5 + 0.08 * folds / folds.std(), 0.0)
    head[(radius >= 0.88) & (radius < 1.0)] = 0.95
    for side in (-1, 1):
        ventricle = (z / 0.35) ** 2 + ((y + 0.1) / 0.4) ** 2 + ((x - side * 0.16) / 0.09) ** 2
        head[ventricle < 1] = 0.2
    for _ in range(3):
        centre, size = random.uniform(-0.4, 0.4, 3), random.uniform(0.06, 0.16)
        head[((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2) < size**2] = random.uniform(
            0.65, 0.85
        )
    noisy = gaussian_filter(head, 0.6) + random.normal(0, 0.015, shape)
    return np.clip(noisy, 0, 1).astype(np.float32)


def write_samples(folder: Path) -> list[Path]:
    """Write synthetic images in the formats that people have; the same on every call.

    The volumes come first: they are fit for models of slices and of volumes alike.

    Args:
        folder: An existing folder.
    """
    paths = [
        folder / f"synthetic-{name}"
        for name in ("volume.nii", "series.zip", "ct-slice.dcm", "mr-slice.dcm", "picture.png", "colour.jpg")
    ]
    volume, series, ct, mr, picture, colour = paths
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[:3, 3] = (-20, -24, -20)
    oriented = phantom(40, 48, 40, 1)[:, ::-1, ::-1].transpose(2, 1, 0)  # to the RAS+ order of NIfTI
    nibabel.Nifti1Image(np.round(1000 * oriented).astype(np.int16), affine).to_filename(volume)
    _write_series(series, phantom(SERIES_SLICES, 48, 40, 2))
    ct.write_bytes(as_dicom(2000 * phantom(3, 96, 96, 3)[1] - 1000, "CT", 3))
    mr.write_bytes(as_dicom(900 * phantom(3, 80, 64, 4)[1], "MR", 4))
    Image.fromarray(np.round(65535 * phantom(3, 96, 80, 5)[1]).astype(np.uint16)).save(picture)
    grey = np.round(255 * phantom(3, 72, 72, 6)[1]).astype(np.uint8)
    Image.fromarray(np.stack([grey, grey // 2, grey // 3], axis=-1)).save(colour, quality=90)
    return paths


def as_dicom(
    values: NDArray[np.floating],
    modality: str = "MR",
    seed: int = 0,
    position: tuple[float, float, float] = (0.0, 0.0, 0.0),
    spacing: tuple[float, float] = (1.0, 1.0),
) -> bytes:
    """Return an axial slice as the bytes of a DICOM file, without anything that would identify a patient.

    Args:
        values: ``(rows, columns)``; Hounsfield units for CT. Rounded to whole numbers.
        modality: ``CT`` or ``MR``.
        seed: Slices of one seed belong to one series.
        position: Of the first pixel, patient coordinates in millimetres.
        spacing: Between rows and between columns, millimetres.
    """
    ct = modality == "CT"
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = CTImageStorage if ct else MRImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["synthetic", str(seed), str(position)])
    data = Dataset()
    data.file_meta = meta
    data.SOPClassUID = meta.MediaStorageSOPClassUID
    data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    data.SeriesInstanceUID = generate_uid(entropy_srcs=["synthetic", str(seed)])
    data.Modality = modality
    data.PatientIdentityRemoved = "YES"
    data.ImagePositionPatient = list(position)
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.PixelSpacing = list(spacing)
    data.SliceThickness = 2
    data.SamplesPerPixel = 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.Rows, data.Columns = values.shape
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.PixelRepresentation = 1
    data.RescaleSlope, data.RescaleIntercept = 1, -1024 if ct else 0
    if ct:
        data.WindowCenter, data.WindowWidth = 40, 400
    data.PixelData = np.round(values - data.RescaleIntercept).astype("<i2").tobytes()
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _write_series(path: Path, volume: NDArray[np.float32]) -> None:
    """Write slices whose alphabetical order is not their order in the patient."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, values in enumerate(volume):
            content = as_dicom(900 * values, "MR", 2, (-20.0, -24.0, 2.0 * number))
            archive.writestr(zipfile.ZipInfo(f"series/{number + 1}.dcm", (1980, 1, 1, 0, 0, 0)), content)
