"""Labelled sets of two public corpora: manifests of the tasks that the model cards report.

``python -m domains.speech.corpora fsdd FOLDER OUT`` and ``... librispeech FOLDER OUT`` write CSV manifests
for
``fmhub pretrain`` and ``fmhub evaluate``. A folder holds a ``labels.csv`` that lists its files.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Iterable
from pathlib import Path

COLUMNS = ("file", "label", "group", "split", "start", "stop")
TEST_RECORDINGS = 5
"""Recordings 0 to 4 of each speaker and digit are the test part: the corpus's own rule."""
SHOTS = range(5, 10)
TRAIN_SHARE = 0.6
WINDOW_SECONDS = 1.5
"""Every window has this length exactly. Windows cut to fill an utterance would be as long as their speaker's utterance
makes them, and a model with positions tells lengths apart: even a random one would then seem to know the speaker."""
PIECE_SECONDS, PIECE_STEP = 3.0, 0.5

Row = dict[str, str]


def fsdd(folder: Path, out: Path) -> list[Path]:
    """Write the manifests of the Free Spoken Digit Dataset.

    - ``fsdd-pretrain``: the recordings that are no test, without labels.
    - ``fsdd-digit``: digits by the corpus's split.
    - ``fsdd-digit-speakers``: digits with the speaker as group, to be left out one by one.
    - ``fsdd-digit-1shot-5`` to ``-9``: one recording of each speaker and digit to learn from.
    - ``fsdd-speaker-low`` and ``-high``: who speaks, learnt on digits 0-4 and tested on 5-9, and the reverse.

    Args:
        folder: Holds ``labels.csv`` with ``path,digit,speaker,index`` and the recordings.
        out: Where to write.

    Returns:
        The files written.
    """
    rows = _labels(folder)
    train = [r for r in rows if int(r["index"]) >= TEST_RECORDINGS]
    test = [r for r in rows if int(r["index"]) < TEST_RECORDINGS]

    def parts(label: str, train: Iterable[Row], test: Iterable[Row]) -> list[Row]:
        return [
            {"file": r["path"], "label": r[label], "split": split}
            for split, part in (("train", train), ("test", test))
            for r in part
        ]

    def low(part: Iterable[Row]) -> list[Row]:
        return [r for r in part if int(r["digit"]) < 5]

    def high(part: Iterable[Row]) -> list[Row]:
        return [r for r in part if int(r["digit"]) >= 5]

    speakers = [{"file": r["path"], "label": r["digit"], "group": r["speaker"]} for r in rows]
    sets = {
        "fsdd-pretrain": [{"file": r["path"]} for r in train],
        "fsdd-digit": parts("digit", train, test),
        "fsdd-digit-speakers": speakers,
        "fsdd-speaker-low": parts("speaker", low(train), high(test)),
        "fsdd-speaker-high": parts("speaker", high(train), low(test)),
    }
    for shot in SHOTS:
        chosen = [r for r in rows if int(r["index"]) == shot]
        sets[f"fsdd-digit-1shot-{shot}"] = parts("digit", chosen, test)
    return [_write(out / f"{name}.csv", folder, entries) for name, entries in sets.items()]


def librispeech(folder: Path, out: Path) -> list[Path]:
    """Write the manifests of a set of LibriSpeech utterances.

    - ``librispeech-pretrain``: the first 60 % of each utterance, in overlapping pieces of 3 s.
    - ``librispeech-speaker``: who reads, in windows of 1.5 s that overlap by half: the first 60 % to learn from, the
      rest to test on. Other words of the same reading: easier than another recording would be.

    Args:
        folder: Holds ``labels.csv`` with ``path,speaker,sample_rate,num_samples`` and the recordings.
        out: Where to write.

    Returns:
        The files written.
    """
    pretrain, windows = [], []
    for row in _labels(folder):
        rate, samples = int(row["sample_rate"]), int(row["num_samples"])
        middle = round(TRAIN_SHARE * samples)
        for start in _starts(0, middle, round(PIECE_SECONDS * rate), round(PIECE_STEP * rate)):
            stop = min(start + round(PIECE_SECONDS * rate), middle)
            pretrain.append({"file": row["path"], **_span(start, stop, rate)})
        length = round(WINDOW_SECONDS * rate)
        for split, first, end in (("train", 0, middle), ("test", middle, samples)):
            windows += [
                {"file": row["path"], "label": row["speaker"], "split": split, **_span(start, start + length, rate)}
                for start in _starts(first, end, length, length // 2)
                if start + length <= end
            ]
    return [
        _write(out / "librispeech-pretrain.csv", folder, pretrain),
        _write(out / "librispeech-speaker.csv", folder, windows),
    ]


def both(folder: Path, out: Path) -> list[Path]:
    """Write the manifests of both corpora, and ``speech-pretrain`` with what either gives for pretraining.

    Args:
        folder: Holds the corpora as ``fsdd`` and ``librispeech``.
        out: Where to write.

    Returns:
        The files written.
    """
    written = fsdd(folder / "fsdd", out) + librispeech(folder / "librispeech", out)
    joined = out / "speech-pretrain.csv"
    parts = [p.read_text(encoding="utf-8").splitlines() for p in written if p.stem.endswith("-pretrain")]
    lines = [parts[0][0], *(line for part in parts for line in part[1:])]
    joined.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [*written, joined]


def _starts(first: int, end: int, length: int, step: int) -> list[int]:
    """Return where pieces begin; a part shorter than one piece gives one."""
    return list(range(first, max(end - length, first) + 1, step))


def _span(start: int, stop: int, rate: int) -> Row:
    """Return a part of a recording, given in samples, in seconds that round back to the same samples."""
    return {"start": f"{start / rate:.6f}", "stop": f"{stop / rate:.6f}"}


def _labels(folder: Path) -> list[Row]:
    """Read a corpus folder's ``labels.csv``."""
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def _write(path: Path, folder: Path, entries: Iterable[Row]) -> Path:
    """Write one manifest; its files are given relative to where it lies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    base = os.path.relpath(folder, path.parent)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        for entry in entries:
            writer.writerow({**entry, "file": Path(base, entry["file"]).as_posix()})
    return path


def main() -> None:
    """Write the manifests of one corpus."""
    parser = argparse.ArgumentParser(prog="python -m domains.speech.corpora", description=__doc__)
    parser.add_argument("corpus", choices=("fsdd", "librispeech", "both"))
    parser.add_argument("folder", type=Path, help="the corpus")
    parser.add_argument("out", type=Path, help="where to write the manifests")
    arguments = parser.parse_args()
    write = {"fsdd": fsdd, "librispeech": librispeech, "both": both}[arguments.corpus]
    for path in write(arguments.folder, arguments.out):
        print(path)


if __name__ == "__main__":
    main()
