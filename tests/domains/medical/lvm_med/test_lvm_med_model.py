"""Processor and encoder: intensities by modality, volumes slice by slice, stages, poolings, and the task ``slices``."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torchvision.models import resnet18

from domains.medical.image import MedicalImage
from domains.medical.intensity import unit_range
from domains.medical.lvm_med import modeling
from domains.medical.lvm_med.configuration import LVMMedConfig
from domains.medical.lvm_med.modeling import LVMMedModel, slice_positions
from domains.medical.lvm_med.processing import IMAGENET_MEAN, IMAGENET_STD, LVMMedProcessor
from hub.errors import InvalidInput, UnsupportedOption
from hub.reading import Sample

RANDOM = np.random.default_rng(0)
PERCENTILES = (0.5, 99.5)


def small(**changes: object) -> LVMMedModel:
    torch.manual_seed(0)
    defaults: dict[str, object] = {"arch": "resnet18", "width": 8, "depths": [1, 1, 1]}
    return LVMMedModel(LVMMedConfig(**{**defaults, **changes})).eval()


def volume(slices: int = 21, axis: int = 0) -> Sample:
    shape = [20, 24, 28]
    shape[axis] = slices
    affine = np.diag([2.0, 1.5, 3.0, 1.0])
    affine[:3, 3] = (-10, 20, -30)
    values = RANDOM.random((1, *shape), dtype=np.float32) * 1000
    return Sample(MedicalImage(values, affine, (2.0, 1.5, 3.0), "MR", axis))


def picture(channels: int = 1, rows: int = 40, columns: int = 30) -> Sample:
    return Sample(MedicalImage(RANDOM.random((channels, 1, rows, columns), dtype=np.float32)))


def test_ct_is_seen_through_a_window() -> None:
    values = np.array([-1000, -160, 40, 140, 240, 3000], np.float32).reshape(1, 1, 1, 6)
    ct = MedicalImage(values, modality="CT", window=(-600.0, 1500.0))
    expected = {
        "soft_tissue": [0, 0, 0.5, 0.75, 1, 1],
        "file": [350 / 1500, 1190 / 1500, 1390 / 1500, 1490 / 1500, 1, 1],
        "brain": [0, 0, 0.5, 1, 1, 1],
    }
    for window, levels in expected.items():
        np.testing.assert_allclose(unit_range(ct, window, PERCENTILES).ravel(), levels, atol=1e-6)
    np.testing.assert_allclose(unit_range(ct, [140, 200], PERCENTILES).ravel(), [0, 0, 0, 0.5, 1, 1], atol=1e-6)
    with pytest.raises(ValueError, match="soft_tissue"):
        LVMMedProcessor(ct_window="muscle")
    with pytest.raises(ValueError, match="positive width"):
        LVMMedProcessor(ct_window=[40, 0])


def test_other_modalities_go_by_percentiles_of_the_foreground_and_pictures_stay() -> None:
    values = np.zeros((1, 2, 60, 60), np.float32)
    values[:, :, 10:50, 10:50] = np.linspace(500, 700, 3200, dtype=np.float32).reshape(1, 2, 40, 40)
    values[0, 0, 10, 10] = 1e6  # one bright voxel must not dim the rest
    levels = unit_range(MedicalImage(values, modality="MR"), "brain", PERCENTILES)
    assert levels.min() == 0 and levels.max() == 1 and 0.4 < np.median(levels[values > 0]) < 0.6
    # A scale of the file's own changes nothing, as maxima of one set range from hundreds to millions.
    again = unit_range(MedicalImage(values * 5000, modality="MR"), "brain", PERCENTILES)
    np.testing.assert_allclose(again, levels, atol=1e-5)
    for constant in (0.0, 7.0):
        flat = unit_range(
            MedicalImage(np.full((1, 1, 9, 9), constant, np.float32), modality="MR"), "brain", PERCENTILES
        )
        assert np.isfinite(flat).all()
    grey = picture()
    np.testing.assert_array_equal(unit_range(grey.data, "brain", PERCENTILES), grey.data.values)


def test_the_processor_stretches_repeats_and_standardises() -> None:
    processor = LVMMedProcessor(size=16)
    bright = Sample(MedicalImage(np.ones((1, 1, 50, 20), np.float32)))
    pixels = processor.prepare(bright)
    assert pixels.shape == (1, 3, 16, 16)
    for channel in range(3):
        expected = (1 - IMAGENET_MEAN[channel]) / IMAGENET_STD[channel]
        torch.testing.assert_close(pixels[0, channel], torch.full((16, 16), expected))
    assert processor.prepare(volume()).shape == (21, 3, 16, 16)
    assert processor.prepare(volume(5, axis=2)).shape == (5, 3, 16, 16)
    assert processor.cost(volume()) == 21 * 256 and processor.cost(volume(5, axis=2)) == 5 * 256
    colours = processor.prepare(picture(3))
    assert not torch.equal(colours[0, 0] * IMAGENET_STD[0], colours[0, 1] * IMAGENET_STD[1])
    with pytest.raises(InvalidInput, match="2 channels"):
        processor.prepare(picture(2))
    with pytest.raises(InvalidInput, match="at least 8"):
        processor.prepare(picture(rows=4))


def test_the_maps_are_torchvisions() -> None:
    torch.manual_seed(0)
    original = resnet18().eval()
    model = LVMMedModel(LVMMedConfig(arch="resnet18")).eval()
    weights = {k: v for k, v in original.state_dict().items() if not k.startswith("fc.")}
    model.resnet.load_state_dict(weights)
    pixels = torch.randn(2, 3, 64, 48)
    states = original.maxpool(original.relu(original.bn1(original.conv1(pixels))))
    for number, found in enumerate(model.maps(pixels)):
        states = getattr(original, f"layer{number + 1}")(states)
        torch.testing.assert_close(found, states)


def test_stages_are_averaged_to_the_deepest_grid_and_concatenated() -> None:
    model = small(stages=[1, 3])
    assert model.config.hidden_size == 8 + 32 and model.config.map_size == 32 and model.config.map_side(64) == 4
    pixels = torch.randn(2, 3, 64, 64)
    maps = model.maps(pixels)
    states = model(pixels).last_hidden_state
    assert [tuple(m.shape[1:]) for m in maps] == [(8, 16, 16), (16, 8, 8), (32, 4, 4)]
    torch.testing.assert_close(states[..., 8:], maps[2].flatten(2).transpose(1, 2))
    torch.testing.assert_close(states[1, 5, :8], maps[0][1, :, 4:8, 4:8].mean((1, 2)))
    with pytest.raises(StrictDataclassError, match="1 to 3"):
        LVMMedConfig(arch="resnet18", depths=[1, 1, 1], stages=[4])


def test_a_volume_is_the_mean_of_its_slices_in_bounded_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = small(), LVMMedProcessor(size=48)
    samples = [volume(21), picture(), volume(3, axis=1)]
    prepared = [processor.prepare(s) for s in samples]
    batch = processor.pad(prepared)
    seen: list[int] = []
    original = model.maps
    monkeypatch.setattr(model, "maps", lambda pixels: (seen.append(len(pixels)), original(pixels))[1])
    for pooling in model.poolings:
        together = model.embed(batch, pooling)
        for pixels, vector in zip(prepared, together, strict=True):
            slices = torch.stack([model.embed({"pixel_values": one[None]}, pooling)[0] for one in pixels])
            torch.testing.assert_close(vector, slices.mean(0), atol=1e-5, rtol=1e-4)
            assert vector.shape == (model.embedding_dimension(pooling),)
    tokens = model.embed(batch, "none")
    assert [len(t) for t in tokens] == [21, 9, 3]
    torch.testing.assert_close(tokens[0].mean(0), model.embed(batch, "mean")[0], atol=1e-5, rtol=1e-4)
    assert max(seen) <= modeling.SLICES_AT_ONCE and len(model(**batch).mask) == 3
    with pytest.raises(UnsupportedOption, match="slices"):
        model.pool(*model.token_states(batch), "grid", batch)


def test_slices_come_with_their_places() -> None:
    model, processor = small(pooling="grid"), LVMMedProcessor(size=48)
    samples = [volume(5, axis=2), picture()]
    batch = processor.pad([processor.prepare(s) for s in samples])
    first, second = model.slices(batch, samples)
    assert [s["slice"] for s in first] == list(range(5))
    assert [s["position"] for s in first] == [-30.0, -27.0, -24.0, -21.0, -18.0]
    mean = torch.tensor([s["embedding"] for s in first]).mean(0)
    torch.testing.assert_close(mean, model.embed(batch)[0], atol=1e-5, rtol=1e-4)
    assert len(second) == 1 and second[0]["position"] is None and len(second[0]["embedding"]) == 32 * 16
    oblique = np.eye(4)
    oblique[:3, 0] = (3.0, 4.0, 0.0)
    oblique[:3, 3] = (3.0, 4.0, 9.0)
    assert slice_positions(MedicalImage(np.zeros((1, 2, 8, 8), np.float32), oblique)) == [5.0, 10.0]


def test_a_vits_hidden_states_are_its_layers() -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "window_size": 2}
    model = LVMMedModel(LVMMedConfig(arch="sam_vit", image_size=64, global_layers=[1], **sizes)).eval()
    pixels = torch.randn(2, 3, 64, 64)
    output = model(pixels, output_hidden_states=True)
    assert len(output.hidden_states) == 3 == model.num_hidden_states
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
    torch.testing.assert_close(model.embed({"pixel_values": pixels}, layer=1)[0], output.hidden_states[1][0].mean(0))
    # A smaller view than the tables are for, as in pretraining.
    assert model(pixels[..., :32, :32]).last_hidden_state.shape == (2, 4, 32)
