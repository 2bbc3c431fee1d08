"""Manifests of public sets, on folders of their layout with simulated signals."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from domains.eeg.corpora import BONN_RATE, BONN_TRAIN, EYES_TRAIN, main
from domains.eeg.reading import EegReader
from domains.eeg.samples import MUSE, simulate
from domains.eeg.writing import bdf_bytes, edf_bytes
from hub.manifest import Row, read_manifest
from hub.reading import Source

RATE = 256


def make_bonn(folder: Path) -> None:
    for kind in "ABCDE":
        (folder / kind).mkdir(parents=True)
        for number in range(BONN_TRAIN + 2):
            values = np.random.default_rng(number).integers(-200, 200, 4097)
            (folder / kind / f"{kind}{number:03}.txt").write_text("\r\n".join(map(str, values)))


def make_eyes(folder: Path) -> None:
    folder.mkdir()
    lines = ["file,subject,eyes,seconds"]
    for subject in range(EYES_TRAIN + 3):
        name = f"sub{subject:02}_open.bdf"
        (folder / name).write_bytes(bdf_bytes(simulate(("Fp1", "Fp2"), seconds=7.0, seed=subject)))
        lines.append(f"{folder.name}/{name},{subject},{'closed' if subject % 2 else 'open'},7")
    (folder / "labels.csv").write_text("\n".join(lines))


def make_motor(folder: Path) -> None:
    folder.mkdir()
    content = edf_bytes(simulate(("C3", "C4"), sampling_rate=50.0, seconds=60.0))
    for name in ("S001R01_2ch", "S001R02_2ch", "S001R04_first20s_2ch"):
        (folder / f"{name}.edf").write_bytes(content)


def make_ssvep(folder: Path) -> None:
    """Three recordings of two trials each; a third trial is cut off by the end. The clock does not start at 0."""
    folder.mkdir(parents=True)
    for number in range(3):
        signal = simulate(MUSE, RATE, seconds=12.0, seed=number).microvolts
        marks = np.zeros(signal.shape[1])
        marks[[2 * RATE, 6 * RATE, 11 * RATE]] = (1, 2, 1)
        table = np.column_stack([1e6 + np.arange(len(marks)) / RATE, signal.T, marks])
        header = ",".join(["timestamps", *MUSE, "Marker0"])
        np.savetxt(folder / f"data_{number}.csv", table, fmt="%.6f", delimiter=",", header=header, comments="")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, out = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("sets")
    make_bonn(folder / "bonn")
    make_eyes(folder / "openbci_eyes")
    make_motor(folder / "eegmmidb")
    make_ssvep(folder / "muse_ssvep")
    run(folder, out)
    return out


def run(*arguments: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["corpora", *map(str, arguments)])
        main()


def seconds(row: Row) -> float:
    assert row.span is not None and row.span.start is not None and row.span.stop is not None
    return row.span.stop - row.span.start


def test_bonn_segments_keep_their_rate_and_labels(sets: Path) -> None:
    rows = read_manifest(sets / "bonn-sets.csv")
    assert Counter(row.label for row in rows) == dict.fromkeys("ABCDE", BONN_TRAIN + 2)
    assert Counter(row.label for row in read_manifest(sets / "bonn-seizure.csv")) == {"rest": 88, "seizure": 22}
    (sample,) = EegReader().read(Source.from_path(rows[0].file), rows[0].span)
    assert sample.data.sampling_rate == BONN_RATE and not sample.warnings
    expected = np.random.default_rng(0).integers(-200, 200, 4097)
    np.testing.assert_allclose(sample.data.microvolts[0], expected[: sample.data.signal.shape[1]], atol=1e-4)


def test_eyes_are_windows_by_subject(sets: Path) -> None:
    rows = read_manifest(sets / "eyes.csv")
    assert len(rows) == 3 * (EYES_TRAIN + 3) and {seconds(row) for row in rows} == {2.0}
    assert {row.group: row.label for row in rows}["3"] == "closed" and len({r.group for r in rows}) == EYES_TRAIN + 3
    whole = read_manifest(sets / "eyes-recordings.csv")
    assert [(r.file, r.label, r.group) for r in whole] == [(r.file, r.label, r.group) for r in rows[::3]]
    (sample,) = EegReader().read(Source.from_path(rows[-1].file), rows[-1].span)
    assert sample.data.signal.shape == (2, 500) and sample.data.start == 4.0
    blocks = read_manifest(sets / "eyes-one-subject.csv")
    assert Counter((row.label, row.group) for row in blocks) == {
        (label, f"block {number}"): 6 for label in ("open", "closed") for number in range(5)
    }


def test_trials_follow_their_markers(sets: Path) -> None:
    rows = read_manifest(sets / "ssvep.csv")
    found = [(row.group, row.label, row.span.start, row.span.stop) for row in rows if row.span]
    trials = (("30 Hz", 2.5, 5.0), ("20 Hz", 6.5, 9.0))
    assert found == [(f"data_{number}", *trial) for number in range(3) for trial in trials]


def test_what_is_evaluated_without_labels_beforehand_is_the_training_part(sets: Path) -> None:
    rows = read_manifest(sets / "pretrain.csv")
    assert not any(row.label for row in rows)
    names = Counter(row.file.parent.name for row in rows)
    assert names == {"bonn": 5 * BONN_TRAIN, "openbci_eyes": EYES_TRAIN, "eegmmidb": 2, "muse_ssvep": 2}
    subjects = {row.file.name[3:5] for row in rows if row.file.parent.name == "openbci_eyes"}
    assert subjects == {f"{number:02}" for number in range(EYES_TRAIN)}


def test_transfers_are_fitted_on_one_corpus_and_tested_on_another(sets: Path) -> None:
    for name in ("eyes", "eyes-one-subject"):
        rows = read_manifest(sets / f"transfer-{name}.csv")
        tested = [(row.file, row.label, row.group) for row in rows if row.split == "test"]
        assert tested == [(row.file, row.label, row.group) for row in read_manifest(sets / f"{name}.csv")]
        fitted = Counter((row.file.name[0], row.label) for row in rows if row.split == "train")
        assert fitted == {("A", "open"): BONN_TRAIN + 2, ("B", "closed"): BONN_TRAIN + 2}


def test_sets_that_are_not_there_are_left_out(tmp_path: Path) -> None:
    make_ssvep(tmp_path / "data" / "muse_ssvep")
    run(tmp_path / "data", tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["pretrain.csv", "ssvep.csv"]
    for arguments, text in (((tmp_path,), "FOLDER OUT"), ((tmp_path / "out", tmp_path / "x"), "holds none of bonn")):
        with pytest.raises(SystemExit, match=text):
            run(*arguments)
