"""Pictures and JSON, the domain's own sample files, and real files: what is read, and what is refused."""

from __future__ import annotations

import csv
import tracemalloc
import zlib
from pathlib import Path
from time import thread_time

import numpy as np
import pydicom
import pytest
from PIL import Image

from domains.medical.baseline import image_statistics
from domains.medical.image import MedicalImage
from domains.medical.reading import MedicalReader
from domains.medical.samples import as_dicom, write_samples
from hub.errors import InvalidInput, TooLarge, UnsupportedFormat
from hub.reading import Sample, Source, Span
from tests.domains.medical.files import read_one, refused, saved


def test_pictures_are_between_0_and_1_whatever_their_mode() -> None:
    deep = np.linspace(0, 65535, 400).astype(np.uint16).reshape(20, 20)
    for kind in ("PNG", "TIFF"):
        sample = read_one(saved(Image.fromarray(deep), kind))
        np.testing.assert_allclose(sample.data.values[0, 0], deep / 65535, rtol=1e-6)
        assert sample.metadata["bits"] == 16
    grey = (deep >> 8).astype(np.uint8)
    rgb = np.stack([grey, grey.T, 255 - grey], axis=-1)
    colour = Image.fromarray(rgb)
    for kind, atol in (("PNG", 0), ("TIFF", 0), ("BMP", 0), ("JPEG", 0.2)):
        values = read_one(saved(colour, kind)).data.values
        np.testing.assert_allclose(values, np.moveaxis(rgb, -1, 0)[:, None] / 255, atol=atol + 1e-6)
    assert read_one(saved(Image.fromarray(grey), "JPEG")).data.values.shape == (1, 1, 20, 20)
    cmyk = read_one(saved(colour.convert("CMYK"), "TIFF")).data.values
    np.testing.assert_allclose(cmyk, np.moveaxis(rgb, -1, 0)[:, None] / 255, atol=0.02)
    few = colour.quantize(16)
    expected = np.moveaxis(np.asarray(few.convert("RGB")), -1, 0) / 255
    np.testing.assert_allclose(read_one(saved(few, "PNG")).data.values[:, 0], expected)
    veiled = Image.fromarray(np.dstack([rgb, np.full((20, 20), 128, np.uint8)]))
    sample = read_one(saved(veiled, "PNG"))
    np.testing.assert_allclose(sample.data.values[:, 0], np.moveaxis(rgb, -1, 0) / 255 * 128 / 255, atol=0.01)
    assert "alpha channel" in sample.warnings[0]
    binary = read_one(saved(Image.fromarray(grey > 99), "PNG")).data.values
    assert set(np.unique(binary)) == {0, 1}


def test_all_eight_exif_orientations_give_the_same_picture() -> None:
    upright = Image.fromarray(np.arange(12 * 20, dtype=np.uint8).reshape(12, 20))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's transpositions that orientation n needs before
    for orientation in range(1, 9):
        stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else upright
        exif = Image.Exif()
        exif[0x0112] = orientation
        values = read_one(saved(stored, "PNG", exif=exif)).data.values
        np.testing.assert_allclose(values[0, 0], np.asarray(upright) / 255, atol=1e-6, err_msg=str(orientation))


def test_pictures_that_are_no_single_image_are_refused() -> None:
    frames = [Image.fromarray(np.random.default_rng(n).integers(0, 255, (20, 20), np.uint8)) for n in range(3)]
    for kind in ("GIF", "TIFF"):
        content = saved(frames[0], kind, save_all=True, append_images=frames[1:])
        refused(content, f"the {kind} file holds 3 pictures", "several_frames", UnsupportedFormat)
    for kind in (np.float32, np.int32):
        refused(saved(Image.fromarray(np.arange(400, dtype=kind).reshape(20, 20)), "TIFF"), "range", "bad_range")
    refused(saved(Image.new("L", (20, 1), 9), "PNG"), "at least 8 rows", "too_small")
    refused(saved(Image.new("L", (20, 20), 9), "PNG"), "same value", "constant")
    refused(saved(frames[0], "PNG")[:200], "damaged or cut off", "damaged")
    header = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + (50_000).to_bytes(4, "big") * 2 + b"\x08\0\0\0\0"
    header += zlib.crc32(header[12:]).to_bytes(4, "big") + b"\0\0\0\x01IDATx\xfd\xc4\xd7\xb5"
    refused(header, "at most|more than", "too_many_pixels", TooLarge)
    for content, name in ((b"%PDF-1.7", "PDF"), (b"NRRD0005", "NRRD"), (b"hello", "no medical image")):
        refused(content, name, "unsupported_format", UnsupportedFormat)
    refused(b"", "empty", "empty")


