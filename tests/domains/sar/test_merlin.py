from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

import hub
from domains.sar.despeckling import despeckle_to, only_sample, with_overlap
from domains.sar.formats.quiet import quietly
from domains.sar.merlin.augmentation import modulated, turned, weighted
from domains.sar.merlin.collation import MerlinCollator
from domains.sar.merlin.configuration import MerlinConfig
from domains.sar.merlin.conversion import convert
from domains.sar.merlin.inference import despeckled_strips
from domains.sar.merlin.modeling import MerlinModel
from domains.sar.merlin.pretraining import MerlinForPreTraining, merlin_loss
from domains.sar.merlin.processing import MerlinProcessor
from domains.sar.merlin.spectrum import symmetrise
from domains.sar.merlin.tiles import blending_weights, tile_offsets
from domains.sar.quality import boxcar, equivalent_looks, lee, psnr
from domains.sar.raster import Raster
from domains.sar.samples import coast, fields, simulate_slc, write_samples
from domains.sar.writing import read_band
from hub.errors import InvalidCheckpoint, InvalidInput, UnsupportedOption
from hub.publishing import save_checkpoint
from hub.reading import Sample, Source

TINY = {"hidden_size": 4, "decoder_size": 6, "head_sizes": (5, 3)}


def model_of(**changes: object) -> MerlinModel:
    torch.manual_seed(0)
    return MerlinModel(MerlinConfig(**{**TINY, **changes})).eval()


def despeckled(model: MerlinModel, image: np.ndarray, scale: float = 1.0) -> np.ndarray:
    parts = torch.from_numpy(np.stack([image.real, image.imag]).astype(np.float32))
    strips = list(despeckled_strips(model, lambda first, last: parts[:, first:last], *image.shape, scale))
    assert [s.row for s in strips] == list(np.cumsum([0, *(len(s.amplitude) for s in strips[:-1])]))
    return torch.cat([s.amplitude for s in strips]).numpy()


def identity_model(**changes: object) -> MerlinModel:
    """A network that estimates no speckle, so that its output is its input."""
    model = model_of(**changes)
    torch.nn.init.zeros_(model.network.dec1.weight)
    torch.nn.init.zeros_(model.network.dec1.bias)
    return model


def test_the_network_has_the_published_size() -> None:
    assert MerlinModel(MerlinConfig()).num_parameters() == 988_609


@pytest.mark.parametrize("shape", [(32, 40), (50, 64), (65, 130), (64, 64), (150, 97)])
@pytest.mark.parametrize("taper", [False, True])
def test_tiles_put_together_give_every_pixel_once(shape: tuple[int, int], taper: bool) -> None:
    """A network that changes nothing must give back the image, whatever its size and the overlap."""
    model = identity_model(patch=64, stride=48, taper=taper, symmetrise=False)
    image = simulate_slc(fields(*shape, 1) if min(shape) > 40 else np.ones(shape), 1)
    found = despeckled(model, image)
    expected = np.sqrt((image.real**2 + image.imag**2 + 2e-3) / 2)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_the_scale_is_undone() -> None:
    image = simulate_slc(np.ones((64, 64)), 0)
    model = model_of(patch=64, stride=62)
    np.testing.assert_allclose(despeckled(model, image, scale=4.0), despeckled(model, 4 * image) / 4, rtol=1e-4)


def test_seams_are_below_the_speckle(tmp_path: Path) -> None:
    """Shifting the tiles must change the result less than the speckle that is left, and a ramp less than a mean."""
    image = simulate_slc(coast(224, 224, 2), 2)
    task = trained(image)
    plain, tapered = (
        task.config.__class__(**{**task.config.to_dict(), **c}) for c in ({}, {"stride": 64, "taper": True})
    )
    changes = []
    for config in (plain, tapered):
        task.merlin.config = config
        whole, shifted = despeckled(task.merlin, image), despeckled(task.merlin, image[24:, 24:])
        inner = (slice(48, 160),) * 2
        changes.append(float(np.abs(np.log(whole[24:, 24:][inner] / shifted[inner])).mean()))
    speckle = float(np.abs(np.log(np.abs(image)) - np.log(np.abs(image)).mean()).mean())
    assert changes[1] < changes[0] < speckle / 4, (changes, speckle)


