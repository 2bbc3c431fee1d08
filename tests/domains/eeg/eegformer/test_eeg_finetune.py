"""EEG's fine-tuning script: subjects stay apart unless a leak is asked for."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import hub
from domains.eeg.finetune import jitter, main, windows
from hub.domain import get_system
from hub.evaluation.evaluate import evaluate
from hub.publishing import card_metadata, save_checkpoint, write_card
from hub.training.pretrain import build_task
from hub.training.recipe import load_recipe

RATE = 250


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    task, processor = build_task(load_recipe("eegformer/tiny"))
    folder = tmp_path_factory.mktemp("finetune") / "model"
    save_checkpoint(folder, task, processor)
    write_card(folder, card_metadata(get_system("eegformer"), license="apache-2.0"), "# random")
    return folder


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six subjects, each with a recording with and one without alpha waves; the manifest names the subjects."""
    folder = tmp_path_factory.mktemp("alpha")
    (folder / "eeg.json").write_text(json.dumps({"SamplingFrequency": RATE, "channels": ["O1", "O2"], "unit": "uV"}))
    lines = ["file,label,group"]
    for number in range(12):
        signal = np.random.default_rng(number).normal(size=(2, 8 * RATE)) * 10
        signal += (number % 2) * 15 * np.sin(2 * np.pi * 10 * np.arange(8 * RATE) / RATE)
        np.save(folder / f"{number}.npy", signal.astype(np.float32))
        lines.append(f"{number}.npy,{'closed' if number % 2 else 'open'},s{number // 2}")
    path = folder / "recordings.csv"
    path.write_text("\n".join(lines))
    return path


def changed(manifest: Path, name: str, change) -> Path:
    """Write a manifest again beside itself, each row changed by a function."""
    with manifest.open() as stream:
        rows = [change(number, row) for number, row in enumerate(csv.DictReader(stream))]
    path = manifest.with_name(name)
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_windows_and_recordings_are_learnt_with_subjects_apart(checkpoint, recordings, tmp_path) -> None:
    cut = tmp_path / "windows.csv"
    windows(recordings, cut, seconds=2.0)
    assert len(cut.read_text().splitlines()) == 1 + 12 * 4
    options = ["--epochs", "8", "--threads", "1", "--valid-share", "0.2", "--test-share", "0.34"]
    main_without_exit(["run", str(checkpoint), "--manifest", str(cut), "--output-dir", str(tmp_path / "out"), *options])
    report = json.loads((tmp_path / "out" / "finetuning.json").read_text())
    assert report["test"]["balanced_accuracy"] > 0.9
    # The same head takes a whole recording: a stretch of it is one vector.
    answer = hub.from_pretrained(tmp_path / "out").run("classify", [recordings.parent / "11.npy"])
    assert {a["label"] for a in answer} == {"closed"}


def test_an_evaluation_takes_whole_recordings_of_any_channels(checkpoint, recordings, tmp_path) -> None:
    """The set that fine-tuning takes: no row names a window, and one of the recordings has another channel more."""
    embedder = hub.from_pretrained(checkpoint)
    alike = evaluate(embedder, [recordings], twins=0, folds=3)
    assert alike["rows"] == 12 and alike["notes"] == []
    signal = np.load(recordings.parent / "3.npy")
    np.save(tmp_path / "three.npy", np.concatenate([signal, signal[:1]]))
    stated = {"SamplingFrequency": RATE, "channels": ["O1", "O2", "Oz"], "unit": "uV"}
    (tmp_path / "three.json").write_text(json.dumps(stated))
    mixed = changed(
        recordings, "mixed.csv", lambda n, row: row | {"file": str(tmp_path / "three.npy") if n == 3 else row["file"]}
    )
    unlike = evaluate(embedder, [mixed], twins=0, folds=3)
    assert len(unlike["notes"]) == 1 and "mean over the parts" in unlike["notes"][0]
    for summary in (alike, unlike):
        assert summary["results"]["baseline"]["balanced_accuracy"]["mean"] > 0.9


def test_leaks_are_refused_unless_meant(checkpoint, recordings, tmp_path) -> None:
    anonymous = changed(recordings, "anonymous.csv", lambda n, row: {"file": row["file"], "label": row["label"]})
    run = ["run", str(checkpoint), "--output-dir", str(tmp_path / "out"), "--epochs", "2", "--valid-share", "0.3"]
    with pytest.raises(SystemExit, match=r"names no subject .*leaky-split"):
        main([*run, "--manifest", str(anonymous)])
    leaking = changed(recordings, "leaking.csv", lambda n, row: row | {"split": "test" if n > 8 else "train"})
    with pytest.raises(SystemExit, match="'s4' is in test and train"):
        main([*run, "--manifest", str(leaking)])
    main_without_exit([*run, "--manifest", str(leaking), "--leaky-split", "--threads", "1"])
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_annotations_can_label_windows(tmp_path) -> None:
    from domains.eeg.samples import write_samples

    edf = next(f for f in write_samples(tmp_path) if f.suffix == ".edf")
    (tmp_path / "set.csv").write_text(f"file,label,group\n{edf.name},,s1\n")
    windows(tmp_path / "set.csv", tmp_path / "windows.csv", seconds=2.0, annotations=True)
    with (tmp_path / "windows.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert {row["label"] for row in rows} == {"eyes open", "eyes closed"}
    assert [row["label"] for row in rows] == sorted((row["label"] for row in rows), reverse=True)


def test_jitter_keeps_channels_and_spectrum(record) -> None:
    sample = record(["O1", "O2"], tone=10.0)
    changed_sample = jitter(sample, torch.Generator().manual_seed(0))
    assert changed_sample.data.channels == ["O1", "O2"]
    before, after = (np.abs(np.fft.rfft(s.data.signal)) for s in (sample, changed_sample))
    assert not np.array_equal(sample.data.signal, changed_sample.data.signal)
    assert (before.argmax(1) == after.argmax(1)).all()


def main_without_exit(arguments: list[str]) -> None:
    try:
        main(arguments)
    except SystemExit as end:
        assert not end.code, end.code
