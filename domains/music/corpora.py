"""Manifests of a folder of short labelled recordings: the tasks that the model cards report.

``python -m domains.music.corpora FOLDER OUT [--notes NOTES.csv]`` writes CSV manifests for ``fmhub pretrain``,
``fmhub evaluate`` and ``fmhub finetune``. The folder holds ``notes.csv``
(``path,instrument,family,pitch_class,octave,fold``), ``percussion.csv`` (``path,category,fold``) and ``clips.csv``
(``path``), and the recordings that they list. Folds are numbered 0 to 4.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Iterable
from pathlib import Path

from hub.errors import InvalidManifest
from hub.manifest import read_manifest

NOTE_LABELS = ("instrument", "family", "pitch_class", "octave")
HELD_OUT = "0"
"""Fold that pretraining does not see."""

Row = dict[str, str]


def write_manifests(folder: Path, out: Path, notes_of: Path | None = None) -> list[Path]:
    """Write the manifests of a folder.

    - ``music-pretrain``: notes and percussion of folds 1 to 4, all clips, and the recordings of ``notes_of``; without
      labels.
    - ``notes-instrument``, ``notes-family``, ``notes-pitch-class``, ``notes-octave`` and ``percussion``: with the fold
      as group, so that each fold is left out once. A model pretrained on ``music-pretrain`` has heard four of the five,
      without their labels.
    - the same names with ``-held-out``: learnt on folds 1 to 4, tested on those recordings of fold 0 whose label is
      among the learnt ones. Pretraining has not heard them.

    Args:
        folder: Holds the three lists.
        out: Where to write.
        notes_of: Manifest of synthesised notes (`domains.music.synthesis`) that pretraining hears, too.

    Returns:
        The files written.

    Raises:
        InvalidManifest: A list is missing, or lacks a column.
    """
    notes = _listed(folder / "notes.csv", ("path", "fold", *NOTE_LABELS))
    percussion = _listed(folder / "percussion.csv", ("path", "fold", "category"))
    clips = _listed(folder / "clips.csv", ("path",))
    seen = [row for row in (*notes, *percussion) if row["fold"] != HELD_OUT]
    heard = [row["path"] for row in (*seen, *clips)]
    if notes_of is not None:
        heard += [str(row.file.resolve()) for row in read_manifest(notes_of)]
    written = [_write(out / "music-pretrain.csv", folder, ({"file": path} for path in heard))]
    tasks = [(f"notes-{label.replace('_', '-')}", notes, label) for label in NOTE_LABELS]
    for name, rows, label in (*tasks, ("percussion", percussion, "category")):
        folds = [{"file": r["path"], "label": r[label], "group": f"fold-{r['fold']}"} for r in rows]
        written.append(_write(out / f"{name}.csv", folder, folds))
        halves = [
            {"file": r["path"], "label": r[label], "split": "test" if r["fold"] == HELD_OUT else "train"} for r in rows
        ]
        known = {r["label"] for r in halves if r["split"] == "train"}
        kept = [r for r in halves if r["label"] in known]
        written.append(_write(out / f"{name}-held-out.csv", folder, kept))
    return written


def _listed(path: Path, columns: Iterable[str]) -> list[Row]:
    """Read one of the folder's lists."""
    if not path.is_file():
        raise InvalidManifest(f"{path}: no such list; the folder holds notes.csv, percussion.csv and clips.csv")
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    for column in columns:
        if not rows or column not in rows[0]:
            raise InvalidManifest(f"{path} is empty, or has no column {column!r}")
    return rows


def _write(path: Path, folder: Path, entries: Iterable[Row]) -> Path:
    """Write one manifest; its files are given relative to where it lies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ("file", "label", "group", "split"), restval="", lineterminator="\n")
        writer.writeheader()
        for entry in entries:
            relative = os.path.relpath(folder / entry["file"], path.parent)
            writer.writerow({**entry, "file": Path(relative).as_posix()})
    return path


def main() -> None:
    """Write the manifests of a folder."""
    parser = argparse.ArgumentParser(prog="python -m domains.music.corpora", description=__doc__)
    parser.add_argument("folder", type=Path, help="the recordings and their lists")
    parser.add_argument("out", type=Path, help="where to write the manifests")
    parser.add_argument("--notes", type=Path, help="manifest of synthesised notes, for pretraining")
    arguments = parser.parse_args()
    for path in write_manifests(arguments.folder, arguments.out, arguments.notes):
        print(path)


if __name__ == "__main__":
    main()
