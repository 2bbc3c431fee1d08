"""What Nereus sees of an image: power, sizes, normalisation, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from domains.sar.nereus.intensity import decibels, grow, read_power, shrink
from domains.sar.nereus.processing import NereusProcessor
from domains.sar.raster import ArrayPixels, Raster
from hub.errors import InvalidInput
from hub.reading import Sample

SPECKLE_MEAN, SPECKLE_STD = -2.507, 5.570
"""Of one-look speckle in decibels: 10 / ln 10 times the mean (minus Euler's constant) and deviation (pi / sqrt 6) of
the logarithm of an exponential variable."""


def speckle(rows: int, columns: int, seed: int = 0, level: float = 100.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    parts = random.normal(0, level / np.sqrt(2), (2, rows, columns))
    return (parts[0] + 1j * parts[1]).astype(np.complex64)


def processor(**changes: object) -> NereusProcessor:
    settings = {"size": 64, "mean": -2.5, "std": 5.6, "clip": (-30.0, 30.0), "reference": "image", **changes}
    return NereusProcessor(**settings)


def test_speckle_is_standardised_to_what_theory_says() -> None:
    seen = processor(size=256, mean=SPECKLE_MEAN, std=SPECKLE_STD).prepare(Sample(Raster.from_array(speckle(256, 256))))
    assert seen.shape == (1, 256, 256) and seen.dtype == torch.float32
    # 65,536 pixels: a standard error of 0.004.
    assert abs(float(seen.mean())) < 0.03 and abs(float(seen.std()) - 1) < 0.03


def test_images_shrink_in_power_and_not_in_decibels() -> None:
    image = Sample(Raster.from_array(speckle(256, 256, 1)))
    small = processor(size=32).relative_power(image)
    seen = decibels(shrink(small, 32))
    # Power keeps its mean of 1; a mean of decibels would lie 2.5 dB lower.
    assert abs(float((10 ** (seen / 10)).mean()) - 1) < 0.02
    assert abs(float(seen.mean())) < 0.2


def test_every_quantity_of_one_scene_looks_alike() -> None:
    image = speckle(80, 72, 2)
    seen = [
        processor().prepare(Sample(Raster.from_array(values, quantity)))
        for values, quantity in (
            (image, "complex"),
            (np.abs(image), "amplitude"),
            (np.abs(image) ** 2, "intensity"),
            (20 * np.log10(np.abs(image)), "decibel"),
        )
    ]
    for other in seen[1:]:
        torch.testing.assert_close(other, seen[0], atol=1e-3, rtol=0)


def test_relative_levels_ignore_gain_and_absolute_ones_do_not() -> None:
    image = speckle(64, 64, 3)
    near, far = Sample(Raster.from_array(image)), Sample(Raster.from_array(10 * image))
    torch.testing.assert_close(processor().prepare(near), processor().prepare(far), atol=1e-4, rtol=0)
    # Around 37.5 and 57.5 dB; a pixel in a thousand of the fainter one lies below 10 dB.
    absolute = processor(reference="absolute", mean=37.5, clip=(10.0, 80.0))
    difference = (absolute.prepare(far) - absolute.prepare(near)) * absolute.std
    inside = absolute.prepare(near) > (10.1 - absolute.mean) / absolute.std
    assert inside.float().mean() > 0.99
    torch.testing.assert_close(difference[inside], torch.full_like(difference[inside], 20.0), atol=1e-3, rtol=0)


def test_another_calibration_than_that_of_pretraining_is_refused() -> None:
    # Pretrained on digital numbers around 40 dB; this is sigma nought around -10 dB.
    with pytest.raises(InvalidInput, match="outside 10 to 60 dB") as caught:
        processor(reference="absolute", mean=37.5, clip=(10.0, 60.0)).prepare(
            Sample(Raster.from_array(speckle(64, 64, 4, level=0.3)))
        )
    assert caught.value.code == "wrong_scale"


def test_a_large_scene_is_averaged_as_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    image = Raster.from_array(speckle(333, 290, 5))
    whole, _ = read_power(image, 0, 64)
    # 290 // 64 = 4, and 333 and 290 lose their remainder.
    expected = (np.abs(image.values[0][:332, :288].astype(np.complex128)) ** 2).reshape(83, 4, 72, 4).mean((1, 3))
    np.testing.assert_allclose(whole, expected, rtol=1e-5)
    monkeypatch.setattr("domains.sar.nereus.intensity.STRIP_PIXELS", 5_000)
    by_strips, _ = read_power(image, 0, 64)
    np.testing.assert_array_equal(by_strips, whole)


def test_the_centre_crop_hides_the_size_of_a_chip() -> None:
    image = speckle(96, 110, 6)
    framed = np.full((150, 171), 5 + 0j, np.complex64)
    framed[27:123, 30:140] = image  # the same centre, in a larger chip
    crops = [processor(crop=64).prepare(Sample(Raster.from_array(chip))) for chip in (image, framed)]
    assert torch.equal(crops[0], crops[1])


def test_what_is_missing_takes_the_mean_and_empty_areas_stay_dark() -> None:
    image = np.abs(speckle(64, 64, 7))
    image[:8, :8] = np.nan
    image[-12:, -12:] = 0
    power, missing = read_power(Raster.from_array(image), 0, 64)
    assert missing == pytest.approx((64 + 144) / 4096)
    there = np.isfinite(image) & (image > 0)
    np.testing.assert_allclose(power[:8, :8], (image[there] ** 2).mean(), rtol=1e-5)
    assert not power[-12:, -12:].any()
    image[:45] = np.nan
    with pytest.raises(InvalidInput, match=r"7\d% of the image's pixels are missing"):
        processor().prepare(Sample(Raster.from_array(image)))


def test_unusable_images_are_refused_by_name() -> None:
    negative = Raster.from_array(np.abs(speckle(32, 32)) - 150, "amplitude")
    for image, code in (
        (Raster.from_array(np.zeros((32, 32), np.float32)), "no_signal"),
        (Raster.from_array(np.abs(speckle(32, 7))), "too_small"),
        (negative, "wrong_scale"),
        (Raster.from_array(np.full((32, 32), 3e38, np.float32)), None),
        (Raster.from_array(np.abs(np.stack([speckle(32, 32), speckle(32, 32, 1)]))), "ambiguous_band"),
    ):
        if code is None:
            assert torch.isfinite(processor().prepare(Sample(image))).all()
            continue
        with pytest.raises(InvalidInput) as caught:
            processor().prepare(Sample(image))
        assert caught.value.code == code


def test_a_band_is_chosen_by_polarisation_or_number() -> None:
    bands = np.abs(np.stack([speckle(32, 32, 8), speckle(32, 32, 9)]))
    named = Raster(ArrayPixels(bands), "amplitude", names=("VH", "VV"))
    second = processor().prepare(Sample(Raster.from_array(bands[1])))
    assert torch.equal(processor(band="vv").prepare(Sample(named)), second)
    assert torch.equal(processor(band=1).prepare(Sample(Raster.from_array(bands))), second)
    with pytest.raises(InvalidInput, match="VH, VV"):
        processor(band="HH").prepare(Sample(named))


def test_growing_interpolates_decibels() -> None:
    ramp = torch.arange(8.0)[None].expand(8, 8)
    grown = grow(ramp, 16)
    assert grown.shape == (16, 16)
    # Along the inside a ramp stays a ramp of half the slope.
    torch.testing.assert_close(grown[5, 1:15].diff(), torch.full((13,), 0.5))


def test_a_checkpoint_without_its_normalisation_is_refused(tmp_path) -> None:
    from hub.embedder import load_part
    from hub.errors import InvalidCheckpoint

    processor().save_pretrained(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    saved = json.loads(file.read_text())
    assert {"size", "mean", "std", "clip", "reference"} <= set(saved)
    assert load_part(NereusProcessor, tmp_path).to_dict() == processor().to_dict()
    for name in ("mean", "size"):
        file.write_text(json.dumps({k: v for k, v in saved.items() if k != name}))
        with pytest.raises(InvalidCheckpoint, match=f"{name} not given"):
            load_part(NereusProcessor, tmp_path)
    file.unlink()
    with pytest.raises(InvalidCheckpoint):
        load_part(NereusProcessor, tmp_path)


def test_evaluation_is_refused_without_size_and_normalisation(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    from domains.sar.nereus.configuration import NereusConfig
    from domains.sar.nereus.modeling import NereusModel
    from hub.cli import build
    from hub.errors import InvalidCheckpoint
    from hub.publishing import save_checkpoint

    sizes = {"embedding_size": 8, "hidden_sizes": [8], "depths": [1], "layer_type": "basic"}
    save_checkpoint(tmp_path / "model", NereusModel(NereusConfig(**sizes)), processor(size=32))
    lines = ["file,label,split"]
    for number in range(8):
        np.save(tmp_path / f"{number}.npy", speckle(32, 32, number))
        lines.append(f"{number}.npy,{'ab'[number % 2]},{'train' if number < 4 else 'test'}")
    (tmp_path / "set.csv").write_text("\n".join(lines))
    command = ["evaluate", str(tmp_path / "model"), "--manifest", str(tmp_path / "set.csv"), "--twins", "0"]
    build(command)(command, standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["rows"] == 8
    file = tmp_path / "model" / "preprocessor_config.json"
    saved = json.loads(file.read_text())
    for name in ("size", "mean", "std", "clip", "reference"):
        file.write_text(json.dumps({k: v for k, v in saved.items() if k != name}))
        with pytest.raises(InvalidCheckpoint, match=f"{name} not given"):
            build(command)(command, standalone_mode=False)
        assert not capsys.readouterr().out
