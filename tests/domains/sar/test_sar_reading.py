from __future__ import annotations

import struct
from pathlib import Path

import h5py
import numpy as np
import pytest
import rasterio
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import from_origin

from domains.sar.merlin.processing import MerlinProcessor
from domains.sar.raster import Raster
from domains.sar.reading import RasterReader
from domains.sar.samples import as_cosar, coast, fields, simulate_slc
from domains.sar.survey import survey
from hub.errors import InvalidInput, TooLarge, UnsupportedFormat
from hub.reading import Sample, Source

pytestmark = pytest.mark.filterwarnings(f"ignore::{NotGeoreferencedWarning.__module__}.NotGeoreferencedWarning")
SLC = simulate_slc(fields(96, 128, 0), 0)


def one(path: Path | Source, reader: RasterReader | None = None) -> Sample:
    source = path if isinstance(path, Source) else Source.from_path(path)
    (sample,) = (reader or RasterReader()).read(source)
    return sample


def write_tiff(path: Path, bands: list[np.ndarray], kind: str, driver: str = "GTiff", **options: object) -> Path:
    rows, columns = bands[0].shape
    shape = {"height": rows, "width": columns, "count": len(bands), "dtype": kind}
    with rasterio.open(path, "w", driver=driver, **shape, **options) as file:
        for number, band in enumerate(bands, 1):
            file.write(band, number)
    return path


def test_every_container_gives_the_same_complex_pixels(tmp_path: Path) -> None:
    whole = np.round(SLC)
    np.save(tmp_path / "complex.npy", whole)
    np.save(tmp_path / "pairs.npy", np.stack([whole.real, whole.imag], -1).astype(np.int16))
    np.save(tmp_path / "columns-first.npy", np.asfortranarray(whole.astype(np.complex128)))
    (tmp_path / "x.cos").write_bytes(as_cosar(whole))
    pairs = np.empty(whole.shape, [("r", "<f2"), ("i", "<f2")])
    pairs["r"], pairs["i"] = whole.real, whole.imag
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["science/LSAR/RSLC/swaths/frequencyA/VV"] = pairs
        file["science/LSAR/RSLC/metadata/table"] = np.zeros((20, 3))
    with h5py.File(tmp_path / "iceye.h5", "w") as file:
        file["s_i"], file["s_q"] = whole.real.astype(np.int16), whole.imag.astype(np.int16)
    write_tiff(tmp_path / "c64.tif", [whole], "complex64")
    write_tiff(tmp_path / "cint16.tif", [whole], "complex_int16")
    write_tiff(tmp_path / "two.tif", [whole.real, whole.imag], "float32")
    write_tiff(tmp_path / "x.ntf", [whole], "complex64", "NITF")
    write_tiff(tmp_path / "x.img", [whole], "complex64", "ENVI")
    files = sorted(p for p in tmp_path.iterdir() if p.suffix != ".xml")
    assert len(files) == 12  # the ENVI image and its header both name the one image
    for path in files:
        sample = one(path)
        assert sample.data.quantity == "complex" and sample.metadata["rms_amplitude"] == pytest.approx(200, rel=0.02)
        # Half-precision parts above 2048 are rounded to 2, some written above.
        tolerance = 2.0 if path.name == "x.h5" else 0.0
        np.testing.assert_allclose(sample.data.values[0], whole, atol=tolerance, err_msg=path.name)


def test_windows_of_a_large_image_come_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("domains.sar.reading.WHOLE_PIXELS", 1000)
    for name, kind in (("x.tif", "complex_int16"), ("x.npy", ""), ("x.h5", ""), ("x.cos", "")):
        path = tmp_path / name
        if kind:
            write_tiff(path, [np.round(SLC)], kind)
        elif path.suffix == ".npy":
            np.save(path, np.round(SLC))
        elif path.suffix == ".cos":
            path.write_bytes(as_cosar(SLC))
        else:
            with h5py.File(path, "w") as file:
                file["image"] = np.round(SLC)
        for source in (Source.from_path(path), Source.from_bytes(path.read_bytes(), name)):
            raster: Raster = one(source).data
            assert not raster.in_memory
            window = raster.read(slice(10, 50), slice(100, 200))
            np.testing.assert_array_equal(window[0], np.round(SLC)[10:50, 100:200])


def test_georeference_is_kept(tmp_path: Path) -> None:
    transform = from_origin(500_000, 5_000_000, 10, 10)
    path = write_tiff(tmp_path / "x.tif", [np.abs(SLC)], "float32", crs="EPSG:32632", transform=transform, nodata=0)
    found = one(path).data.georeference
    assert found.transform == tuple(transform)[:6] and "32632" in found.crs


