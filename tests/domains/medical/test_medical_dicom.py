"""DICOM slices, series and frames: order, place, values, colours; and archives of them."""

from __future__ import annotations

import io
import random
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataelem import DataElement
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGBaseline8Bit, generate_uid

from domains.medical.image import MedicalImage
from domains.medical.reading import MedicalReader
from domains.medical.samples import as_dicom, phantom
from hub.errors import InvalidInput, TooLarge, UnsupportedFormat
from hub.reading import Sample, Source
from tests.domains.medical.files import archive, edit, multi_frame, read_all, read_one, refused, saved, series

AXIAL = np.eye(3)[[2, 1, 0]]
"""Unit vectors along slices, rows and columns in LPS: foot to head, front to back, right to left."""
CORONAL = np.array([[0.0, 1, 0], [0, 0, -1], [1, 0, 0]])
SAGITTAL = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
ORIGIN = np.array([-20.0, -30.0, 40.0])
SPACING = (3.0, 1.5, 1.25)


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    return np.round(1000 * phantom(9, 20, 16, 1))


@pytest.fixture(scope="module")
def slices(volume: np.ndarray) -> list[bytes]:
    return series(volume, ORIGIN, AXIAL, SPACING)


def zipped(files: list[bytes]) -> bytes:
    return archive({f"{n}.dcm": f for n, f in enumerate(files)})


def test_a_ct_slice_is_in_hounsfield_units_with_its_window() -> None:
    values = np.arange(-1000, 800, 2).reshape(30, 30).astype(float)
    sample = read_one(as_dicom(values, "CT", position=(1.0, 2.0, 3.0), spacing=(2.0, 0.5)))
    image: MedicalImage = sample.data
    np.testing.assert_array_equal(image.values, values[None, None])
    assert image.values.dtype == np.float32 and image.modality == "CT" and image.window == (40, 400)
    assert image.spacing == (2.0, 2.0, 0.5) and not image.is_volume
    # The first pixel lies at (1, 2, 3) in LPS.
    np.testing.assert_allclose(image.affine @ [0, 0, 0, 1], [-1, -2, 3, 1])
    assert sample.metadata["orientation"] == "axial" and sample.metadata["spacing_mm"] == [2.0, 2.0, 0.5]


@pytest.mark.parametrize(("axes", "plane"), [(AXIAL, "axial"), (CORONAL, "coronal"), (SAGITTAL, "sagittal")])
def test_a_voxel_keeps_its_place_in_the_patient_whatever_the_plane(axes: np.ndarray, plane: str) -> None:
    volume = np.full((7, 12, 10), 100.0)
    volume[5, 3, 8] = 900
    place = ORIGIN + 5 * 3.0 * axes[0] + 3 * 1.5 * axes[1] + 8 * 1.25 * axes[2]  # LPS
    sample = read_one(zipped(series(volume, ORIGIN, axes, SPACING)))
    image: MedicalImage = sample.data
    index = np.unravel_index(image.values[0].argmax(), image.values[0].shape)
    np.testing.assert_allclose((image.affine @ [*index, 1])[:3], place * [-1, -1, 1], atol=1e-6)
    directions = image.affine[:3, :3] / image.spacing
    np.testing.assert_allclose(directions, np.array([[0, 0, -1], [0, -1, 0], [1, 0, 0]]), atol=1e-6)
    assert sample.metadata["orientation"] == plane
    assert image.slice_axis == {"axial": 0, "coronal": 1, "sagittal": 2}[plane]
    assert sorted(image.spacing) == sorted(SPACING)


@pytest.mark.parametrize("axes", [AXIAL, CORONAL, SAGITTAL, AXIAL[[0, 2, 1]], CORONAL * [[1], [-1], [1]], -SAGITTAL])
def test_a_slice_is_the_same_picture_alone_and_in_its_series(axes: np.ndarray, volume: np.ndarray) -> None:
    files = series(volume, ORIGIN, axes, SPACING)
    whole = read_one(zipped(files)).data.slices()
    alone = [read_one(file).data.slices()[0] for file in files]
    assert {a.shape for a in alone} == {whole.shape[1:]}
    for picture in whole:
        assert sum(np.array_equal(picture, a) for a in alone) == 1


