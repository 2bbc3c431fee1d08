from __future__ import annotations

import dataclasses
import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.data import shepp_logan_phantom
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from skimage.transform import resize
from typer.testing import CliRunner

from domains.medical.filter2noise.bilateral import bilateral_filter
from domains.medical.filter2noise.fitting import Fit, denoise_image, estimate_noise, spread_out
from domains.medical.filter2noise.modeling import Filter2Noise, at_pixels
from domains.medical.filter2noise.objective import diagonal_halves, edges, local_shuffle
from domains.medical.image import MedicalImage, from_slices
from domains.medical.samples import as_dicom, phantom
from hub.cli import build
from hub.errors import InvalidInput, UnsupportedOption

QUICK = Fit(stages=1, steps=40, crop=64)


def truth(side: int = 96) -> np.ndarray:
    return resize(shepp_logan_phantom(), (side, side), anti_aliasing=True).astype(np.float32)


def noisy_version(clean: np.ndarray, width: float, size: float = 0.05, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=clean.shape)
    if width:
        noise = gaussian_filter(noise, width)
    return (clean + noise * (size / noise.std())).astype(np.float32)


def as_image(values: np.ndarray, **options: object) -> MedicalImage:
    return MedicalImage(values.reshape(1, -1, *values.shape[-2:]), **options)  # type: ignore[arg-type]


def test_the_filter_is_the_bilateral_one() -> None:
    image = truth(40).astype(np.float64)
    random = np.random.default_rng(0)
    widths = random.uniform(0.2, 2.0, (3, 40, 40))
    found = bilateral_filter(torch.from_numpy(image)[None], torch.from_numpy(widths)[None], radius=3)[0].numpy()
    around = np.pad(image, 3, mode="reflect")
    dy, dx = np.mgrid[-3:4, -3:4]
    for row, column in [(0, 0), (20, 13), (39, 39), (7, 31), (25, 20)]:
        x, y, value = widths[:, row, column]
        window = around[row : row + 7, column : column + 7]
        difference = window - image[row, column]
        weights = np.exp(-((dx / x) ** 2 + (dy / y) ** 2 + (difference / value) ** 2) / 2)
        assert found[row, column] == pytest.approx((weights * window).sum() / weights.sum(), abs=1e-12)


def test_its_gradients_are_right_in_image_and_widths() -> None:
    torch.manual_seed(0)
    image = torch.rand(2, 6, 7, dtype=torch.float64, requires_grad=True)
    widths = (torch.rand(2, 3, 6, 7, dtype=torch.float64) + 0.3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w: bilateral_filter(x, w, 2), (image, widths))


def test_sizes_are_the_published_ones() -> None:
    assert sum(p.numel() for p in Filter2Noise(1, 0.05).parameters()) == 1_819
    assert sum(p.numel() for p in Filter2Noise(2, 0.05).parameters()) == 3_638


def test_widths_are_one_set_a_patch_and_differ_between_images() -> None:
    torch.manual_seed(0)
    model = Filter2Noise(2, 0.05)
    with torch.no_grad():
        first, maps = model(torch.from_numpy(truth(45)[:, :30])[None])
    assert first.shape == (1, 45, 30)
    assert [m.shape for m in maps] == [(1, 3, 6, 4)] * 2
    assert all((m > 0).all() for m in maps)
    assert maps[0][:, 2].mean() == pytest.approx(0.1, rel=0.5)  # starts at twice the noise
    grid = at_pixels(torch.arange(12.0).view(1, 3, 2, 2), torch.Size([13, 16]))
    assert grid.shape == (1, 3, 13, 16)
    assert grid[0, 0, 0, 0] == 0
    assert grid[0, 0, 3, 7:9].mean() == pytest.approx(0.5, abs=0.07)


def test_halves_are_means_of_diagonals() -> None:
    image = torch.arange(20.0).view(1, 4, 5)
    first, second = diagonal_halves(image)
    assert first.tolist() == [[[3.0, 5.0], [13.0, 15.0]]]
    assert second.tolist() == [[[3.0, 5.0], [13.0, 15.0]]]
    image[0, 0, 0] = 6
    assert diagonal_halves(image)[0][0, 0, 0] == 6


def test_the_shuffle_swaps_the_most_similar_pair_of_each_block() -> None:
    image = torch.tensor([[[0.0, 5.0, 1.0, 9.0], [9.0, 5.5, 4.0, 1.2]]])
    swapped = torch.tensor([[[0.0, 5.5, 1.2, 9.0], [9.0, 5.0, 4.0, 1.0]]])
    assert torch.equal(local_shuffle(image), swapped)
    random = torch.rand(3, 10, 12)
    shuffled = local_shuffle(random)
    blocks = [t.unflatten(1, (5, 2)).unflatten(3, (6, 2)).movedim(2, 3).flatten(3) for t in (random, shuffled)]
    assert torch.equal(blocks[0].sort(-1).values, blocks[1].sort(-1).values)
    assert ((blocks[0] != blocks[1]).sum(-1) == 2).all()


def test_edges_are_zero_where_nothing_changes() -> None:
    flat = torch.full((1, 20, 20), 0.7)
    assert edges(flat).abs().max() < 1e-6
    step = flat.clone()
    step[:, :, 10:] = 0
    assert edges(step).abs()[0, :, 6:8].min() > 10 * edges(step).abs()[0, :, :2].max()


