"""Valid files with bytes changed, cut off or put in: a sample or a refusal, in little time, and nothing else."""

from __future__ import annotations

import gzip
import io
import tracemalloc
from time import thread_time

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.uid import RLELossless

from domains.medical.image import MedicalImage
from domains.medical.masks import read_mask
from domains.medical.reading import MedicalReader
from domains.medical.samples import as_dicom, phantom
from hub.errors import InvalidInput
from hub.reading import Source
from tests.domains.medical.files import archive, edit, multi_frame

LIMITS = {"max_voxels": 1 << 22, "max_pixels": 1 << 20, "max_bytes": 1 << 24}
SECONDS = 2.0
MEMORY = 64 << 20


def _rle() -> bytes:
    import pydicom

    data = pydicom.dcmread(io.BytesIO(as_dicom(900 * phantom(1, 24, 20)[0])))
    data.compress(RLELossless)
    buffer = io.BytesIO()
    data.save_as(buffer)
    return buffer.getvalue()


def _files() -> dict[str, bytes]:
    volume = np.round(900 * phantom(10, 12, 9)).astype(np.int16)
    nifti = nibabel.Nifti1Image(volume, np.diag([1.0, 2.0, 3.0, 1.0])).to_bytes()
    frames = multi_frame(volume[:3], [{"position": [0, 0, n], "slope": 2, "intercept": 0} for n in range(3)])
    files = {"dicom": as_dicom(volume[4], "CT"), "rle": _rle(), "frames": frames, "nifti": nifti}
    slices = [edit(as_dicom(s), ImagePositionPatient=[0, 0, n]) for n, s in enumerate(volume[:3])]
    files["zip"] = archive({str(n): s for n, s in enumerate(slices)})
    files["packed"] = gzip.compress(nifti, mtime=0)
    for kind, mode in (("PNG", "RGB"), ("JPEG", "RGB"), ("TIFF", "L"), ("GIF", "P")):
        buffer = io.BytesIO()
        Image.fromarray((volume[4] >> 2).astype(np.uint8)).convert(mode).save(buffer, kind)
        files[kind] = buffer.getvalue()
    return files


FILES = _files()


@st.composite
def mutated(draw: st.DrawFn, content: bytes) -> bytes:
    """Some bytes of a file changed, most often in its header, and maybe an end cut off or bytes put in."""
    data = bytearray(content)
    last = len(data) - 1
    for _ in range(draw(st.integers(0, 8))):
        place = draw(st.one_of(st.integers(0, last), st.integers(0, min(last, 700))))
        data[place] = draw(st.one_of(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]), st.integers(0, 255)))
    if draw(st.booleans()):
        place = draw(st.integers(0, last))
        data[place:place] = draw(st.binary(max_size=16))
    if draw(st.integers(0, 3)) == 0:
        data = data[: draw(st.integers(0, len(data)))]
    return bytes(data)


def tried(content: bytes, image: MedicalImage) -> None:
    """Read a file as an image and as a mask; what cannot be used is refused."""
    reader = MedicalReader(**LIMITS)
    try:
        samples = list(reader.read(Source.from_bytes(content, "upload")))
    except InvalidInput as error:
        assert error.source == "upload" and len(error.message) > 15
    else:
        assert samples
        for sample in samples:
            assert sample.error is not None or np.isfinite(sample.data.values).all()
    try:
        mask = read_mask(Source.from_bytes(content, "mask"), image, reader)
    except InvalidInput as error:
        assert error.source == "mask"
    else:
        assert mask.shape == image.values.shape[1:]


@pytest.fixture(scope="module")
def image() -> MedicalImage:
    (sample,) = MedicalReader().read(Source.from_bytes(FILES["nifti"]))
    return sample.data


@pytest.mark.parametrize("name", list(FILES))
def test_a_damaged_file_is_read_or_refused_in_little_time(name: str, image: MedicalImage) -> None:
    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
    @given(mutated(FILES[name]))
    def check(content: bytes) -> None:
        start = thread_time()
        tried(content, image)
        assert thread_time() - start < SECONDS

    check()


@pytest.mark.parametrize("name", list(FILES))
def test_a_damaged_file_takes_little_memory(name: str, image: MedicalImage) -> None:
    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
    @given(mutated(FILES[name]))
    def check(content: bytes) -> None:
        tracemalloc.start()  # which makes everything several times slower
        try:
            tried(content, image)
            assert tracemalloc.get_traced_memory()[1] < MEMORY
        finally:
            tracemalloc.stop()

    check()


@pytest.mark.parametrize("name", list(FILES))
def test_a_file_cut_off_anywhere_is_refused(name: str) -> None:
    content = FILES[name]
    # The last bytes of a picture or an archive may say nothing that is needed.
    for size in sorted({*range(0, len(content) - 40, max(1, len(content) // 150)), len(content) // 2}):
        try:
            samples = list(MedicalReader(**LIMITS).read(Source.from_bytes(content[:size])))
        except InvalidInput:
            continue
        assert name == "zip" or any(s.error for s in samples), size