def test_slices_are_sorted_by_position_and_not_by_name(volume: np.ndarray, slices: list[bytes], tmp_path: Path) -> None:
    straight = read_one(zipped(slices)).data
    np.testing.assert_array_equal(straight.values[0], volume)
    for seed in range(3):
        shuffled = random.Random(seed).sample(slices, len(slices))
        folder = tmp_path / str(seed)
        folder.mkdir()
        for number, content in enumerate(shuffled):
            (folder / f"IM{number:04d}").write_bytes(content)
        (folder / "notes.txt").write_text("not an image")
        for source in (Source.from_path(folder), Source.from_bytes(zipped(shuffled))):
            (sample,) = MedicalReader().read(source)
            np.testing.assert_array_equal(sample.data.values, straight.values)
            np.testing.assert_allclose(sample.data.affine, straight.affine)


def test_an_oblique_series_says_by_how_much(volume: np.ndarray) -> None:
    angle = np.radians(20)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    sample = read_one(zipped(series(volume, ORIGIN, AXIAL @ turn.T, SPACING)))
    assert sample.metadata["orientation"] == "axial, oblique by 20 degrees"
    np.testing.assert_allclose(sample.data.spacing, SPACING, atol=1e-5)


def test_a_gantry_tilt_is_kept_in_the_affine(volume: np.ndarray) -> None:
    files = series(volume, ORIGIN, AXIAL, SPACING)
    tilted = [edit(f, ImagePositionPatient=[0, n * 0.8, n * 3.0]) for n, f in enumerate(files)]
    sample = read_one(zipped(tilted))
    assert "gantry tilt of 15 degrees" in sample.warnings[0]
    np.testing.assert_allclose(sample.data.affine @ [1, 0, 0, 0], [0, -0.8, 3, 0], atol=1e-6)