def test_rows_of_numbers() -> None:
    reader = MedicalReader()
    rows = np.linspace(0, 1, 90).reshape(10, 9).tolist()
    (sample,) = reader.parse({"rows": rows, "spacing_mm": [0.5, 0.25]})
    np.testing.assert_allclose(sample.data.values[0, 0], rows)
    assert sample.data.spacing == (1, 0.5, 0.25)
    (sample,) = reader.parse({"slices": [rows, rows], "modality": "CT"})
    assert sample.data.is_volume and sample.data.modality == "CT"
    for value, code in (
        ([rows], "bad_form"),
        ({"rows": rows, "name": "x"}, "bad_form"),
        ({"rows": [rows]}, "bad_form"),
        ({"rows": [[1, 2], [3]]}, "bad_form"),
        ({"rows": [["a"]]}, "bad_form"),
        ({"rows": []}, "bad_form"),
        ({"slices": []}, "bad_form"),
        ({"slices": [[[]]]}, "empty"),
        ({"rows": (100 * np.array(rows)).tolist()}, "bad_scale"),
        ({"rows": [[float("nan")] * 9] * 9, "modality": "MR"}, "not_finite"),
        ({"rows": rows, "modality": "Doe^Jane"}, "bad_form"),
        ({"rows": rows, "spacing_mm": [0, 1]}, "bad_form"),
    ):
        with pytest.raises(InvalidInput) as caught:
            list(reader.parse(value, "input[0]"))
        assert caught.value.code == code and caught.value.source == "input[0]" and "Doe" not in str(caught.value)
    with pytest.raises(InvalidInput, match="no time axis"):
        list(reader.read(Source.from_bytes(as_dicom(np.eye(9))), Span(0, 1)))


def test_sample_files_are_read_and_the_same_each_time(tmp_path: Path) -> None:
    paths = write_samples(tmp_path)
    first = [p.read_bytes() for p in paths]
    assert [p.read_bytes() for p in write_samples(tmp_path)] == first
    samples = [s for p in paths for s in MedicalReader().read(Source.from_path(p))]
    assert [s.data.is_volume for s in samples] == [True, True, False, False, False, False]
    assert not any(s.warnings for s in samples)
    vectors = np.stack([image_statistics(s) for s in samples])
    assert vectors.shape == (6, 599) and np.isfinite(vectors).all() and (vectors.std(axis=1) > 0).all()
    # The same volume in other units has the same statistics.
    image: MedicalImage = samples[0].data
    brighter = Sample(MedicalImage(image.values * 1000 + 5, image.affine, image.spacing))
    np.testing.assert_allclose(image_statistics(brighter), vectors[0], atol=1e-3)


def test_every_damaged_file_is_told_apart_in_no_time_and_memory(shared_data: Path) -> None:
    folder = shared_data / "medical" / "malformed"
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 52
    for row in rows:
        tracemalloc.start()
        start = thread_time()
        try:
            list(MedicalReader().read(Source.from_path(folder / row["file"])))
            found = "accept"
        except InvalidInput as error:
            found = "reject"
            assert str(error).startswith(str(folder / row["file"]))
        assert tracemalloc.get_traced_memory()[1] < 100 << 20 and thread_time() - start < 1, row["file"]
        tracemalloc.stop()
        assert row["expect"] in (found, "either"), f"{row['file']} ({row['why']})"


def test_every_dicom_encoding_gives_the_pixels_that_pydicom_gives(shared_data: Path) -> None:
    folder = shared_data / "medical" / "dicom_formats"
    with (folder / "formats.csv").open(newline="", encoding="utf-8") as stream:
        rows = {row["file"]: row for row in csv.DictReader(stream)}
    assert len(rows) == 14
    for name in ("liver_1frame.dcm", "rtdose_1frame.dcm"):
        with pytest.raises(UnsupportedFormat, match=rows.pop(name)["modality"]):
            list(MedicalReader().read(Source.from_path(folder / name)))
    for name, row in rows.items():
        (sample,) = MedicalReader().read(Source.from_path(folder / name))
        image: MedicalImage = sample.data
        assert sample.metadata["transfer_syntax"] == row["transfer_syntax"] and image.modality in (row["modality"], "")
        expected = pydicom.dcmread(folder / name)
        scale = 255 if image.values.shape[0] == 3 else 1
        stored = image.values * scale - float(expected.get("RescaleIntercept", 0))
        assert (stored.min(), stored.max()) == (float(row["min"]), float(row["max"])), name
        pixels = expected.pixel_array
        shape = (*pixels.shape[:-1], 3) if scale == 255 else pixels.shape
        assert str(shape) == row["pixel_array_shape"]
        wanted = np.moveaxis(pixels.reshape(-1, *image.values.shape[2:], image.values.shape[0]), -1, 0)
        if "YBR" not in expected.PhotometricInterpretation:
            np.testing.assert_allclose(stored, wanted, atol=1e-4)


def test_the_series_of_a_patient(shared_data: Path) -> None:
    study = shared_data / "medical" / "dicom_mr" / "study3"
    (crop,) = MedicalReader().read(Source.from_path(study / "hippocrop"))
    files = [pydicom.dcmread(p) for p in (study / "hippocrop").iterdir()]
    files.sort(key=lambda f: float(f.ImagePositionPatient[2]))
    np.testing.assert_array_equal(crop.data.values[0], [f.pixel_array for f in files])
    assert crop.data.spacing == (1, 1, 1) and crop.metadata["slices"] == 40
    sequences = [next(MedicalReader().read(Source.from_path(study / s))) for s in ("t1post", "t1pre", "flair", "t2")]
    for sample in sequences:
        np.testing.assert_allclose(sample.data.affine, sequences[0].data.affine, atol=1e-3)
        assert sample.metadata["orientation"] == "axial, oblique by 11 degrees" and sample.metadata["slices"] == 5
    every = list(MedicalReader().read(Source.from_path(study)))
    assert len({s.key for s in every}) == 5 and all(s.error is None for s in every)
    assert MedicalReader().find(study, (".dcm",)) == sorted(p for p in study.iterdir() if p.is_dir())
