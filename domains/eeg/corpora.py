"""Manifests of public EEG sets, for pretraining and evaluation.

``python -m domains.eeg.corpora FOLDER OUT`` where FOLDER holds ``bonn`` (Andrzejak et al. 2001: folders A to E of text
files), ``eegmmidb`` (PhysioNet, EDF), ``muse_ssvep`` (eeg-notebooks, CSV with a marker column) and ``openbci_eyes``
(BDF with ``labels.csv``); what is missing is left out. The manifests ``transfer-*.csv`` are fitted on Bonn's open and
closed eyes and tested on those of another set.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

BONN_RATE = 173.61
"""Hz; the text files do not say it."""
BONN_SECONDS = 23.59
BONN_TRAIN = 20
"""Of the segments of each set, so many are pretrained on."""
EYES_SECONDS = 2.0
EYES_TRAIN = 12
"""Of the subjects, so many are pretrained on."""
BLOCKS = 5
SSVEP_TRIAL = (0.5, 3.0)
"""Seconds after a trial's marker that are evaluated."""
BONN_EYES = {"A": "open", "B": "closed"}
EYES = ("eyes", "eyes-one-subject")

Row = Sequence[object]


def _write(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(rows)


def bonn(folder: Path, out: Path) -> list[Row]:
    """Copy the segments to arrays that know their rate; write ``bonn-sets.csv`` and ``bonn-seizure.csv``.

    Returns:
        The rows to pretrain on, as those of all functions here.
    """
    arrays = out / "bonn"
    arrays.mkdir(parents=True, exist_ok=True)
    said = {"SamplingFrequency": BONN_RATE, "channels": ["EEG"], "unit": "uV"}
    (arrays / "eeg.json").write_text(json.dumps(said), encoding="utf-8")
    labelled: list[tuple[str, str]] = []
    train: list[Row] = []
    for kind in "ABCDE":
        for number, path in enumerate(sorted((folder / kind).glob("*.txt"))):
            name = f"bonn/{kind}_{path.stem}.npy"
            np.save(out / name, np.loadtxt(path, dtype=np.float32)[None])
            labelled.append((name, kind))
            if number < BONN_TRAIN:
                train.append((name, 0, BONN_SECONDS))
    columns = ("file", "label", "start", "stop")
    _write(out / "bonn-sets.csv", columns, ((n, kind, 0, BONN_SECONDS) for n, kind in labelled))
    seizure = ((n, "seizure" if kind == "E" else "rest", 0, BONN_SECONDS) for n, kind in labelled)
    _write(out / "bonn-seizure.csv", columns, seizure)
    return train


def eyes(folder: Path, out: Path) -> list[Row]:
    """Write ``eyes.csv``, windows of 2 s, eyes open or closed, and ``eyes-recordings.csv``, uncut, both by subject."""
    rows: list[Row] = []
    whole: list[Row] = []
    train: list[Row] = []
    with (folder / "labels.csv").open(encoding="utf-8") as stream:
        entries = list(csv.DictReader(stream))
    subjects = sorted({int(e["subject"]) for e in entries})[:EYES_TRAIN]
    for entry in entries:
        path = (folder.parent / entry["file"]).resolve()
        seconds = int(entry["seconds"])
        for start in np.arange(0, seconds - EYES_SECONDS + 0.01, EYES_SECONDS):
            rows.append((path, entry["eyes"], entry["subject"], start, start + EYES_SECONDS))
        whole.append((path, entry["eyes"], entry["subject"]))
        if int(entry["subject"]) in subjects:
            train.append((path, 0, seconds))
    _write(out / "eyes.csv", ("file", "label", "group", "start", "stop"), rows)
    _write(out / "eyes-recordings.csv", ("file", "label", "group"), whole)
    return train


def motor(folder: Path, out: Path) -> list[Row]:
    """Write ``eyes-one-subject.csv``: windows of 2 s of the runs with eyes open and closed, in contiguous blocks."""
    rows = []
    for run, label in (("R01", "open"), ("R02", "closed")):
        for path in sorted(folder.glob(f"*{run}_*.edf")):
            blocks = range(0, 60, 2)
            rows += [(path.resolve(), label, f"block {s * BLOCKS // 60}", s, s + EYES_SECONDS) for s in blocks]
    _write(out / "eyes-one-subject.csv", ("file", "label", "group", "start", "stop"), rows)
    return [(p.resolve(), 0, 60 if "R01" in p.name or "R02" in p.name else 120) for p in sorted(folder.glob("*ch.edf"))
            if "first" not in p.name]  # fmt: skip


def ssvep(folder: Path, out: Path) -> list[Row]:
    """Write ``ssvep.csv``: trials of 2.5 s at 20 or 30 Hz, with the recording as their group."""
    rows: list[Row] = []
    train: list[Row] = []
    for path in sorted(folder.glob("*.csv")):
        table = np.genfromtxt(path, delimiter=",", skip_header=1)
        times, marks = table[:, 0] - table[0, 0], table[:, -1]
        for place in np.flatnonzero(marks > 0):
            start, stop = (round(float(times[place]) + s, 3) for s in SSVEP_TRIAL)
            if stop < times[-1]:
                rows.append((path.resolve(), "30 Hz" if marks[place] == 1 else "20 Hz", path.stem, start, stop))
        train.append((path.resolve(), 0, 110))
    _write(out / "ssvep.csv", ("file", "label", "group", "start", "stop"), rows)
    return train[:-1]


def transfers(out: Path) -> None:
    """Write for each set of eyes open and closed a manifest that is fitted on Bonn's and tested on it."""
    bonn_sets, columns = out / "bonn-sets.csv", ("file", "label", "group", "split", "start", "stop")
    for name in EYES:
        if not (bonn_sets.exists() and (out / f"{name}.csv").exists()):
            continue
        rows: list[Row] = []
        for path, split in ((bonn_sets, "train"), (out / f"{name}.csv", "test")):
            with path.open(encoding="utf-8", newline="") as stream:
                for row in csv.DictReader(stream):
                    label = row["label"] if split == "test" else BONN_EYES.get(row["label"])
                    if label:
                        rows.append((row["file"], label, row.get("group"), split, row["start"], row["stop"]))
        _write(out / f"transfer-{name}.csv", columns, rows)


def main() -> None:
    """Write the manifests of the sets that are there, and ``pretrain.csv`` of all their training parts."""
    if len(sys.argv) != 3:
        raise SystemExit("python -m domains.eeg.corpora FOLDER OUT")
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    train: list[Row] = []
    for name, write in (("bonn", bonn), ("openbci_eyes", eyes), ("eegmmidb", motor), ("muse_ssvep", ssvep)):
        if (folder / name).is_dir():
            train += write(folder / name, out)
    if not train:
        raise SystemExit(f"{folder} holds none of bonn, openbci_eyes, eegmmidb and muse_ssvep")
    _write(out / "pretrain.csv", ("file", "start", "stop"), train)
    transfers(out)


if __name__ == "__main__":
    main()