def trained(image: np.ndarray, steps: int = 60) -> MerlinForPreTraining:
    """A small network after a few steps on one image."""
    torch.manual_seed(0)
    task = MerlinForPreTraining(MerlinConfig(hidden_size=8, decoder_size=16, head_sizes=(12, 8), patch=96, stride=94))
    optimizer = torch.optim.Adam(task.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    parts = symmetrise(torch.from_numpy(image)[None])[0]
    random = torch.Generator().manual_seed(0)
    for _ in range(steps):
        top, left = (int(torch.randint(n - 64, (), generator=random)) for n in image.shape)
        patch = parts[top : top + 64, left : left + 64][None, None]
        inputs, targets = torch.cat([patch.real, patch.imag]), torch.cat([patch.imag, patch.real])
        optimizer.zero_grad()
        task(inputs, targets).loss.backward()
        torch.nn.utils.clip_grad_norm_(task.parameters(), 5.0)
        optimizer.step()
        schedule.step()
    return task.eval()


def test_learning_from_one_image_removes_speckle_and_keeps_the_mean() -> None:
    truth = coast(160, 160, 4)
    image = simulate_slc(truth, 4)
    task = trained(image, steps=250)
    before, after = np.abs(image) ** 2, despeckled(task.merlin, image) ** 2
    reference = np.sqrt(truth * (before.mean() / truth.mean()))
    assert psnr(reference, np.sqrt(after)) > psnr(reference, np.sqrt(before)) + 1.5
    assert after.mean() / before.mean() == pytest.approx(1, abs=0.25)


def test_the_loss_is_least_at_the_true_reflectivity() -> None:
    part = torch.randn(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * (50 / 2) ** 0.5
    levels = torch.tensor([25.0, 45.0, 50.0, 55.0, 100.0], dtype=torch.float64)
    losses = torch.stack([merlin_loss(level.log(), part).mean() for level in levels])
    assert int(losses.argmin()) == 2
    gaussian = -torch.distributions.Normal(0.0, (50 / 2) ** 0.5).log_prob(part)
    constant = 0.5 * np.log(np.pi)  # of the normal density, with R / 2 for the variance
    torch.testing.assert_close(merlin_loss(torch.tensor(50.0).log(), part) + constant, gaussian, rtol=1e-5, atol=1e-5)


def test_a_reflectivity_beyond_all_bounds_still_has_a_gradient() -> None:
    level = torch.tensor([-200.0, 95.0, 500.0], requires_grad=True)
    merlin_loss(level, torch.tensor([1.0, 1.0, 0.0])).sum().backward()
    # Below epsilon the second term no longer depends on R; far above the data only (1/2) log R is left.
    torch.testing.assert_close(level.grad, torch.full((3,), 0.5))


def correlation(one: torch.Tensor, other: torch.Tensor, lag: int) -> float:
    """Mean correlation of two parts ``(batch, rows, columns)`` at a lag along the columns."""
    one, other = one[:, :, lag:], other[:, :, : other.shape[2] - lag]
    return float((one * other).mean() / (one.square().mean() * other.square().mean()).sqrt())


def test_changed_patches_keep_independent_parts_and_get_the_other_correlation() -> None:
    """White speckle in, that of a processor with a Hamming window out; whatever the phase, no part tells the other."""
    random = torch.Generator().manual_seed(0)
    white = torch.complex(*torch.randn(2, 64, 64, 64, generator=random))
    half, window = torch.full((64, 2), 0.5), torch.full((64, 2), 0.54)
    bright = modulated(white, 0.8, random)
    contrast = bright.abs().square().flatten(1).std(1) / 2
    assert contrast.max() > 2 and bright.abs().square().mean() == pytest.approx(2, rel=0.05)
    for lag in range(4):
        assert abs(correlation(bright.real, bright.imag, lag)) < 0.02
    changed, valid = turned(weighted(white, half, window), torch.ones(64, 64, 64, dtype=torch.bool), random)
    assert valid.all() and changed.abs().square().mean() == pytest.approx(2, rel=0.02)
    assert abs(correlation(white.real, white.real, 1)) < 0.01
    frequency = np.linspace(-0.25, 0.25, 1000)
    power = np.square(0.54 + 0.46 * np.cos(4 * np.pi * frequency))
    expected = np.average(np.cos(2 * np.pi * frequency), weights=power)
    assert correlation(changed.real, changed.real, 1) == pytest.approx(expected, abs=0.005)
    for lag in range(4):
        assert abs(correlation(changed.real, changed.imag, lag)) < 0.02


def test_a_batch_is_repeated_by_its_seed_and_judges_no_wrapped_pixel() -> None:
    sample = Sample(Raster.from_array(simulate_slc(coast(96, 96, 0), 0)), metadata={"rms_amplitude": 200.0})
    options = {
        "patch": 64,
        "stride": 8,
        "patches": 3,
        "turn": True,
        "jitter": 0.5,
        "modulation": 0.5,
        "bandwidth": 0.7,
        "hamming": 0.5,
    }
    collator = MerlinCollator(MerlinProcessor(), MerlinConfig(**TINY), **options)
    one, again, other = (collator.view(sample, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["inputs"], other["inputs"])
    assert not one["valid"][..., :2, :].any() and one["valid"][..., 2:-2, 2:-2].all()
    with pytest.raises(ValueError, match="hamming"):
        MerlinCollator(MerlinProcessor(), MerlinConfig(**TINY), hamming=0.2)


def test_missing_pixels_take_no_part_in_the_loss() -> None:
    torch.manual_seed(0)
    task = MerlinForPreTraining(MerlinConfig(**TINY))
    parts = 100 * torch.randn(2, 1, 64, 64)
    valid = torch.ones_like(parts, dtype=torch.bool)
    valid[:, :, :, 40:] = False
    changed = torch.where(valid, parts, 9e5)
    assert task(parts, parts, valid).loss == task(parts, changed, valid).loss != task(parts, parts).loss


def test_centring_undoes_a_moved_spectrum() -> None:
    image = torch.from_numpy(simulate_slc(coast(96, 128, 0), 0))
    ramps = [torch.exp(1j * torch.arange(n) * 2 * torch.pi * k / n) for n, k in ((96, 17), (128, -31))]
    moved = image * ramps[0][:, None] * ramps[1]
    found, expected = symmetrise(torch.stack([moved, image]))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-2)
    torch.testing.assert_close(found.abs(), image.abs(), rtol=0, atol=1e-2)


def test_offsets_end_flush_and_weights_add_to_one_inside() -> None:
    assert tile_offsets(300, 256, 254) == [0, 44] and tile_offsets(256, 256, 254) == [0]
    weights = blending_weights(64, 16, taper=True)
    torch.testing.assert_close(weights[-16:] + weights[:16], torch.ones(16))


def test_an_embedding_counts_every_place_once_and_no_empty_one() -> None:
    """The mean over an image of one texture must not depend on how its size falls on the tiles."""
    model, processor = model_of(patch=64, stride=62), MerlinProcessor()
    image = np.tile(simulate_slc(coast(64, 64, 3), 3), (2, 2))

    def states(values: np.ndarray) -> torch.Tensor:
        return model.embed(processor(Sample(Raster.from_array(values))), pooling="none")[0]

    assert states(image).shape == (16, 4) and states(image[:100]).shape == (12, 4)
    empty = image.copy()
    empty[:, 64:] = 0
    torch.testing.assert_close(states(empty), states(image[:, :64]), rtol=0, atol=1e-5)


def test_despeckled_files_keep_georeference_units_and_gaps(tmp_path: Path) -> None:
    paths = write_samples(tmp_path)
    with rasterio.open(paths[0], "r+") as file:
        values = file.read(1)
        values[:, :20] = 0
        file.write(values / 100, 1)
    save_checkpoint(tmp_path / "model", identity_model(symmetrise=False), MerlinProcessor())
    embedder = hub.from_pretrained(tmp_path / "model")
    task_file = embedder.run("despeckle", paths[0])[0]
    sample = only_sample(embedder.processor, paths[0], "")
    ratio = despeckle_to(embedder.model, embedder.processor, sample, tmp_path / "out.tif")
    assert ratio == pytest.approx(0.5, rel=1e-3)  # of an estimate that is the part itself: the mean of both squares
    with rasterio.open(paths[0]) as original, rasterio.open(tmp_path / "out.tif") as written:
        np.testing.assert_array_equal(written.read(1), read_band(task_file.content))
        points, crs = original.gcps
        assert [(p.row, p.col, p.x, p.y) for p in written.gcps[0]] == [(p.row, p.col, p.x, p.y) for p in points]
        assert written.gcps[1] == crs and written.nodata == 0 and written.descriptions == ("amplitude",)
        found = written.read(1)
        assert not found[:, :20].any()
        np.testing.assert_allclose(found[:, 20:], np.abs(original.read(1))[:, 20:] / 2**0.5, rtol=2e-2)


@pytest.mark.filterwarnings("error::rasterio.errors.NotGeoreferencedWarning")
def test_the_command_writes_by_windows_and_asks_which_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from typer.testing import CliRunner

    from hub.cli import build

    path = write_samples(tmp_path)[2]
    save_checkpoint(tmp_path / "model", model_of(patch=64, stride=62), MerlinProcessor())
    arguments = [
        "despeckle",
        str(path),
        str(tmp_path / "out.tif"),
        "--model",
        str(tmp_path / "model"),
        "--overlap",
        "16",
    ]
    done = CliRunner().invoke(build(arguments), arguments)
    assert done.exit_code == 0, done.output
    with quietly(), rasterio.open(tmp_path / "out.tif") as file:
        assert file.shape == (160, 160) and np.isfinite(file.read()).all() and "every 48" in file.tags()["DESPECKLED"]
    with pytest.raises(InvalidInput, match="give --item, one of"):
        only_sample(MerlinProcessor(), path, "hh")
    with pytest.raises(UnsupportedOption, match="overlap=200"):
        with_overlap(MerlinConfig(), 200)


def test_detected_images_go_through_the_other_normalisation(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", identity_model(input="amplitude"), MerlinProcessor(input="amplitude"))
    embedder = hub.from_pretrained(tmp_path / "model")
    amplitude = np.abs(simulate_slc(coast(70, 40, 1), 1))
    file = embedder.run("despeckle", [{"amplitude": amplitude.tolist()}])[0]
    # Clipped below at the smallest amplitude that the network knows, exp(m).
    floor = np.exp(embedder.model.config.log_minimum)
    np.testing.assert_allclose(read_band(file.content), np.maximum(amplitude, floor), rtol=1e-4)
    with pytest.raises(ValueError, match="trained on complex images"):
        MerlinForPreTraining(embedder.model.config)


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("code of the file was run",)


def test_conversion_refuses_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = model_of().network.state_dict()
    torch.save({"model_state_dict": weights, "loss": np.float64(1.5), "epoch_num": 50}, tmp_path / "stripmap.pth")
    convert(tmp_path / "stripmap.pth", tmp_path / "good")
    assert hub.embedder.load_part(MerlinModel, tmp_path / "good").config.log_maximum == 10.089038980848645
    torch.save(weights, tmp_path / "model.pth")
    with pytest.raises(UnsupportedOption, match="spotlight, stripmap"):
        convert(tmp_path / "model.pth", tmp_path / "out")
    torch.save({k: v for k, v in weights.items() if k != "enc3.bias"} | {"enc9": torch.ones(1)}, tmp_path / "other.pth")
    with pytest.raises(InvalidCheckpoint, match=r"Missing: enc3\.bias\. Unexpected: enc9\."):
        convert(tmp_path / "other.pth", tmp_path / "out", sensor="stripmap")
    torch.save({"x": Malicious()}, tmp_path / "bad.pth")
    with pytest.raises(InvalidCheckpoint, match="asks for print"):
        convert(tmp_path / "bad.pth", tmp_path / "out", sensor="stripmap")
    (tmp_path / "noise.pth").write_bytes(bytes(range(256)) * 9)
    with pytest.raises(InvalidCheckpoint, match="its pickle cannot be read"):
        convert(tmp_path / "noise.pth", tmp_path / "out", sensor="stripmap")
    assert "was run" not in capsys.readouterr().out and not (tmp_path / "out").exists()


def test_classical_filters_know_homogeneous_speckle() -> None:
    random = np.random.default_rng(0)
    intensity = random.exponential(4.0, (200, 200))
    assert equivalent_looks(intensity) == pytest.approx(1, rel=0.05)
    assert equivalent_looks(boxcar(intensity, 5)) == pytest.approx(25, rel=0.15)
    assert equivalent_looks(lee(intensity, 5)) > 12 and lee(intensity, 5).mean() == pytest.approx(4, rel=0.02)


@pytest.mark.slow
def test_published_weights_reach_the_recorded_quality(shared_data: Path, tmp_path: Path) -> None:
    """24.3 and 22.0 dB were measured with the published code; ours, on the same scenes, must not be worse."""
    from domains.sar.comparison import figures

    convert(shared_data / "sar" / "weights" / "merlin_stripmap.safetensors", tmp_path / "model")
    embedder = hub.from_pretrained(tmp_path / "model")
    for scene, decibels, similarity in (("phantom_a", 24.2, 0.84), ("spain_vv", 21.9, 0.65)):
        path = shared_data / "sar" / "speckle_sim" / f"{scene}_corr_slc.npy"
        truth = np.load(path.with_name(f"{scene}_corr_expected.npy"))
        by_tiling = []
        for changes in ({"symmetrise": False}, {"symmetrise": False, "patch": 128, "stride": 96, "taper": True}):
            embedder.model.config = MerlinConfig(**{**embedder.model.config.to_dict(), **changes})
            amplitude = read_band(embedder.run("despeckle", path)[0].content)
            found = figures(truth, np.square(amplitude, dtype=np.float64))
            by_tiling.append(found["psnr"])
        assert by_tiling[0] >= decibels and found["ssim"] >= similarity - 0.02
        assert abs(by_tiling[0] - by_tiling[1]) < 0.2


def test_the_built_in_model_beats_the_best_lee_filter() -> None:
    """On scenes of our own, which it has never seen, and whose reflectivity as the system passes it is known."""
    from domains.sar.comparison import figures

    embedder = hub.from_pretrained("merlin-tiny")
    gains = []
    for number, scene in enumerate((fields(192, 192, 7), coast(192, 192, 8))):
        image = simulate_slc(scene, number)
        truth = np.mean([np.abs(simulate_slc(scene, 100 + draw)) ** 2 for draw in range(60)], axis=0)
        best = max(figures(truth, lee(np.abs(image) ** 2, side))["psnr"] for side in (3, 5, 7, 9))
        found = figures(truth, np.square(despeckled(embedder.model, image)))
        gains.append(found["psnr"] - best)
        assert found["bias"] == pytest.approx(1, abs=0.1)
    # Measured: 1.45 dB on the fields, none on the coast.
    assert min(gains) > -0.1 and np.mean(gains) > 0.5, gains


def test_reading_by_bytes_and_by_path_despeckle_alike(tmp_path: Path) -> None:
    path = write_samples(tmp_path)[3]
    save_checkpoint(tmp_path / "model", model_of(patch=64, stride=62), MerlinProcessor())
    embedder = hub.from_pretrained(tmp_path / "model")
    one, two = embedder.run("despeckle", [path, Source.from_bytes(path.read_bytes(), "x.cos")])
    assert one.content == two.content and one.media_type == "image/tiff"
