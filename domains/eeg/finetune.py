"""Fine-tuning on EEG: what this domain knows about it, and its script.

- ``python -m domains.eeg.finetune run MODEL --manifest FILE.csv ...`` is ``fmhub finetune``. Rows must say their
  subject (column ``group``): a set without subjects, or with one on two sides, is refused, unless ``--leaky-split``
  says that this is meant. A row is one vector, be it a trial of 2 s with start and stop, or a whole recording with
  neither, so the same command classifies windows and recordings.
- ``... windows MANIFEST OUT --seconds 2`` turns a manifest of recordings to one of their windows.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer

from domains.eeg.recording import Recording
from hub.cli.script import run_script
from hub.errors import InvalidManifest
from hub.finetuning.options import Preset
from hub.manifest import COLUMNS, Row
from hub.reading import Sample, Source, Span

MOST_SHIFT = 0.1
"""Largest share of a recording that augmentation moves from its beginning to its end."""
NOISE = 0.1
"""Standard deviation of the noise that augmentation adds, as a share of each channel's."""


def jitter(sample: Sample, generator: torch.Generator) -> Sample:
    """Turn a recording round by some of its length, and add white noise to it; what it shows stays.

    Args:
        sample: Of a `Recording`.
        generator: Decides how far, and the noise.
    """
    recording: Recording = sample.data
    signal = torch.from_numpy(recording.signal)
    shift = int(torch.randint(int(MOST_SHIFT * signal.shape[1]) + 1, (), generator=generator))
    noise = torch.randn(signal.shape, generator=generator, dtype=signal.dtype) * signal.std(1, correction=0)[:, None]
    moved = torch.roll(signal, -shift, dims=1) + NOISE * noise
    return replace(sample, data=replace(recording, signal=moved.numpy()))


def preset() -> Preset:
    """Return what this domain knows: pooling that keeps the variation over channels and time, and rates."""
    rates = {"learning_rate": 3e-4, "head_learning_rate": 3e-3}
    return Preset(
        defaults={
            "frozen": {"pooling": "mean_std"},
            "full": {"pooling": "mean_std", **rates},
            "layerwise": {"pooling": "mean_std", **rates},
            "lora": {"pooling": "mean_std", "learning_rate": 1e-3, "head_learning_rate": 3e-3},
        },
        augment=jitter,
        rows=with_subjects_apart,
    )


def with_subjects_apart(rows: Sequence[Row], leaky: bool) -> list[Row]:
    """Return the rows of a labelled set, each of which is one vector; what names no stretch is a whole recording.

    Args:
        rows: The set; the group is the subject.
        leaky: Take rows without a subject.

    Raises:
        InvalidManifest: A row names no subject; the text says what to do.
    """
    anonymous = [row for row in rows if not row.group]
    if anonymous and not leaky:
        raise InvalidManifest(
            f"{anonymous[0].file.name}: the column 'group' names no subject ({len(anonymous)} of {len(rows)} rows). "
            "Windows of one person on both sides of a split make any model look good: name the subjects, or give "
            "--leaky-split if the leak is meant"
        )
    return [row if row.span or row.item else replace(row, span=Span(0.0)) for row in rows]


def windows(
    manifest: Annotated[Path, typer.Argument(help="CSV with file,label and optional group,split,start,stop.")],
    out: Annotated[Path, typer.Argument(help="CSV to write.")],
    seconds: Annotated[float, typer.Option(help="Length of a window.")] = 2.0,
    step: Annotated[float | None, typer.Option(help="From one window to the next; the length unless given.")] = None,
    annotations: Annotated[
        bool, typer.Option("--annotations", help="Label windows by what is marked in the file.")
    ] = False,
) -> None:
    """Turn a manifest of recordings to one of their windows.

    Label, subject and split are those of the recording; windows of a recording without a subject are a group together.
    With ``--annotations`` a window's label is the annotation that covers half of it; windows without one are left out.
    """
    from domains.eeg.preparation import label_of
    from domains.eeg.reading import EegReader

    if seconds <= 0 or (step is not None and step <= 0):
        raise InvalidManifest("windows need a length and a step above 0 s")
    reader, rows = EegReader(), []
    for row in _table(manifest):
        path = (manifest.parent / row["file"]).resolve()
        span = Span(float(row["start"] or 0), float(row["stop"]) if row["stop"] else None)
        sample = next(iter(reader.read(Source.from_path(path), span)))
        begin = span.start or 0.0
        count = int((sample.data.seconds - seconds) / (step or seconds) + 1e-6) + 1
        for number in range(count):
            start = round(begin + number * (step or seconds), 6)
            new = {"start": f"{start:g}", "stop": f"{start + seconds:g}", "file": str(path)}
            if annotations:
                new["label"] = label_of(start - begin, start - begin + seconds, sample.data.annotations)
            if new.get("label", "kept"):
                rows.append(row | new | {"group": row["group"] or path.name})
    _write(out, rows)
    typer.echo(f"{out}: {len(rows)} windows")


def _table(manifest: Path) -> list[dict[str, str]]:
    try:
        with manifest.open(encoding="utf-8-sig", newline="") as stream:
            return [{c: (row.get(c) or "").strip() for c in COLUMNS} for row in csv.DictReader(stream)]
    except FileNotFoundError:
        raise InvalidManifest(f"{manifest}: no such manifest") from None
    except (UnicodeDecodeError, IsADirectoryError):
        raise InvalidManifest(f"{manifest} is not a CSV text file") from None


def _write(path: Path, rows: Sequence[dict[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the script.

    Args:
        arguments: Those of the command line unless given.
    """
    run_script({"windows": windows}, arguments)


if __name__ == "__main__":
    main()
