"""Fine-tuning on music: what this domain knows about it, and its script.

- ``python -m domains.music.finetune run MODEL --manifest FILE.csv ...`` is ``fmhub finetune``: genre, key, pitch,
  instrument (``--task classification``), tags (``multilabel``), emotion (``regression``), beats (``frames``).
- ``... beats ANNOTATIONS.csv OUT.csv`` turns lists of beat times into the labels of a ``frames`` task.
- ``... score-beats MODEL --annotations FILE.csv`` and ``... score-key MODEL --manifest FILE.csv`` print the measures
  that the field reports.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from domains.music.audio import Audio
from domains.music.reading import MusicReader
from domains.music.scoring import beat_f_measure, beat_labels, beat_times, key_score, read_beats
from hub.cli.script import run_script
from hub.finetuning.options import Preset
from hub.manifest import Row, read_manifest
from hub.reading import Sample, Source

TILT = 3.0
"""Largest tilt of a spectrum, dB an octave."""
PIVOT = 1_000.0
"""Hz at which a tilted spectrum keeps its level."""
TILTED_OCTAVES = 4.0
"""Octaves to either side of the pivot over which the tilt goes on; beyond it stays level."""


def change_microphone(sample: Sample, generator: torch.Generator) -> Sample:
    """Make a recording brighter or duller, and turn its polarity half of the time.

    Pitch, key, tempo and beats stay where they are, so this fits every task of the domain; changes of speed and pitch,
    which are common elsewhere, do not.

    Args:
        sample: Of an `Audio`.
        generator: Decides.
    """
    audio: Audio = sample.data
    tilt, sign = (2 * torch.rand(2, generator=generator) - 1).tolist()
    octaves = np.log2(np.maximum(np.fft.rfftfreq(audio.frames, 1 / audio.sampling_rate), 1.0) / PIVOT)
    gain = 10 ** (TILT * tilt * np.clip(octaves, -TILTED_OCTAVES, TILTED_OCTAVES) / 20) * np.sign(sign)
    tilted = np.fft.irfft(np.fft.rfft(audio.samples, axis=1) * gain, n=audio.frames, axis=1)
    peak, was = float(np.abs(tilted).max()), float(np.abs(audio.samples).max())
    tilted *= was / peak if peak > 0 else 1.0
    return dataclasses.replace(sample, data=Audio(tilted.astype(np.float32), audio.sampling_rate))


def preset() -> Preset:
    """Return MARBLE's probe for a frozen encoder, and rates to start from, which are not tuned, for the other modes.

    The probe (Yuan et al., NeurIPS 2023) has one hidden layer of 512, dropout 0.2, Adam at 1e-3 and batches of 64.
    Which layer it reads is ``--layer`` (``docs/music.md``). Pooling is the checkpoint's own.
    """
    whole = {"learning_rate": 1e-4, "head_learning_rate": 1e-3, "batch_size": 16, "epochs": 30, "patience": 8}
    return Preset(
        defaults={
            "frozen": {"hidden": 512, "dropout": 0.2, "head_learning_rate": 1e-3, "batch_size": 64},
            "full": whole,
            "layerwise": {**whole, "learning_rate": 2e-4},
            "lora": {**whole, "learning_rate": 1e-3},
        },
        augment=change_microphone,
    )


def beats(
    annotations: Annotated[
        Path, typer.Argument(help="CSV with file,label and optional group,split; a label is a path.")
    ],
    out: Annotated[Path, typer.Argument(help="Manifest to write, for --task frames --labels rest,beat.")],
) -> None:
    """Turn lists of beat times, one file a recording, into a manifest of frame labels."""
    with out.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("file", "label", "group", "split"))
        for row, times, seconds in _annotated(annotations):
            file = Path(os.path.relpath(row.file, out.parent)).as_posix()
            writer.writerow((file, beat_labels(times, seconds), row.group, row.split))
    typer.echo(str(out))


def score_beats(
    model: Annotated[str, typer.Argument(help="Checkpoint fine-tuned with --task frames --labels rest,beat.")],
    annotations: Annotated[Path, typer.Option(help="As for beats; with a split column its test part.")],
) -> None:
    """Print the mean F-measure of the beats that a model hears."""
    import hub

    embedder = hub.from_pretrained(model)
    scores = []
    for row, times, seconds in _annotated(annotations, test=True):
        (answer,) = embedder.run("label_tokens", [row.file])
        scores.append(beat_f_measure(times, beat_times(answer, seconds)))
    typer.echo(json.dumps({"f_measure": float(np.mean(scores)), "recordings": len(scores)}))


def score_key(
    model: Annotated[str, typer.Argument(help="Checkpoint fine-tuned with --task classification on keys.")],
    manifest: Annotated[Path, typer.Option(help="CSV with file,label; with a split column its test part.")],
) -> None:
    """Print the mean weighted score of the keys that a model hears, and its accuracy."""
    import hub

    rows = _test_part(read_manifest(manifest, need=("file", "label")))
    embedder = hub.from_pretrained(model)
    heard = [embedder.run("classify", [row.file])[0]["label"] for row in rows]
    scores = [key_score(row.label, key) for row, key in zip(rows, heard, strict=True)]
    results = {"weighted": float(np.mean(scores)), "accuracy": float(np.mean(np.equal(scores, 1.0)))}
    typer.echo(json.dumps({**results, "recordings": len(rows)}))


def _annotated(annotations: Path, test: bool = False) -> Iterator[tuple[Row, list[float], float]]:
    """Yield rows of a list of annotated recordings with their beats and their length in seconds."""
    rows = read_manifest(annotations, need=("file", "label"))
    for row in _test_part(rows) if test else rows:
        (sample,) = MusicReader().read(Source.from_path(row.file))
        yield row, read_beats(annotations.parent / row.label), sample.data.seconds


def _test_part(rows: list[Row]) -> list[Row]:
    """Return the rows to test on: all of a set without a split."""
    return [row for row in rows if row.split in ("", "test")]


def main() -> None:
    """Run the script."""
    run_script({"beats": beats, "score-beats": score_beats, "score-key": score_key})


if __name__ == "__main__":
    main()