def test_series_that_make_no_volume_are_refused(slices: list[bytes]) -> None:
    refused(zipped(slices[:4] + slices[5:]), "slices 4 and 5 of 8, .* are 6 mm apart", "missing_slice")
    refused(zipped([*slices, slices[2]]), "slices 3 and 4 of 10, .* lie at one place", "same_position")
    larger = edit(slices[3], Rows=10, Columns=32)
    refused(zipped([*slices[:3], larger, *slices[4:]]), r"differ in size \(10 x 32, 20 x 16\)", "mixed_size")
    turned = edit(slices[3], ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    refused(zipped([*slices[:3], turned, *slices[4:]]), "differ in orientation", "mixed_orientation")
    coarser = edit(slices[3], PixelSpacing=[3, 3])
    refused(zipped([*slices[:3], coarser, *slices[4:]]), "differ in pixel spacing", "mixed_spacing")
    lost = edit(slices[3], ["ImagePositionPatient"])
    refused(zipped([*slices[:3], lost, *slices[4:]]), "1 of 9 slices have no position", "no_position")
    refused(zipped([edit(s, ["ImagePositionPatient"]) for s in slices]), "one by one", "no_position")


def test_uneven_slices_are_told_of(slices: list[bytes]) -> None:
    moved = edit(slices[4], ImagePositionPatient=[*ORIGIN[:2], ORIGIN[2] + 4 * 3.0 + 0.6])
    assert "2.4 to 3.6 mm apart" in read_one(zipped([*slices[:4], moved, *slices[5:]])).warnings[0]


def test_each_series_of_a_folder_is_a_sample(slices: list[bytes], tmp_path: Path) -> None:
    other = generate_uid(entropy_srcs=["other"])
    second = [edit(s, SeriesInstanceUID=other) for s in slices[:6]]
    broken = edit(slices[0], SeriesInstanceUID=generate_uid(entropy_srcs=["broken"]), RescaleSlope=0)
    content = archive({f"{n}": f for n, f in enumerate([*slices, *second, broken, slices[0][:300]])})
    samples = read_all(content)
    assert [s.error is None for s in samples] == [True, True, False, False]
    assert [s.data.values.shape[1] for s in samples[:2]] == [9, 6]
    keys = [s.key for s in samples]
    assert len(set(keys)) == 4 and keys[-1] == "file-17" and all(len(k) == 8 for k in keys[:3])
    assert other not in repr(samples) and samples[2].error.code == "bad_scale"
    with pytest.raises(InvalidInput, match="none of 2 series can be used"):
        read_all(archive({"a": broken, "b": slices[0][:300]}))
    # One series without a doubt has no key.
    assert read_one(zipped(slices)).key == ""


def test_what_a_folder_walk_takes_for_one_input(slices: list[bytes], tmp_path: Path) -> None:
    for path, content in {
        "a/study/1.dcm": slices[0],
        "a/study/2": slices[1],
        "a/study/DICOMDIR": slices[2],
        "a/study/.hidden.dcm": slices[2],
        "single/one.dcm": as_dicom(np.eye(9), "MR", 7),
        "single/two.dcm": as_dicom(np.eye(9), "MR", 8),
        "single/false.dcm": b"no image",
        "v/volume.nii.gz": b"",
        "v/data.gz": b"",
        "v/p.png": b"",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    found = MedicalReader().find(tmp_path, (".dcm", ".nii", ".nii.gz", ".png"))
    names = [str(p.relative_to(tmp_path)) for p in found]
    assert names == ["a/study", *(f"single/{n}.dcm" for n in ("false", "one", "two")), "v/p.png", "v/volume.nii.gz"]
    assert MedicalReader().find(tmp_path / "a" / "study", (".dcm",)) == [tmp_path / "a" / "study"]
    (sample,) = MedicalReader().read(Source.from_path(tmp_path / "a" / "study"))
    assert sample.metadata["slices"] == 2
    with pytest.raises(UnsupportedFormat, match="the folder holds no DICOM file"):
        list(MedicalReader().read(Source.from_path(tmp_path / "v")))


def test_frames_with_places_are_a_volume_and_rescaled_each(volume: np.ndarray) -> None:
    order = [2, 0, 3, 1]
    frames = [{"position": [0, 0, 2.0 * n], "slope": n + 1, "intercept": -n} for n in order]
    sample = read_one(multi_frame(volume[order], frames))
    expected = [volume[n] * (n + 1) - n for n in range(4)]
    np.testing.assert_array_equal(sample.data.values[0], expected)
    assert sample.data.spacing == (2.0, 1.5, 1.25) and not sample.warnings


def test_frames_without_places_are_slices_in_their_order_with_a_warning(volume: np.ndarray) -> None:
    sample = read_one(multi_frame(volume[:4], [{}] * 4))
    np.testing.assert_array_equal(sample.data.values[0], volume[:4])
    assert sample.data.affine is None and "no place in the patient" in sample.warnings[0]
    refused(multi_frame(volume[:4], [{"position": [0, 0, n // 2]} for n in range(4)]), "one place", "same_position")
    refused(multi_frame(volume[:4], [{"position": [0, 0, n]} for n in range(3)]), "fewer than the frames", "damaged")


def test_low_is_dark_after_monochrome1() -> None:
    values = np.arange(100.0, 500.0).reshape(20, 20)
    content = edit(as_dicom(values, "MR"), PhotometricInterpretation="MONOCHROME1", WindowCenter=150, WindowWidth=50)
    sample = read_one(content)
    np.testing.assert_array_equal(sample.data.values[0, 0], 599 - values)
    assert sample.data.window == (449, 50) and "MONOCHROME1" in sample.warnings[0]


def test_bits_above_those_stored_are_no_values() -> None:
    values = np.arange(400).reshape(20, 20)
    overlaid = (values | 0x7000 * (values % 2)).astype("<u2")
    content = edit(as_dicom(values), BitsStored=12, HighBit=11, PixelRepresentation=0, PixelData=overlaid.tobytes())
    np.testing.assert_array_equal(read_one(content).data.values[0, 0], values)


def test_colours_are_rgb_between_0_and_1() -> None:
    rgb = np.zeros((16, 16, 3), np.uint8)
    rgb[:8], rgb[8:] = (255, 0, 0), (0, 51, 255)
    colour = {"SamplesPerPixel": 3, "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0}
    base = as_dicom(np.eye(16))
    plain = edit(base, **colour, PlanarConfiguration=0, PhotometricInterpretation="RGB", PixelData=rgb.tobytes())
    expected = np.moveaxis(rgb, -1, 0)[:, None] / np.float32(255)
    np.testing.assert_allclose(read_one(plain).data.values, expected)
    ycbcr = np.asarray(Image.fromarray(rgb).convert("YCbCr"))
    full = edit(plain, PhotometricInterpretation="YBR_FULL", PixelData=ycbcr.tobytes())
    np.testing.assert_allclose(read_one(full).data.values, expected, atol=2 / 255)
    pairs = np.concatenate([ycbcr[:, ::2, :1], ycbcr[:, 1::2, :1], ycbcr[:, ::2, 1:]], axis=-1)
    shared = edit(plain, PhotometricInterpretation="YBR_FULL_422", PixelData=pairs.tobytes())
    np.testing.assert_allclose(read_one(shared).data.values, expected, atol=2 / 255)
    palette: dict[str, object] = {}
    for place, name in enumerate(("Red", "Green", "Blue")):
        descriptor = f"{name}PaletteColorLookupTableDescriptor"
        palette[descriptor] = DataElement(descriptor, "US", [2, 0, 16])
        entries = np.array([rgb[0, 0, place], rgb[8, 0, place]], "<u2") * 257
        palette[f"{name}PaletteColorLookupTableData"] = entries.tobytes()
    indices = np.repeat([0, 1], 128).astype(np.uint8)
    single = {**colour, "SamplesPerPixel": 1, "PhotometricInterpretation": "PALETTE COLOR"}
    looked_up = read_one(edit(base, **single, **palette, PixelData=indices.tobytes()))
    np.testing.assert_allclose(looked_up.data.values, expected)
    refused(edit(plain, PhotometricInterpretation="YBR_Doe^Jane"), "something unknown", "bad_photometric")


@pytest.mark.parametrize(
    ("elements", "code"),
    [
        ({"Modality": "SEG"}, "no_image"),
        ({"Modality": "RTDOSE"}, "no_image"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"}, "no_image"),
        ({"Rows": 64}, "truncated"),
        ({"Rows": 8}, "bad_length"),
        ({"Rows": 0}, "empty"),
        ({"Rows": 4}, "too_small"),
        ({"Rows": 65535, "Columns": 65535}, "too_many_pixels"),
        ({"NumberOfFrames": 2**31 - 1}, "too_many_slices"),
        ({"BitsAllocated": 1, "BitsStored": 1}, "bad_bits"),
        ({"SamplesPerPixel": 2}, "bad_photometric"),
        ({"RescaleSlope": 0}, "bad_scale"),
        ({"PixelSpacing": [0, 1]}, "spacing"),
        ({"PixelSpacing": [1, 1, 1]}, "bad_element"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "bad_orientation"),
        ({"ImagePositionPatient": [1, 0]}, "bad_element"),
        ({"PixelData": np.full(1024, 7, "<i2").tobytes()}, "constant"),
        ({"PixelData": b""}, "no_pixels"),
    ],
)
def test_headers_that_contradict_themselves_are_refused(elements: dict[str, object], code: str) -> None:
    content = as_dicom(np.arange(1024).reshape(32, 32), "CT")
    with pytest.raises(InvalidInput) as caught:
        read_all(edit(content, **elements))
    assert caught.value.code == code and len(caught.value.message) > 20


def test_a_ct_needs_its_rescale_and_a_dicom_file_its_pixels() -> None:
    content = as_dicom(np.eye(32), "CT")
    refused(edit(content, ["RescaleIntercept"]), "Hounsfield units is not known", "no_rescale")
    refused(edit(content, ["PixelData"]), "'CT Image Storage' without pixels", "no_pixels")
    refused(content[content.index(b"\x08\0\x16\0UI") :], "without preamble", "no_meta", UnsupportedFormat)


def test_text_in_the_pixels_is_warned_of() -> None:
    assert "burned into the pixels" in read_one(edit(as_dicom(np.eye(32)), BurnedInAnnotation="YES")).warnings[0]


def test_every_encoding_of_a_slice_gives_its_values() -> None:
    """On files that pydicom ships."""

    def read(name: str) -> Sample:
        path = get_testdata_file(name, download=False)
        (sample,) = MedicalReader().read(Source.from_path(str(path)))
        return sample

    plain = read("MR_small.dcm")
    for name, syntax in (
        ("MR_small_implicit.dcm", "Implicit VR Little Endian"),
        ("MR_small_bigendian.dcm", "Explicit VR Big Endian"),
        ("MR_small_RLE.dcm", "RLE Lossless"),
        ("MR_small_jp2klossless.dcm", "JPEG 2000 Image Compression (Lossless Only)"),
    ):
        sample = read(name)
        np.testing.assert_array_equal(sample.data.values, plain.data.values)
        assert sample.metadata["transfer_syntax"] == syntax and sample.data.spacing == plain.data.spacing
    # Its JPEG 2000 stream is unsigned where the header says signed.
    contrary = pydicom.dcmread(str(get_testdata_file("J2K_pixelrep_mismatch.dcm", download=False)))
    expected = contrary.pixel_array * float(contrary.RescaleSlope) + float(contrary.RescaleIntercept)
    assert np.isin(read("J2K_pixelrep_mismatch.dcm").data.values, expected).all() and expected.min() == -2000
    with pytest.raises(UnsupportedFormat, match="encoded as JPEG-LS Lossless Image Compression with 16 bits"):
        read("MR_small_jpeg_ls_lossless.dcm")


def encapsulated(frame: bytes, rows: int, columns: int) -> bytes:
    data = pydicom.dcmread(io.BytesIO(as_dicom(np.eye(16))))
    data.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    data.Rows, data.Columns, data.PixelRepresentation = rows, columns, 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
    data.PixelData = pydicom.encaps.encapsulate([frame])
    data["PixelData"].is_undefined_length = True
    buffer = io.BytesIO()
    data.save_as(buffer)
    return buffer.getvalue()


def test_a_frame_that_is_larger_than_its_header_says_is_not_decoded() -> None:
    grey = Image.fromarray(np.arange(4096, dtype=np.uint8).reshape(64, 64))
    frame = saved(grey, "JPEG", quality=95)
    values = read_one(encapsulated(frame, 64, 64)).data.values[0, 0]
    np.testing.assert_allclose(values, np.asarray(Image.open(io.BytesIO(frame))))
    refused(encapsulated(frame, 32, 32), "has 64 x 64 pixels, where the header announces 32 x 32", "bad_length")
    refused(encapsulated(frame[:100], 64, 64), "cannot be decoded as JPEG Baseline", "damaged")
    refused(encapsulated(frame, 8000, 8000), "compresses more than 500 times", "expands_too_much", TooLarge)


def deflated(content: bytes) -> bytes:
    data = pydicom.dcmread(io.BytesIO(content))
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    buffer = io.BytesIO()
    data.save_as(buffer)
    return buffer.getvalue()


def test_a_deflated_bomb_is_not_inflated() -> None:
    values = np.random.default_rng(0).integers(0, 900, (64, 64))
    np.testing.assert_array_equal(read_one(deflated(as_dicom(values))).data.values[0, 0], values)
    bomb = edit(as_dicom(values), PixelData=bytes(80 << 20), Rows=5120, Columns=8192)
    small = deflated(bomb)
    assert len(small) < 100_000
    tracemalloc.start()
    try:
        refused(small, "compresses more than", "expands_too_much", TooLarge)
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


def test_archives_that_explode_are_refused_before_they_are_unpacked(slices: list[bytes]) -> None:
    refused(archive({"zeros.dcm": bytes(128) + b"DICM" + bytes(1 << 24)}), "compresses more than", "expands_too_much")
    with pytest.raises(TooLarge, match="more than 5 files"):
        list(MedicalReader(max_slices=5).read(Source.from_bytes(zipped(slices))))
    with pytest.raises(TooLarge, match="more than 8,000 bytes"):
        list(MedicalReader(max_bytes=8_000).read(Source.from_bytes(zipped(slices))))
    # A member that announces less than it holds.
    lying = bytearray(archive({"a.dcm": bytes(128) + b"DICM" + bytes(1 << 16)}))
    for magic, place in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        start = lying.index(magic) + place
        lying[start : start + 4] = (200).to_bytes(4, "little")
    refused(bytes(lying), "damaged or encrypted", "damaged")


def test_names_in_an_archive_are_not_used(slices: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["../up.dcm", "/etc/x.dcm", "C:\\x.dcm", "a/../../b.dcm", *(f"{n}" for n in range(5))]
    files = dict(zip(names, slices, strict=True))
    files |= {"__MACOSX/._1.dcm": b"x", "readme.txt": b"x", "sub/": b""}
    assert read_one(archive(files)).metadata["slices"] == 9
    assert not list(tmp_path.rglob("*")) and not (tmp_path.parent / "up.dcm").exists()


def test_archives_without_dicom_or_with_damage_are_refused(slices: list[bytes]) -> None:
    refused(archive({"a.txt": b"x"}), "holds no DICOM file", "no_image")
    content = zipped(slices)
    refused(content[:-60], "damaged or encrypted", "damaged")
    encrypted = bytearray(content)
    for magic, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        encrypted[encrypted.index(magic) + place] |= 1
    refused(bytes(encrypted), "is encrypted; send it without a password", "encrypted")
    refused(archive({"a": slices[0]}, zipfile.ZIP_LZMA), "another method than deflate", "zip_method")
    assert read_one(archive({"a": slices[0]}, zipfile.ZIP_DEFLATED)).metadata["slices"] == 1
