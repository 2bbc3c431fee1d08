"""``fmhub explain``, and the n-grams behind it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import hub
from domains.eeg.eegformer.evidence import code_rows, judge, learn, read_one, telling
from domains.eeg.eegformer.ngrams import NgramClassifier
from domains.eeg.reading import EegReader
from hub.domain import get_system
from hub.publishing import card_metadata, save_checkpoint, write_card
from hub.training.pretrain import build_task
from hub.training.recipe import load_recipe

RATE = 250


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    task, processor = build_task(load_recipe("eegformer/tiny"))
    folder = tmp_path_factory.mktemp("explain") / "model"
    save_checkpoint(folder, task, processor)
    write_card(folder, card_metadata(get_system("eegformer"), license="apache-2.0"), "# random")
    return folder


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings of noise; those labelled "burst" have a 20 Hz burst from 4 to 6 s on their second channel."""
    folder = tmp_path_factory.mktemp("bursts")
    (folder / "eeg.json").write_text(json.dumps({"SamplingFrequency": RATE, "channels": ["C3", "C4"], "unit": "uV"}))
    lines = ["file,label"]
    for number in range(12):
        signal = np.random.default_rng(number).normal(size=(2, 12 * RATE)) * 5
        if number % 2:
            signal[1, 4 * RATE : 6 * RATE] += 100 * np.sin(2 * np.pi * 20 * np.arange(2 * RATE) / RATE)
        np.save(folder / f"{number}.npy", signal.astype(np.float32))
        lines.append(f"{number}.npy,{'burst' if number % 2 else 'rest'}")
    path = folder / "set.csv"
    path.write_text("\n".join(lines))
    return path


def test_evidence_points_to_where_the_burst_is(checkpoint: Path, manifest: Path) -> None:
    embedder = hub.from_pretrained(checkpoint)
    _start_codes(embedder, manifest)
    file = manifest.parent / "11.npy"
    rows = code_rows(embedder, read_one(embedder.processor, file))
    # Twelve seconds are three windows of two channels.
    assert [(r.channel, r.start) for r in rows] == [(c, s) for s in (0.0, 4.0, 8.0) for c in (0, 1)]
    learnt = learn(embedder, manifest, 1, without=file)
    verdict = judge(learnt, rows, None)
    assert (verdict.label, verdict.records) == ("burst", 11) and verdict.probability > 0.9
    loudest = max(telling(embedder, rows, 6, learnt.classifier, "burst"), key=lambda finding: finding.ratio)
    assert {m.channel for m in loudest.marks} == {1}
    assert all(m.start >= 3 and m.stop <= 7 for m in loudest.marks)


def _start_codes(embedder: hub.Embedder, manifest: Path) -> None:
    """Start the codebook from data, as the first step of a pretraining run does."""
    states = embedder.embed(sorted(manifest.parent.glob("*.npy")), pooling="none").vectors
    width = embedder.model.config.hidden_size  # the states also hold the amplitude
    tokens = torch.from_numpy(np.concatenate(states)[:, :width])
    generator = torch.Generator().manual_seed(0)
    embedder.model.codebook.revive_dead_codes(tokens, threshold=float("inf"), generator=generator)


@pytest.mark.parametrize("labelled", [True, False])
def test_the_command_writes_a_figure(labelled: bool, checkpoint: Path, manifest: Path, tmp_path: Path) -> None:
    from hub.cli import build

    out = tmp_path / "deep" / "figure.png"
    arguments = ["explain", str(checkpoint), str(manifest.parent / "11.npy"), "--out", str(out)]
    done = CliRunner().invoke(build(["explain"]), arguments + (["--manifest", str(manifest)] if labelled else []))
    assert done.exit_code == 0, done.output
    assert out.read_bytes().startswith(b"\x89PNG") and "log ratio" in done.output


def test_what_cannot_be_explained_is_refused(checkpoint: Path, manifest: Path, tmp_path: Path) -> None:
    from domains.eeg.explaining import explain
    from hub.errors import HubError

    file, out = manifest.parent / "11.npy", tmp_path / "figure.png"
    for options in ({"label": "burst"}, {"top": 0}, {"longest": 0}, {"manifest": manifest, "label": "other"}):
        with pytest.raises(HubError):
            explain(str(checkpoint), file, out, **options)
    with pytest.raises(HubError, match="format"):
        explain(str(checkpoint), file, tmp_path / "figure.xyz")


def test_ngrams_stay_inside_rows_and_keep_their_order() -> None:
    model = NgramClassifier(1, 2).fit([[[1, 2], [3]], [[2, 1]]], ["a", "b"])
    assert set(model.vocabulary) == {(1,), (2,), (3,), (1, 2), (2, 1)}
    assert model.telling("a", 1)[0][0] == (1, 2)
    # Smoothing by one: (1, 2) is 2 of 4 + 5 words in a, 1 of 3 + 5 in b.
    assert dict(model.telling("a", 5))[1, 2] == pytest.approx(np.log((2 / 9) / (1 / 8)))
    assert model.probabilities([[[1, 2]]]).argmax() == 0


def test_the_reader_takes_the_test_files(manifest: Path) -> None:
    from hub.reading import Source

    (sample,) = EegReader().read(Source.from_path(manifest.parent / "0.npy"))
    assert sample.data.channels == ["C3", "C4"] and sample.data.seconds == 12
