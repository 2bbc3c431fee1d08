"""Files for tests: the synthetic slice of the domain with elements changed, archives, volumes; and their reading."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from domains.medical.reading import MedicalReader
from domains.medical.samples import as_dicom
from hub.errors import InvalidInput
from hub.reading import Sample, Source


def edit(content: bytes, removed: Iterable[str] = (), **elements: Any) -> bytes:
    """Return a file with elements set, to values or whole elements, or removed."""
    data = pydicom.dcmread(io.BytesIO(content))
    for name in removed:
        del data[name]
    for name, value in elements.items():
        if isinstance(value, DataElement):
            data.add(value)
        else:
            setattr(data, name, value)
    buffer = io.BytesIO()
    data.save_as(buffer)
    return buffer.getvalue()


def series(
    volume: np.ndarray, origin: np.ndarray, axes: np.ndarray, spacing: tuple[float, float, float]
) -> list[bytes]:
    """Return slices of ``volume[slice, row, column]``; ``axes`` are unit vectors along those, in LPS."""
    files = []
    for number, values in enumerate(volume):
        position = origin + number * spacing[0] * axes[0]
        content = as_dicom(values, "MR", 1, tuple(round(float(p), 9) for p in position), spacing[1:])
        directions = [round(float(n), 9) for n in (*axes[2], *axes[1])]
        files.append(edit(content, ImageOrientationPatient=directions, SpacingBetweenSlices=spacing[0]))
    return files


def multi_frame(volume: np.ndarray, frames: list[Mapping[str, Any]]) -> bytes:
    """Return an enhanced MR file; a frame's mapping may hold position, slope and intercept."""
    content = as_dicom(volume[0], "MR", 5)
    removed = ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"]
    removed += ["RescaleSlope", "RescaleIntercept"]

    def item(**elements: Any) -> Dataset:
        data = Dataset()
        for name, value in elements.items():
            setattr(data, name, value)
        return data

    shared = item(
        PlaneOrientationSequence=Sequence([item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]),
        PixelMeasuresSequence=Sequence([item(PixelSpacing=[1.5, 1.25], SliceThickness=2)]),
    )
    groups = []
    for frame in frames:
        group = item()
        if "position" in frame:
            group.PlanePositionSequence = Sequence([item(ImagePositionPatient=frame["position"])])
        if "slope" in frame:
            scale = item(RescaleSlope=frame["slope"], RescaleIntercept=frame["intercept"], RescaleType="US")
            group.PixelValueTransformationSequence = Sequence([scale])
        groups.append(group)
    return edit(
        content,
        removed,
        NumberOfFrames=len(volume),
        SharedFunctionalGroupsSequence=Sequence([shared]),
        PerFrameFunctionalGroupsSequence=Sequence(groups),
        PixelData=volume.astype("<i2").tobytes(),
    )


def archive(files: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a ZIP archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as zipped:
        for name, content in files.items():
            zipped.writestr(name, content)
    return buffer.getvalue()


def read_all(content: bytes, name: str = "x") -> list[Sample]:
    return list(MedicalReader().read(Source.from_bytes(content, name)))


def read_one(content: bytes) -> Sample:
    (sample,) = read_all(content)
    return sample


def refused(content: bytes, match: str, code: str, kind: type[InvalidInput] = InvalidInput) -> None:
    with pytest.raises(kind, match=match) as caught:
        read_all(content)
    assert caught.value.code == code and caught.value.source == "x"


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def nifti(values: np.ndarray, affine: np.ndarray, kind: type = nibabel.Nifti1Image) -> bytes:
    return kind(values, affine).to_bytes()