def test_every_pixel_is_in_one_of_the_spread_images() -> None:
    image = torch.arange(1 * 9 * 7.0).view(1, 9, 7)
    parts = spread_out(image, 2)
    assert parts.shape == (4, 4, 3)
    assert torch.equal(parts[0], image[0, 0:8:2, 0:6:2])
    assert torch.equal(parts[3], image[0, 1:8:2, 1:6:2])


def test_noise_is_estimated_and_its_correlation_seen() -> None:
    clean = truth(192)
    white, correlated = (estimate_noise(noisy_version(clean, width)[None]) for width in (0.0, 1.0))
    assert white == (pytest.approx(0.05, rel=0.15), False)
    assert correlated[1]
    assert 0.015 < correlated[0] < 0.06


@pytest.mark.parametrize(("width", "ratio", "similarity"), [(0.0, 5.0, 0.25), (1.0, 1.5, 0.05)])
def test_a_noisy_phantom_comes_nearer_to_the_truth(width: float, ratio: float, similarity: float) -> None:
    clean = truth()
    noisy = noisy_version(clean, width)
    result = denoise_image(as_image(noisy), dataclasses.replace(QUICK, stages=2, steps=60, crop=0))
    found = result.image.values[0, 0]
    gain = peak_signal_noise_ratio(clean, found, data_range=1) - peak_signal_noise_ratio(clean, noisy, data_range=1)
    assert gain > ratio
    before, after = (structural_similarity(clean, image, data_range=1) for image in (noisy, found))
    assert after - before > similarity
    assert result.widths.shape == (1, 2, 3, 12, 12)
    assert result.removed == pytest.approx(float((found - noisy).std()))


def test_units_only_scale_the_result() -> None:
    noisy = noisy_version(truth(64), 0.0)
    fit = dataclasses.replace(QUICK, steps=8)
    first = denoise_image(as_image(noisy), fit)
    second = denoise_image(as_image(2000 * noisy - 1000, modality="CT"), fit)
    assert np.abs(2000 * first.image.values - 1000 - second.image.values).max() < 0.5
    assert np.allclose(second.widths[:, :, 2], 2000 * first.widths[:, :, 2], rtol=1e-2)
    assert second.image.modality == "CT"
    assert second.noise == pytest.approx(2000 * first.noise, rel=1e-3)


def test_one_filter_serves_a_series_unless_each_slice_is_to_have_its_own() -> None:
    series = phantom(6, 40, 32, 0)
    image = as_image(series, slice_axis=0)
    steps: list[int] = []
    fit = dataclasses.replace(QUICK, steps=4)
    together = denoise_image(image, fit, on_step=steps.append)
    assert len(steps) == 4
    apart = denoise_image(image, fit, each_slice=True, on_step=steps.append)
    assert len(steps) == 4 + 6 * 4
    assert together.widths.shape == apart.widths.shape == (6, 1, 3, 5, 4)
    alone = denoise_image(as_image(series[2]), fit)
    assert np.allclose(apart.image.values[:, 2], alone.image.values[:, 0], atol=1e-6)
    turned = MedicalImage(from_slices(image.slices(), 1), slice_axis=1)
    again = denoise_image(turned, fit)
    assert again.image.values.shape == (1, 40, 6, 32)
    assert np.allclose(again.image.slices(), together.image.slices(), atol=1e-6)


@pytest.mark.parametrize(
    ("values", "code"),
    [
        (np.zeros((1, 1, 32, 32)), "constant_image"),
        (np.random.default_rng(0).random((1, 1, 12, 32)), "too_small"),
        (np.random.default_rng(0).random((3, 1, 32, 32)), "not_grey"),
    ],
)
def test_what_cannot_be_denoised_is_refused(values: np.ndarray, code: str) -> None:
    with pytest.raises(InvalidInput) as error:
        denoise_image(MedicalImage(values.astype(np.float32)), QUICK)
    assert error.value.code == code


def test_the_command_writes_image_and_figure(tmp_path: Path) -> None:
    source = tmp_path / "slice.dcm"
    source.write_bytes(as_dicom(900 * phantom(3, 64, 48, 4)[1], "MR", 4))
    out, figure = tmp_path / "clean.nii.gz", tmp_path / "filters.png"
    few = ["--steps", "3", "--crop", "32"]
    arguments = ["denoise", str(source), "--out", str(out), "--filters", str(figure), *few]
    done = CliRunner().invoke(build(["denoise"]), arguments)
    assert done.exit_code == 0, done.output
    assert "estimated noise" in done.output
    file = nibabel.Nifti1Image.from_bytes(gzip.decompress(out.read_bytes()))
    assert sorted(file.shape) == [1, 48, 64]
    assert file.get_data_dtype() == np.float32
    assert bytes(file.header["descrip"]).strip(b"\0") == b""
    assert min(Image.open(figure).size) > 500
    picture = tmp_path / "picture.png"
    Image.fromarray((255 * phantom(3, 64, 48, 4)[1]).astype(np.uint8)).save(picture)
    done = CliRunner().invoke(build(["denoise"]), ["denoise", str(picture), "--out", str(tmp_path / "p.png"), *few])
    assert done.exit_code == 0, done.output
    assert Image.open(tmp_path / "p.png").mode == "I;16"
    for name in ("p.dcm", "p.png"):
        refused = CliRunner().invoke(build(["denoise"]), ["denoise", str(source), "--out", str(tmp_path / name), *few])
        assert isinstance(refused.exception, UnsupportedOption)
