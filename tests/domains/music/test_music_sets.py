"""Manifests of a folder of labelled recordings, and how far hand features go on them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile

from domains.music.audio import Audio
from domains.music.baseline import FEATURES, accuracies, chroma, hand_features
from domains.music.corpora import write_manifests
from domains.music.samples import BELL, CLARINET, FLUTE, STRING
from domains.music.synthesis import RATE, play, write_notes
from hub.errors import InvalidManifest
from hub.evaluation.splits import folds_of
from hub.manifest import read_manifest
from hub.reading import Sample


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four synthetic instruments, five notes each, and the lists of a pack."""
    folder = tmp_path_factory.mktemp("pack")
    notes = []
    for name, instrument in (("flute", FLUTE), ("clarinet", CLARINET), ("string", STRING), ("bell", BELL)):
        for fold in range(5):
            midi = 60 + 3 * fold
            soundfile.write(folder / f"{name}-{midi}.flac", play(instrument, midi, 0.4), RATE)
            notes.append((f"{name}-{midi}.flac", name, "any", midi % 12, midi // 12 - 1, fold))
    lists = {
        "notes": (("path", "instrument", "family", "pitch_class", "octave", "fold"), notes),
        "percussion": (("path", "category", "fold"), [(row[0], row[1], row[-1]) for row in notes]),
        "clips": (("path", "category"), [("flute-60.flac", "loop")]),
    }
    for name, (head, rows) in lists.items():
        with (folder / f"{name}.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows([head, *rows])
    return folder


def test_manifests_leave_out_folds_and_pretraining_does_not_see_the_first(folder: Path, tmp_path: Path) -> None:
    written = {p.stem: p for p in write_manifests(folder, tmp_path / "out")}
    assert len(written) == 11
    instruments = read_manifest(written["notes-instrument"], need=("file", "label", "group"))
    folds = list(folds_of(instruments))
    assert len(folds) == 5 and all(len(f.test) == 4 for f in folds)
    held_out = read_manifest(written["notes-instrument-held-out"])
    tested = {r.file for r in held_out if r.split == "test"}
    # The clip is a fold-0 note in this made-up pack, so it is left out of the comparison.
    heard = [r.file for r in read_manifest(written["music-pretrain"])]
    assert len(tested) == 4 and not tested & set(heard[:-1]) and len(heard) == 33
    # Pitch class 0 occurs in fold 0 (and 4, an octave up) alone; octave labels of fold 0 all occur elsewhere.
    assert {r.label for r in read_manifest(written["notes-pitch-class-held-out"]) if r.split == "test"} == {"0"}


def test_pretraining_hears_synthesised_notes_too(folder: Path, tmp_path: Path) -> None:
    notes = write_notes(tmp_path / "notes", 3)
    plain = read_manifest(write_manifests(folder, tmp_path / "plain")[0])
    more = read_manifest(write_manifests(folder, tmp_path / "out" / "deep", notes)[0])
    assert [Path(r.file).name for r in more[: len(plain)]] == [Path(r.file).name for r in plain]
    assert {Path(r.file).resolve() for r in more[len(plain) :]} == set((tmp_path / "notes" / "notes").glob("*.flac"))
    assert not any(r.label for r in more)


def test_a_folder_without_its_lists_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidManifest, match="no such list"):
        write_manifests(tmp_path, tmp_path)
    (tmp_path / "notes.csv").write_text("path,fold\na.wav,0\n")
    with pytest.raises(InvalidManifest, match="'instrument'"):
        write_manifests(tmp_path, tmp_path)


def test_hand_features_have_their_sizes_and_hear_pitch_classes() -> None:
    sound = play(CLARINET, 69, 1.0)
    assert {name: f(sound).shape for name, f in FEATURES.items()} == {
        "MFCC": (40,),
        "chroma": (24,),
        "MFCC + chroma": (64,),
        "log-mel": (256,),
        "CQT": (168,),
        "log-mel + MFCC + chroma": (320,),
    }
    for midi in (57, 62, 70):
        assert chroma(play(CLARINET, midi, 1.0))[:12].argmax() == midi % 12


def test_the_baseline_takes_any_recording() -> None:
    stereo = Sample(Audio(np.stack([play(BELL, 60, 0.03, rate=44_100)] * 2), 44_100))
    silence = Sample(Audio(np.zeros((1, RATE), np.float32), RATE))
    for sample in (stereo, silence):
        features = hand_features(sample)
        assert features.shape == (320,) and features.dtype == np.float32 and np.isfinite(features).all()


def test_accuracies_are_of_notes_left_out(folder: Path, tmp_path: Path) -> None:
    write_manifests(folder, tmp_path)
    results = accuracies(tmp_path / "notes-instrument.csv")
    assert results["log-mel"][0] >= 0.8  # a quarter by chance
    assert results["log-mel"][0] > results["chroma"][0]


@pytest.mark.slow
def test_the_reference_baselines_are_met(shared_data: Path, tmp_path: Path) -> None:
    write_manifests(shared_data / "music", tmp_path)
    pitch, percussion = (accuracies(tmp_path / f"{name}.csv") for name in ("notes-pitch-class", "percussion"))
    for name, expected in (("chroma", 0.934), ("MFCC", 0.248), ("MFCC + chroma", 0.919), ("log-mel", 0.794)):
        assert pitch[name][0] == pytest.approx(expected, abs=0.005), name
    for name, expected in (("chroma", 0.421), ("MFCC", 0.585), ("MFCC + chroma", 0.714), ("log-mel", 0.701)):
        assert percussion[name][0] == pytest.approx(expected, abs=0.011), name