def test_what_real_values_are_is_told_by_the_values(tmp_path: Path) -> None:
    amplitude = np.abs(SLC).astype(np.float32)
    level = 20 * np.log10(amplitude / 2000)
    decibels = one(write_tiff(tmp_path / "db.tif", [level, level - 7], "float32"))
    assert decibels.data.quantity == "decibel" and any("decibels" in w for w in decibels.warnings)
    np.testing.assert_allclose(decibels.data.amplitude(decibels.data.values)[0] * 2000, amplitude, rtol=1e-4)
    assert one(write_tiff(tmp_path / "two.tif", [amplitude, amplitude / 2], "float32")).data.quantity == "amplitude"
    with pytest.raises(InvalidInput, match="neither amplitudes"):
        one(write_tiff(tmp_path / "neither.tif", [amplitude - 300], "float32"))
    marked = np.where(np.arange(128) < 40, np.float32(-9999), amplitude)
    sample = one(write_tiff(tmp_path / "marked.tif", [marked], "float32"))
    assert sample.data.nodata == -9999 and sample.metadata["rms_amplitude"] < 1000
    assert any("hold no data" in w for w in sample.warnings)


def test_missing_areas_are_told_from_dark_pixels() -> None:
    image = SLC.copy()
    image[:, :30] = 0
    image[50, 100] = 0
    valid = Raster.from_array(image).valid(image[None])[0]
    assert not valid[:, :30].any() and valid[:, 30:].all()


def test_a_safe_folder_is_one_input_of_several_images(tmp_path: Path) -> None:
    measurement = tmp_path / "S1A_IW_SLC.SAFE" / "measurement"
    measurement.mkdir(parents=True)
    for polarisation in ("vh", "vv"):
        write_tiff(measurement / f"s1a-iw1-slc-{polarisation}-20240101t0-20240101t1-1-00{1}.tiff", [SLC], "complex64")
    np.save(tmp_path / "other.npy", SLC)
    reader = RasterReader()
    inputs = reader.find(tmp_path, [".tiff", ".npy"])
    assert [p.name for p in inputs] == ["S1A_IW_SLC.SAFE", "other.npy"]
    samples = list(reader.read(Source.from_path(inputs[0])))
    assert [s.key for s in samples] == ["iw1-vh", "iw1-vv"] and "bursts" in samples[0].warnings[0]
    (tmp_path / "outside.tiff").write_bytes(next(measurement.iterdir()).read_bytes())
    (measurement / "s1a-iw2-slc-vv-x.tiff").symlink_to(tmp_path / "outside.tiff")
    with pytest.raises(InvalidInput, match="leaves the SAFE folder"):
        list(reader.read(Source.from_path(inputs[0])))


def test_bands_are_images_of_their_own_for_merlin(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "quad.h5", "w") as file:
        for number, name in enumerate(("HH", "HV", "VV")):
            file[f"swaths/{name}"] = simulate_slc(coast(64, 64, number), number)
    samples = list(MerlinProcessor().reader().read(Source.from_path(tmp_path / "quad.h5")))
    assert [s.key for s in samples] == ["HH", "HV", "VV"]
    assert all(s.data.shape == (1, 64, 64) for s in samples)


def test_bands_are_called_by_description_or_tag(tmp_path: Path) -> None:
    """A dual-polarised image whose file names no band has keys to choose by all the same."""
    amplitude = np.abs(SLC).astype(np.float32)
    reader = MerlinProcessor(input="amplitude").reader()
    path = write_tiff(tmp_path / "two.tif", [amplitude, amplitude / 2], "float32")
    assert [s.key for s in reader.read(Source.from_path(path))] == ["band1", "band2"]
    with rasterio.open(path, "r+") as file:
        file.set_band_description(1, "VH")
        file.update_tags(2, POLARIMETRIC_INTERP="VV")
    assert [s.key for s in reader.read(Source.from_path(path))] == ["VH", "VV"]


def test_limits_are_held_against_the_header(tmp_path: Path) -> None:
    # 20,000 x 20,000 pixels of nothing in a sparse file: were they decoded, that would be 3.2 GB.
    path = tmp_path / "sparse.tif"
    shape = {"height": 20_000, "width": 20_000, "count": 1, "dtype": "complex64"}
    with rasterio.open(path, "w", driver="GTiff", sparse_ok=True, tiled=True, **shape):
        pass
    with pytest.raises(TooLarge, match="20,000 x 20,000 pixels"):
        one(path)
    with pytest.raises(TooLarge, match="no SAR image compresses"):
        one(path, RasterReader(max_pixels=1 << 40))
    header = b"\x93NUMPY\x01\x00" + struct.pack("<H", 118)
    text = b"{'descr': '<c8', 'fortran_order': False, 'shape': (1000000, 1000000), }"
    with pytest.raises(TooLarge, match="1,000,000 x 1,000,000"):
        one(Source.from_bytes(header + text.ljust(117) + b"\n", "huge.npy"))


