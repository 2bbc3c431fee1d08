"""The EEGFormer model: sizes, invariances, poolings and tasks."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from domains.eeg.eegformer.configuration import EEGFormerConfig
from domains.eeg.eegformer.modeling import EEGFormerModel
from domains.eeg.eegformer.processing import EEGFormerProcessor
from domains.eeg.eegformer.regions import REGIONS
from hub.errors import UnsupportedOption
from hub.training.recipe import load_recipe

MANY = [f"E{i}" for i in range(64)]


@pytest.mark.parametrize(("recipe", "millions"), [("small", 1.9), ("base", 2.3), ("large", 3.2)])
def test_published_sizes_have_the_published_number_of_parameters(recipe: str, millions: float) -> None:
    loaded = load_recipe(f"eegformer/{recipe}")
    processor = EEGFormerProcessor(**loaded.processor)
    config = EEGFormerConfig(**loaded.model)
    model = EEGFormerModel(config)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == millions
    assert (processor.front_end.values, processor.front_end.tokens) == (config.patch_size, config.max_tokens)


@pytest.mark.parametrize("options", [{}, {"class_token": True}, {"norm_first": False, "final_norm": False}])
def test_company_changes_nothing(options, processor, build, record) -> None:
    """Recordings of 64, 2 and 1 channels, of 4, 1.5 and 9 seconds, alone and in one batch."""
    model = build(amplitude=True, **options)
    samples = [record(MANY, 4.0, 1), record(["Fp1", "O2"], 1.5, 2), record(["Cz"], 9.0, 3)]
    prepared = [processor.prepare(s) for s in samples]
    together = processor.pad(prepared)
    for pooling in (*model.poolings, "none"):
        for one, expected in zip(prepared, model.embed(together, pooling), strict=True):
            alone = model.embed(processor.pad([one]), pooling)[0]
            torch.testing.assert_close(alone, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_channels_do_not_see_each_other(processor, build, record) -> None:
    model = build()
    sample = record(["Cz", "Pz"])
    before = model.channel_embeddings(processor.pad([processor.prepare(sample)]), [sample])[0]["embeddings"]
    sample.data.signal[1] *= np.random.default_rng(9).normal(size=1000)
    after = model.channel_embeddings(processor.pad([processor.prepare(sample)]), [sample])[0]["embeddings"]
    np.testing.assert_allclose(before["Cz"], after["Cz"], atol=1e-6)
    assert np.abs(np.subtract(before["Pz"], after["Pz"])).max() > 1e-3


def test_rows_are_encoded_in_as_many_passes_as_they_need(processor, build, record, monkeypatch) -> None:
    from domains.eeg.eegformer import modeling

    model, batch = build(), processor.pad([processor.prepare(record(MANY, 9.0))])
    whole = model.embed(batch, "none")[0]
    monkeypatch.setattr(modeling, "PASS_TOKENS", 50)
    torch.testing.assert_close(model.embed(batch, "none")[0], whole, atol=1e-5, rtol=0)


def test_regions_hold_the_mean_of_their_channels(processor, build, record) -> None:
    model, sample = build(amplitude=True), record(["Fp1", "F3", "O2", "AUX"])
    batch = processor.pad([processor.prepare(sample)])
    parts = model.embed(batch, "regions")[0].unflatten(0, (len(REGIONS), -1))
    tokens = model.embed(batch, "none")[0].unflatten(0, (4, -1)).mean(1)
    torch.testing.assert_close(parts[REGIONS.index("frontal left")], tokens[:2].mean(0))
    torch.testing.assert_close(parts[REGIONS.index("posterior right")], tokens[2])
    torch.testing.assert_close(parts[REGIONS.index("elsewhere")], tokens[3])
    assert parts[REGIONS.index("central midline")].abs().max() == 0


@torch.no_grad()
def test_codes_are_the_nearest_and_their_histogram_counts_them(processor, build, record) -> None:
    model, samples = build(), [record(["Fp1", "O2"], seed=1), record(["Cz"], 1.5, seed=2)]
    batch = processor.pad([processor.prepare(s) for s in samples])
    answers = model.codes(batch, samples)
    assert json.dumps(answers)
    for answer, sample, histogram, tokens in zip(
        answers, samples, model.embed(batch, "codes"), model.embed(batch, "none"), strict=True
    ):
        assert answer["channels"] == sample.data.channels
        flat = [code for name in answer["channels"] for row in answer["codes"][name] for code in row]
        nearest = torch.cdist(tokens, model.codebook.weight.detach()).argmin(1)
        assert flat == nearest.tolist()
        expected = torch.bincount(nearest, minlength=model.config.codebook_size) / len(nearest)
        torch.testing.assert_close(histogram, expected)


@torch.no_grad()
def test_anomaly_is_the_mean_squared_error_of_what_the_codes_tell(processor, build, record) -> None:
    model, samples = build(), [record(["Fp1", "O2"]), record(["Cz"], 1.5)]
    batch = processor.pad([processor.prepare(s) for s in samples])
    answer = model.anomaly(batch, samples)[0]
    values = batch["input_values"][0]
    *_, states = model.encode(values)
    rebuilt = model.decode(model.quantise(states).values)
    assert answer["error"] == pytest.approx(float((rebuilt - values).square().mean()), rel=1e-4)
    assert list(answer["channels"]) == ["Fp1", "O2"]


def test_a_reference_that_changes_the_channels_changes_the_names(build, record) -> None:
    processor = EEGFormerProcessor(**{**_frames(), "reference": "Cz"})
    sample = record(["Fp1", "Cz", "O2"])
    answer = build().codes(processor.pad([processor.prepare(sample)]), [sample])[0]
    assert answer["channels"] == ["channel 1", "channel 2"]


@torch.no_grad()
def test_class_tokens_are_pooled_apart(processor, build, record) -> None:
    batch = processor.pad([processor.prepare(record(["Fp1", "O2"]))])
    with pytest.raises(UnsupportedOption, match="class"):
        build().embed(batch, "class")
    model = build(class_token=True)
    *_, states = model.encode(batch["input_values"][0])
    torch.testing.assert_close(model.embed(batch, "class")[0], states[:, 0].mean(0), atol=1e-5, rtol=0)
    assert len(model.embed(batch, "none")[0]) == 2 * 7


def _frames() -> dict:
    return {
        "window_seconds": 4.0, "spectrum": "log_amplitude", "fft_scope": "frame", "frame_seconds": 1.0,
        "taper": "hann", "freq_min": 1.0, "freq_max": 45.0, "token_axis": "time",
    }  # fmt: skip
