"""Fine-tuning on music: augmentation, beats and keys as the field scores them, and heads on a small encoder."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

import hub
from domains.music.audio import Audio
from domains.music.finetune import beats, change_microphone, preset, score_beats, score_key
from domains.music.samples import CLARINET, STRING
from domains.music.scoring import beat_f_measure, beat_labels, beat_times, key_score, read_beats
from domains.music.synthesis import play
from hub.domain import get_system
from hub.errors import InvalidManifest
from hub.finetuning.options import MODE_DEFAULTS, FinetuneOptions
from hub.finetuning.run import finetune
from hub.finetuning.task import ANSWERS
from hub.publishing import card_metadata, save_checkpoint, write_card
from hub.reading import Sample
from hub.training.pretrain import build_task
from hub.training.recipe import load_recipe

RATE = 16_000


def centroid(samples: np.ndarray) -> float:
    power = np.abs(np.fft.rfft(samples[0])) ** 2
    return float((np.fft.rfftfreq(samples.shape[1], 1 / RATE) * power).sum() / power.sum())


def test_another_microphone_changes_colour_and_polarity_but_no_pitch_and_no_time() -> None:
    note = play(CLARINET, 60, 1.0, rate=RATE)
    note[: RATE // 2] = 0
    sample = Sample(Audio(np.stack([note, note]), RATE), key="a", metadata={"seconds": 1.0})
    generator = torch.Generator().manual_seed(0)
    changed = [change_microphone(sample, generator) for _ in range(12)]
    colours = [centroid(c.data.samples) for c in changed]
    assert min(colours) < 0.9 * centroid(sample.data.samples) < 1.1 * centroid(sample.data.samples) < max(colours)
    assert {np.sign((c.data.samples * sample.data.samples).sum()) for c in changed} == {-1.0, 1.0}
    for new in changed:
        samples = new.data.samples
        assert samples.dtype == np.float32 and samples.shape == (2, RATE) and new.key == "a"
        assert np.abs(samples).max() == pytest.approx(0.7, rel=1e-4)
        assert np.abs(samples[:, : RATE // 4]).max() < 0.02  # the onset stays where it was
        assert np.abs(np.fft.rfft(samples[0]))[:400].argmax() == np.abs(np.fft.rfft(note))[:400].argmax()
    again = change_microphone(sample, torch.Generator().manual_seed(0))
    assert np.array_equal(again.data.samples, changed[0].data.samples)
    silence = change_microphone(Sample(Audio(np.zeros((1, 999), np.float32), RATE)), generator)
    assert not silence.data.samples.any()


def test_the_preset_fits_every_task_and_mode() -> None:
    for task in ANSWERS:
        for mode in MODE_DEFAULTS:
            assert FinetuneOptions.for_mode(task, mode, preset()).pooling is None


def test_beats_come_back_from_their_labels() -> None:
    times = np.arange(0.35, 10, 0.5)
    labels = beat_labels(times.tolist(), 10.0).split(";")
    assert len(labels) == 250 and labels.count("beat") == 20
    for tokens in (250, 749):  # a model's tokens need not be the labels' steps
        chosen = [labels[int((t + 0.5) * 250 / tokens)] for t in range(tokens)]
        heard = beat_times({"labels": chosen, "scores": [0.9] * tokens}, 10.0)
        assert len(heard) == 20 and np.abs(heard - times).max() < 0.041
        assert beat_f_measure(times, heard) == 1.0
    unsure = beat_times({"labels": ["rest"] * 250, "scores": [0.9] * 250}, 10.0)
    assert len(unsure) == 0 and beat_f_measure(times, unsure) == 0.0 == beat_f_measure([], heard)
    assert beat_f_measure(times, heard[::2]) == pytest.approx(2 / 3)
    with pytest.raises(InvalidManifest, match="11 s"):
        beat_labels([11.0], 10.0)


def test_beat_files(tmp_path: Path) -> None:
    path = tmp_path / "a.beats"
    path.write_text("# a comment\n1.5 2\n0.5\t1\n\n2.5,3\n")
    assert read_beats(path) == [0.5, 1.5, 2.5]
    for text in ("0.5\nbeat\n", "0.5\nnan\n"):
        path.write_text(text)
        with pytest.raises(InvalidManifest, match="line 2"):
            read_beats(path)


def test_keys_are_scored_as_mirex_does() -> None:
    scores = {"C major": 1, "G major": 0.5, "A minor": 0.3, "C minor": 0.2, "F# major": 0}
    assert {heard: key_score("C major", heard) for heard in scores} == pytest.approx(scores)
    assert key_score("Db major", "C# major") == 1
    with pytest.raises(InvalidManifest, match="'H major' is no key"):
        key_score("C major", "H major")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MERT's test model with random weights."""
    folder = tmp_path_factory.mktemp("music") / "small"
    torch.manual_seed(0)
    task, processor = build_task(load_recipe("mert/tiny"))
    save_checkpoint(folder, task, processor)
    write_card(folder, card_metadata(get_system("mert"), license="apache-2.0"), "# small")
    return folder