def test_only_what_lies_in_the_file_is_read(tmp_path: Path) -> None:
    """Formats that can point at other files must not let an upload read them."""
    np.save(tmp_path / "secret.npy", SLC)
    vrt = b'<VRTDataset rasterXSize="9" rasterYSize="9"><VRTRasterBand><SourceFilename>/etc/passwd</SourceFilename>'
    with pytest.raises(UnsupportedFormat, match="VRT only points"):
        one(Source.from_bytes(vrt, "x.tif"))
    with h5py.File(tmp_path / "far.h5", "w") as file:
        file["image"] = SLC
    with h5py.File(tmp_path / "links.h5", "w") as file:
        file["linked"] = h5py.ExternalLink(str(tmp_path / "far.h5"), "/image")
        raw = [(str(tmp_path / "secret.npy"), 128, 96 * 128 * 8)]
        file.create_dataset("raw", (96, 128), "f8", external=raw)
        layout = h5py.VirtualLayout((96, 128), SLC.dtype)
        layout[:] = h5py.VirtualSource(str(tmp_path / "far.h5"), "image", SLC.shape)
        file.create_virtual_dataset("virtual", layout)
    with pytest.raises(UnsupportedFormat, match="without a two-dimensional image"):
        one(tmp_path / "links.h5")


@pytest.mark.parametrize("suffix", [".tif", ".npy", ".cos", ".ntf", ".h5"])
def test_damaged_files_are_refused_wherever_they_end(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    if suffix == ".npy":
        np.save(path, SLC)
    elif suffix == ".cos":
        path.write_bytes(as_cosar(SLC))
    elif suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["image"] = SLC
    else:
        write_tiff(path, [SLC], "complex64", "NITF" if suffix == ".ntf" else "GTiff")
    content = path.read_bytes()
    for end in (1, 20, 60, 130, len(content) // 2, len(content) - 100):
        with pytest.raises(InvalidInput) as caught:
            one(Source.from_bytes(content[:end], path.name))
        assert path.name in str(caught.value) and "/" not in caught.value.message.replace("and/or", "")


def test_noise_in_a_file_never_escapes_as_another_error(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    path = write_tiff(tmp_path / "x.tif", [SLC[:64, :64]], "complex64", compress="deflate")
    contents = [path.read_bytes(), as_cosar(SLC[:64, :64])]
    for number in range(60):
        content = bytearray(contents[number % 2])
        for place in random.integers(0, 400 if number < 30 else len(content), 8):
            content[place] = random.integers(256)
        try:
            sample = one(Source.from_bytes(bytes(content), "x.tif"))
        except InvalidInput as error:
            assert len(error.message) < 400
        else:
            assert np.isfinite(survey(sample.data.band(0)).rms)


def test_unusable_images_are_refused_with_the_reason() -> None:
    reader = RasterReader()

    def refused(image: np.ndarray, match: str) -> None:
        with pytest.raises(InvalidInput, match=match):
            list(reader.parse({"real": image.real.tolist(), "imaginary": image.imag.tolist()}))

    refused(np.zeros((40, 40), np.complex64), "no data")
    refused(np.full((40, 40), 3 + 4j), "same value")
    refused(np.where(np.arange(40) == 7, np.nan, SLC[:40, :40]), "NaN")


def test_merlin_refuses_what_is_not_single_look_complex() -> None:
    reader = MerlinProcessor().reader()
    amplitude = np.abs(SLC)
    with pytest.raises(InvalidInput, match="detected data"):
        list(reader.parse({"amplitude": amplitude.tolist()}))
    for phase in (1, np.exp(0.7j)):
        turned = amplitude * phase
        with pytest.raises(InvalidInput, match="stored as complex"):
            list(reader.parse({"real": np.real(turned).tolist(), "imaginary": np.imag(turned).tolist()}))
    with pytest.raises(InvalidInput, match="at least 32 x 32"):
        list(reader.parse({"real": SLC.real[:20].tolist(), "imaginary": SLC.imag[:20].tolist()}))


def warned(image: np.ndarray) -> str:
    parts = {"real": image.real.tolist(), "imaginary": image.imag.tolist()}
    (sample,) = MerlinProcessor().reader().parse(parts)
    return " ".join(sample.warnings)


def test_images_unlike_the_training_data_are_warned_of() -> None:
    scene = coast(256, 256, 1)
    image = simulate_slc(scene, 1)
    assert warned(image) == ""
    assert "root mean square amplitude is 4" in warned(image / 50)
    random = np.random.default_rng(0)
    white = np.sqrt(scene) * random.normal(0, 100, (*scene.shape, 2)).view(np.complex128)[..., 0]
    assert "white" in warned(white)
    halved = np.where(np.fft.fftfreq(256) < 0, 0.2, 1.0)[:, None]
    assert "not symmetric" in warned(np.fft.ifft2(np.fft.fft2(image) * halved))
    rolled = image * np.exp(0.9j * np.arange(256))  # a Doppler centroid off zero, which is centred first
    assert warned(rolled) == ""


def test_every_malformed_file_is_refused(shared_data: Path) -> None:
    import csv

    folder = shared_data / "sar" / "malformed"
    reader = MerlinProcessor().reader()
    with (folder / "manifest.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        for source in (Source.from_path(folder / row["file"]), Source.from_bytes((folder / row["file"]).read_bytes())):
            with pytest.raises(InvalidInput) as caught:
                list(reader.read(source))
            assert len(caught.value.message) > 10, row
