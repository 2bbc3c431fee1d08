from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor

from domains.speech.reading import Waveform
from domains.speech.tera.processing import TeraProcessor
from hub.errors import InvalidInput
from hub.reading import Sample


def test_alone_and_beside_a_ten_times_longer_one_are_the_same(processor, voices):
    long = np.tile(voices[1], 10)
    batch = processor([voices[1], long], sampling_rate=16_000)
    alone = processor(voices[1], sampling_rate=16_000)["input_values"][0]
    torch.testing.assert_close(batch["input_values"][0][batch["attention_mask"][0]], alone, atol=1e-5, rtol=0)
    assert (batch["input_values"][0][~batch["attention_mask"][0]] == 0).all()
    assert batch["attention_mask"].sum(1).tolist() == [len(alone), len(long) // 160 + 1]


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 192_000])
def test_any_rate_is_brought_to_16_khz(rate):
    def tone(at: int) -> np.ndarray:
        time = np.arange(at) / at
        return (np.sin(2 * np.pi * 440 * time) * (1 + 0.5 * np.sin(2 * np.pi * 3 * time)) / 2).astype("f4")

    processor = TeraProcessor(cmvn=False)
    sample = Sample(Waveform(tone(rate), rate))
    features = processor.prepare(sample)
    assert abs(len(features) - 101) <= 1
    assert processor.cost(sample) == pytest.approx(len(features), abs=1)
    expected = processor.prepare(Sample(Waveform(tone(16_000), 16_000)))
    # The loudest band, away from the ends where the resampler rings.
    band = int(expected[50].argmax())
    torch.testing.assert_close(features[5:95, band], expected[5:95, band], atol=0.02, rtol=0)


def test_cost_is_the_number_of_frames(processor, samples):
    for front_end in ("mel", "kaldi"):
        processor = TeraProcessor(front_end=front_end)
        for sample in samples:
            assert processor.cost(sample) == len(processor.prepare(sample))


def test_a_waveform_needs_its_rate(processor, voices):
    for value in (voices[0], voices[:2], voices[0].tolist(), torch.tensor(voices[0])):
        with pytest.raises(InvalidInput, match="sampling_rate="):
            processor(value)
        assert processor(value, sampling_rate=16_000)["input_values"].shape[2] == 80


def test_plain_forms_and_samples_give_the_same_batch(processor, voices, samples):
    expected = processor(voices, sampling_rate=16_000)
    plain = [{"samples": v.tolist(), "sampling_rate": 16_000} for v in voices]
    for value in (samples, plain):
        batch = processor(value)
        for name in ("input_values", "attention_mask"):
            assert torch.equal(batch[name], expected[name])


def test_bad_waveforms_are_refused_by_place(processor, voices):
    with pytest.raises(InvalidInput, match=r"input\[1\].*NaN"):
        processor([voices[0], np.array([0.0, np.nan] * 800)], sampling_rate=16_000)
    with pytest.raises(InvalidInput, match="2 dimensions"):
        processor(np.zeros((2, 16_000)), sampling_rate=16_000)


def test_a_short_recording_names_the_minimum(processor):
    sample = Sample(Waveform(np.ones(300, np.float32), 16_000))
    with pytest.raises(InvalidInput, match=r"0\.05 s"):
        processor.prepare(sample)


@pytest.mark.parametrize("front_end", ["mel", "kaldi"])
def test_the_shortest_recording_works(front_end):
    processor = TeraProcessor(front_end=front_end)
    for rate in (4_000, 8_000, 16_000, 44_100):
        noise = np.random.default_rng(0).normal(0, 0.1, round(0.05 * rate)).astype(np.float32)
        features = processor.prepare(Sample(Waveform(noise, rate)))
        assert len(features) >= 2
        assert features.isfinite().all()


@pytest.mark.parametrize("settings", [{}, {"front_end": "kaldi"}, {"level": -20.0, "deltas": 1, "cmvn": False}])
def test_saved_and_loaded_it_is_the_same(settings, tmp_path, voices, config):
    processor = TeraProcessor(**settings)
    processor.save_pretrained(tmp_path)
    config.save_pretrained(tmp_path)
    assert (tmp_path / "preprocessor_config.json").stat().st_size < 1_000
    for loaded in (TeraProcessor.from_pretrained(tmp_path), AutoFeatureExtractor.from_pretrained(tmp_path)):
        assert type(loaded) is TeraProcessor
        assert loaded.to_dict() == processor.to_dict()
        expected = processor(voices, sampling_rate=16_000)["input_values"]
        assert torch.equal(loaded(voices, sampling_rate=16_000)["input_values"], expected)


def test_an_unknown_front_end_is_refused():
    with pytest.raises(ValueError, match="mel, kaldi"):
        TeraProcessor(front_end="mfcc")


@pytest.mark.parametrize(("front_end", "needed"), [("mel", 202), ("kaldi", 561)])
def test_what_the_front_end_needs_is_the_least_minimum(front_end, needed):
    processor = TeraProcessor(front_end=front_end, min_seconds=0.001)
    noise = np.random.default_rng(0).normal(0, 0.1, needed).astype(np.float32)
    assert len(processor.prepare(Sample(Waveform(noise, 16_000)))) == 2
    with pytest.raises(InvalidInput, match="at least"):
        processor.prepare(Sample(Waveform(noise[:-1], 16_000)))


def test_the_reader_keeps_the_processors_minimum():
    reader = TeraProcessor(min_seconds=0.2).reader()
    assert reader.limits()["min_seconds"] == 0.2