def write(path: Path, rows: list[tuple[str, ...]]) -> Path:
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return path


def test_keys_and_tags_are_learnt_and_scored(checkpoint: Path, tmp_path: Path) -> None:
    keys, tags = [("file", "label", "split")], [("file", "label", "split")]
    for take in range(10):
        split = "train" if take < 7 else "test"
        for key, midi, instrument in (("C major", 48, STRING), ("A minor", 81, CLARINET)):
            name = f"{key[0]}-{take}.wav"
            soundfile.write(tmp_path / name, play(instrument, midi, 0.3, take, RATE), RATE)
            keys.append((name, key, split))
            tags.append((name, "1;0" if midi == 48 else "0;1", split))
    manifest = write(tmp_path / "keys.csv", keys)
    options = FinetuneOptions.for_mode("classification", "frozen", preset(), epochs=20, valid_share=0.0)
    outcome = finetune(checkpoint, manifest, tmp_path / "out", options)
    assert outcome.test["accuracy"] == 1.0
    result = CliRunner().invoke(app_of(score_key), [str(tmp_path / "out"), "--manifest", str(manifest)])
    assert json.loads(result.stdout) == {"weighted": 1.0, "accuracy": 1.0, "recordings": 6}

    options = FinetuneOptions.for_mode(
        "multilabel", "frozen", preset(), epochs=20, valid_share=0.0, labels=("plucked", "blown")
    )
    outcome = finetune(checkpoint, write(tmp_path / "tags.csv", tags), tmp_path / "tags", options)
    assert outcome.test["macro_auc"] == 1.0
    (answer,) = hub.from_pretrained(tmp_path / "tags").run("classify", [tmp_path / "C-9.wav"])
    assert answer["labels"] == ["plucked"] and set(answer["scores"]) == {"plucked", "blown"}


def test_beats_are_learnt_and_scored(checkpoint: Path, tmp_path: Path) -> None:
    """Clicks in soft noise, at tempi of their own."""
    random = np.random.default_rng(0)
    rows = [("file", "label", "split")]
    for number in range(12):
        sound = random.normal(0, 0.003, 3 * RATE)
        times = np.arange(random.uniform(0.1, 0.4), 2.9, random.uniform(0.35, 0.6))
        for time in times:
            start = round(time * RATE)
            sound[start : start + 500] += 0.5 * random.normal(0, 1, 500) * np.linspace(1, 0, 500)
        soundfile.write(tmp_path / f"{number}.wav", np.clip(sound, -1, 1), RATE)
        (tmp_path / f"{number}.beats").write_text("".join(f"{t:.3f}\n" for t in times))
        rows.append((f"{number}.wav", f"{number}.beats", "train" if number < 9 else "test"))
    annotations, manifest = write(tmp_path / "beats.csv", rows), tmp_path / "frames.csv"
    assert CliRunner().invoke(app_of(beats), [str(annotations), str(manifest)]).exit_code == 0
    options = FinetuneOptions.for_mode(
        "frames", "frozen", preset(), epochs=40, valid_share=0.0, labels=("rest", "beat"), layer=0, batch_size=4
    )
    finetune(checkpoint, manifest, tmp_path / "out", options)
    result = CliRunner().invoke(app_of(score_beats), [str(tmp_path / "out"), "--annotations", str(annotations)])
    scores = json.loads(result.stdout)
    assert scores["recordings"] == 3 and scores["f_measure"] > 0.8


def app_of(command):
    import typer

    app = typer.Typer()
    app.command()(command)
    return app
