"""Recipes, samples, the baseline and the corpora's manifests."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from scipy.io import wavfile

from domains.speech.baseline import log_mel_statistics
from domains.speech.corpora import both
from domains.speech.reading import AudioReader, Waveform
from domains.speech.samples import VOWELS, write_samples
from domains.speech.tera.collation import TeraCollator
from domains.speech.tera.configuration import TeraConfig
from domains.speech.tera.pretraining import TeraForPreTraining
from domains.speech.tera.processing import TeraProcessor
from hub.domain import get_domain, get_system
from hub.manifest import read_manifest
from hub.reading import Sample, Source
from hub.training.recipe import load_recipe

PARAMETERS = {  # encoder and head, as the published files count them
    "base-960h": (21_327_360, 653_648),
    "base-100h": (21_327_360, 653_648),
    "base-tf-960h": (21_327_360, 653_648),
    "base-tf-960h-seq3k": (21_327_360, 653_648),
    "base-tf-100h": (21_327_360, 653_648),
    "base-fbank240-100h": (21_450_240, 776_688),
    "medium-960h": (42_590_976, 653_648),
    "large-960h": (85_118_208, 653_648),
    "slim-960h": (14_238_336, 179_408),
}


def test_the_domain_declares_what_exists():
    domain = get_domain("speech")
    system = get_system("tera")
    for role in domain.references:
        assert callable(domain.load(role))
    for role in system.classes:
        assert callable(system.load(role))


@pytest.mark.parametrize("name", PARAMETERS)
def test_recipes_have_the_published_sizes(name):
    recipe = load_recipe(f"tera/{name}")
    config = TeraConfig(**recipe.model)
    assert set(recipe.model) <= set(TeraConfig().to_dict())
    with torch.device("meta"):
        model = TeraForPreTraining(config)
    head = sum(p.numel() for p in model.head.parameters())
    assert (model.tera.num_parameters(), head) == PARAMETERS[name]
    collator = TeraCollator(TeraProcessor(**recipe.processor), config, **recipe.pretext)
    assert collator.min_frames == 201
    assert recipe.training.learning_rate == 2e-4
    assert recipe.system.domain.resolve(recipe.training.optimizer).__name__ == "TeraAdamW"


def test_samples_are_the_same_on_every_call_and_readable(tmp_path):
    reader, found = AudioReader(), []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        paths = write_samples(tmp_path / name)
        found.append([next(iter(reader.read(Source.from_path(p)))) for p in paths])
    assert {p.suffix for p in paths} >= {".wav", ".flac", ".ogg", ".mp3"}
    assert {s.metadata["sampling_rate"] for s in found[0]} >= {8_000, 16_000, 44_100}
    assert {s.metadata["channels"] for s in found[0]} == {1, 2}
    assert all("synthetic" in p.name for p in paths)
    for one, two in zip(*found, strict=True):
        assert np.array_equal(one.data.samples, two.data.samples)
        assert not one.warnings
    assert set("aeiou") == set(VOWELS)


def test_the_baseline_is_mean_and_deviation_of_log_mel_bands(voices, samples):
    for voice, sample in zip(voices, samples, strict=True):
        statistics = log_mel_statistics(sample)
        assert statistics.shape == (160,)
        assert statistics.dtype == np.float32
        bands = TeraProcessor(cmvn=False).features.spectrum(torch.tensor(voice)).numpy()
        np.testing.assert_allclose(statistics, np.concatenate([bands.mean(0), bands.std(0)]), atol=1e-4)
    slow = Sample(Waveform(voices[0][::2].copy(), 8_000))
    assert np.isfinite(log_mel_statistics(slow)).all()
    assert np.isfinite(log_mel_statistics(Sample(Waveform(np.zeros(4_000, np.float32), 8_000)))).all()


@pytest.fixture
def corpora(tmp_path):
    """Both corpora in small, with the layout of the real ones."""
    digits, books = tmp_path / "data" / "fsdd", tmp_path / "data" / "librispeech"
    rows = [(f"recordings/{d}_{s}_{i}.wav", d, s, i) for d in range(10) for s in ("ann", "bob") for i in range(12)]
    for folder in (digits / "recordings", books / "flac"):
        folder.mkdir(parents=True)
    with (digits / "labels.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "digit", "speaker", "index", "split", "sample_rate", "num_samples"])
        for path, digit, speaker, index in rows:
            wavfile.write(digits / path, 8_000, np.zeros(800, np.int16))
            writer.writerow([path, digit, speaker, index, "", 8_000, 800])
    with (books / "labels.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "speaker", "sex", "sample_rate", "num_samples"])
        for speaker, samples in (("103", 67_123), ("1034", 275_001)):
            wavfile.write(books / f"flac/{speaker}.flac", 16_000, np.ones(samples, np.int16))
            writer.writerow([f"flac/{speaker}.flac", speaker, "F", 16_000, samples])
    return {p.stem: read_manifest(p) for p in both(tmp_path / "data", tmp_path / "out" / "sets")}


def index_of(row) -> int:
    return int(row.file.stem.rsplit("_", 1)[1])


def test_digit_sets_keep_test_recordings_out_of_training(corpora):
    assert len(corpora["fsdd-pretrain"]) == 140
    assert all(index_of(r) >= 5 for r in corpora["fsdd-pretrain"])
    for name, rows in corpora.items():
        if name.startswith("fsdd") and any(r.split for r in rows):
            assert {r.split for r in rows} == {"train", "test"}
            assert all((index_of(r) < 5) == (r.split == "test") for r in rows)
    digits = corpora["fsdd-digit-speakers"]
    assert {r.group for r in digits} == {"ann", "bob"}
    assert len(digits) == 240
    shots = [r for r in corpora["fsdd-digit-1shot-7"] if r.split == "train"]
    assert len(shots) == 20
    assert {index_of(r) for r in shots} == {7}


def test_speaker_sets_learn_and_test_on_other_digits(corpora):
    for name, trained in (("fsdd-speaker-low", range(5)), ("fsdd-speaker-high", range(5, 10))):
        for row in corpora[name]:
            assert row.label in ("ann", "bob")
            assert (int(row.file.stem[0]) in trained) == (row.split == "train")


def test_readings_are_cut_into_windows_of_one_length(corpora):
    """Of one length: else the length would tell the speaker. None reaches over the border of the parts."""
    for speaker, samples in (("103", 67_123), ("1034", 275_001)):
        rows = [r for r in corpora["librispeech-speaker"] if r.label == speaker]
        middle = 0.6 * samples / 16_000
        assert {r.split for r in rows} == {"train", "test"}
        for row in rows:
            assert row.span.stop - row.span.start == pytest.approx(1.5, abs=1e-5)
            assert (row.span.stop <= middle + 1e-4) if row.split == "train" else (row.span.start >= middle - 1e-4)
            assert row.span.stop <= samples / 16_000 + 1e-5
        starts = sorted(r.span.start for r in rows if r.split == "train")
        assert np.diff(starts) == pytest.approx(0.75, abs=1e-5)
        pieces = [r.span for r in corpora["librispeech-pretrain"] if r.file == rows[0].file]
        assert pieces[0].start == 0
        assert middle - 1.001 <= max(p.stop for p in pieces) <= middle + 1e-4
        assert all(p.stop - p.start <= 3.00001 for p in pieces)
    reader = AudioReader(min_seconds=0.05)
    for row in corpora["librispeech-speaker"]:
        (sample,) = reader.read(Source.from_path(row.file), row.span)
        assert not any("span" in w for w in sample.warnings)
