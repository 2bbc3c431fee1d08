from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from domains.speech.finetune import FASTEST, SLOWEST, change_speed, compare, preset
from domains.speech.reading import Waveform
from domains.speech.samples import CHILD, HIGH, LOW, RATE, say
from domains.speech.tera.configuration import TeraConfig
from domains.speech.tera.modeling import TeraModel
from domains.speech.tera.processing import TeraProcessor
from hub.domain import get_system
from hub.finetuning.compare import leave_one_group_out
from hub.finetuning.modes import layer_depths
from hub.finetuning.options import MODE_DEFAULTS, FinetuneOptions
from hub.finetuning.run import Start, finetune
from hub.finetuning.targets import Targets
from hub.manifest import read_manifest
from hub.publishing import card_metadata, save_checkpoint, write_card
from hub.reading import Sample


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A small TERA that has learnt nothing."""
    folder = tmp_path_factory.mktemp("speech") / "small"
    torch.manual_seed(0)
    config = TeraConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
    save_checkpoint(folder, TeraModel(config), TeraProcessor())
    write_card(folder, card_metadata(get_system("tera"), license="apache-2.0"), "# small")
    return folder


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    """Two vowel sequences, said four times by each of three synthetic voices."""
    import soundfile

    folder = tmp_path_factory.mktemp("vowels")
    with (folder / "vowels.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "label", "group"])
        for name, voice in (("low", LOW), ("high", HIGH), ("child", CHILD)):
            for vowels in ("aia", "uou"):
                for take in range(4):
                    path = folder / f"{name}-{vowels}-{take}.wav"
                    soundfile.write(path, say(voice, vowels, seed=take), RATE)
                    writer.writerow([path.name, vowels, name])
    return folder / "vowels.csv"


def test_speed_changes_pitch_and_length_alike() -> None:
    tone = np.sin(2 * np.pi * 400 * np.arange(RATE) / RATE).astype(np.float32)
    generator = torch.Generator().manual_seed(0)
    factors = []
    for _ in range(20):
        changed = change_speed(Sample(Waveform(tone, RATE), "key"), generator)
        waveform = changed.data
        factors.append(1 / waveform.seconds)
        heard = waveform.at_rate(RATE)
        peak = np.abs(np.fft.rfft(heard * np.hanning(len(heard)), 1 << 17)).argmax() * RATE / (1 << 17)
        assert peak == pytest.approx(400 * factors[-1], rel=1e-3) and changed.key == "key"
    assert SLOWEST <= min(factors) < 0.95 < 1.05 < max(factors) <= FASTEST


def test_the_preset_fits_every_mode() -> None:
    assert set(preset().defaults) <= set(MODE_DEFAULTS)
    for mode in MODE_DEFAULTS:
        assert FinetuneOptions.for_mode("classification", mode, preset()).pooling == "mean_std"
    chosen = FinetuneOptions.for_mode("classification", "full", preset(), pooling="max", epochs=None)
    assert chosen.pooling == "max"


def test_depths_of_tera(checkpoint) -> None:
    depths = layer_depths(Start.find(checkpoint).build(FinetuneOptions("classification"), ("a",), fresh=False))
    assert depths["input.projection.weight"] == 0
    assert depths["layers.0.attention.query.weight"] == 1 and depths["layers.1.contract.bias"] == 2


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_vowels_of_heard_voices_are_told_apart(checkpoint, manifest, tmp_path, mode) -> None:
    # Two voices are too few to learn what a third one says, so the takes are held out and not the voices.
    lines = [line.rpartition(",")[0] for line in manifest.read_text().splitlines()]
    takes = manifest.with_name("takes.csv")
    takes.write_text("\n".join(lines))
    options = FinetuneOptions.for_mode(
        "classification",
        mode,
        preset(),
        epochs=12,
        patience=12,
        batch_size=8,
        learning_rate=1e-3,
        head_learning_rate=1e-2,
        test_share=0.25,
        valid_share=0.0,
    )
    outcome = finetune(checkpoint, takes, tmp_path / "out", options)
    assert outcome.rows == {"train": 18, "valid": 0, "test": 6}
    assert outcome.test["accuracy"] > 0.8


def test_each_voice_is_left_out_once(manifest) -> None:
    rows = read_manifest(manifest)
    folds = list(leave_one_group_out(rows, Targets.from_rows(rows, "classification")))
    assert [group for group, _ in folds] == ["child", "high", "low"]
    for group, parts in folds:
        sides = [{rows[n].group for n in numbers} for _, numbers in parts.items()]
        assert sides[2] == {group} and len(set.union(*sides)) == 3 and sum(map(len, sides)) == 3


def test_the_comparison_prints_a_table(checkpoint, manifest) -> None:
    import typer

    app = typer.Typer()
    app.command()(compare)
    arguments = [str(checkpoint), "--manifest", str(manifest), "--only", "frozen,scratch", "--folds", "2"]
    found = CliRunner().invoke(app, [*arguments, "--epochs", "2", "--batch-size", "8"])
    assert found.exit_code == 0, found.output
    lines = [line for line in found.stdout.splitlines() if line.startswith("|")]
    assert len(lines) == 4 and "balanced accuracy" in lines[0]
    assert lines[2].startswith("| frozen |") and lines[3].startswith("| scratch |")
    refused = CliRunner().invoke(app, [*arguments[:-3], "frozen,half"])
    assert refused.exit_code == 2
