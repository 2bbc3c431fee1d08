"""Fine-tuning on medical images: what this domain knows about it, and its script.

- ``python -m domains.medical.finetune run MODEL --manifest FILE.csv ...`` is ``fmhub finetune``: classes and numbers of
  pictures, slices and volumes. A row is a patient of its own unless the column ``group`` says otherwise. A split that
  parts near-duplicates is refused, and without a split column they are kept together, unless ``--leaky-split``.
- ``... segment MODEL --manifest FILE.csv --output-dir OUT --classes background,liver`` learns the classes of pixels or
  voxels with a U-Net decoder; a label is the path of a mask.
- ``... duplicates FOLDER_OR_MANIFEST`` lists the near-duplicates of a set.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from domains.medical.image import MedicalImage
from hub.cli.script import run_script
from hub.errors import InvalidInput
from hub.finetuning.options import Preset
from hub.manifest import Row, read_manifest
from hub.reading import Reader, Sample

SHIFT = 0.05
"""Largest share of a side by which augmentation moves an image."""
GAIN = 0.1
"""Largest relative change of contrast."""


def shift_and_stretch(sample: Sample, generator: torch.Generator) -> Sample:
    """Move an image a little along each axis and change its contrast; it is never mirrored, for left is not right.

    What is moved in repeats the border. Contrast changes about the mean, so that Hounsfield units stay near theirs.

    Args:
        sample: Of a `MedicalImage`.
        generator: Decides.
    """
    image: MedicalImage = sample.data

    def draw() -> float:
        return 2 * float(torch.rand((), generator=generator)) - 1

    values = image.values
    places = [
        np.clip(np.arange(side) + round(SHIFT * side * draw()), 0, side - 1) if side > 1 else np.arange(side)
        for side in values.shape[1:]
    ]
    mean = values.mean()
    slices, rows, columns = np.ix_(*places)
    moved = (values[:, slices, rows, columns] - mean) * np.float32(1 + GAIN * draw()) + mean
    return replace(sample, data=replace(image, values=moved.astype(np.float32)))


def together(rows: Sequence[Row], leaky: bool) -> list[Row]:
    """Return the rows of a labelled set with near-duplicates on one side; see `duplicates.keep_duplicates_together`.

    Raises:
        InvalidManifest: Near-duplicates are on two sides of the split.
    """
    from domains.medical.duplicates import keep_duplicates_together

    return keep_duplicates_together(rows, _reader(), leaky)


def preset() -> Preset:
    """Return rates to start from, which are not tuned, how to augment, and what belongs together."""
    whole = {"learning_rate": 3e-4, "head_learning_rate": 3e-3, "batch_size": 16, "epochs": 30, "patience": 8}
    return Preset(
        defaults={"frozen": {"batch_size": 64}, "full": whole, "layerwise": {**whole, "learning_rate": 5e-4}},
        augment=shift_and_stretch,
        rows=together,
    )


def segment(
    model: Annotated[str, typer.Argument(help="Checkpoint of LVM-Med (slices) or Alice (volumes) to start from.")],
    manifest: Annotated[Path, typer.Option(help="CSV with file,label and optional patient,split; a label is a mask.")],
    output_dir: Annotated[Path, typer.Option(help="Folder to write; it becomes a checkpoint.")],
    classes: Annotated[str, typer.Option(help="Comma-separated names of classes 0 (background), 1 and so on.")],
    mode: Annotated[str, typer.Option(help="frozen (the decoder alone) or full.")] = "full",
    from_scratch: Annotated[bool, typer.Option(help="Initialise the encoder anew, to compare with.")] = False,
    cases: Annotated[int, typer.Option(help="Train on so many images, drawn by the seed; 0 for all.")] = 0,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 500,
    batch_size: Annotated[int, typer.Option(help="Slices or windows in a batch.")] = 4,
    learning_rate: Annotated[float, typer.Option(help="Of the decoder.")] = 2e-3,
    encoder_share: Annotated[float, typer.Option(help="The encoder's rate over the decoder's.")] = 0.3,
    width: Annotated[int, typer.Option(help="Channels of the decoder at full resolution.")] = 8,
    test_share: Annotated[float, typer.Option(help="Share of the patients held out where no split is given.")] = 0.2,
    leaky_split: Annotated[bool, typer.Option(help="Let patients and near-duplicates be on two sides.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of split, initialisation and order.")] = 0,
) -> None:
    """Learn the classes of pixels or voxels; the result answers ``segment`` with a mask on the image's grid."""
    from domains.medical.segmentation.training import Training, train_segmenter

    training = Training(mode, steps, batch_size, learning_rate, encoder_share, width, cases, seed)
    results = train_segmenter(
        model,
        manifest,
        output_dir,
        classes.split(","),
        training,
        fresh=from_scratch,
        leaky=leaky_split,
        test_share=test_share,
        on_error=lambda error: typer.echo(f"left out: {error}", err=True),
    )
    typer.echo(json.dumps({name: results[name] for name in ("dice", "hd95", "rows", "seconds")}))


def duplicates(
    data: Annotated[Path, typer.Argument(help="Folder of files and series, or a manifest.")],
) -> None:
    """List the near-duplicates of a set, a group a line; rows are counted from 1."""
    from domains.medical.duplicates import fingerprints_of, groups_of, near_duplicates
    from hub.domain import get_domain

    reader = _reader()
    found = reader.find(data, get_domain("medical").suffixes) if data.is_dir() else []
    rows = [Row(file) for file in found] if data.is_dir() else read_manifest(data, leaky=True)
    if not rows:
        raise InvalidInput("the folder holds no image", source=str(data))
    pairs = near_duplicates(fingerprints_of(rows, reader))
    groups = groups_of(pairs, len(rows))
    for group in groups:
        typer.echo(
            ", ".join(f"{n + 1} {rows[n].file.name}{f' [{rows[n].item}]' if rows[n].item else ''}" for n in group)
        )
    typer.echo(f"{len(groups)} groups of near-duplicates among {len(rows)} rows")


def _reader() -> Reader:
    from domains.medical.reading import MedicalReader

    return MedicalReader()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the script.

    Args:
        arguments: Those of the command line unless given.
    """
    run_script({"segment": segment, "duplicates": duplicates}, arguments)


if __name__ == "__main__":
    main()
