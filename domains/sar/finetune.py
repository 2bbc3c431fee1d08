"""Fine-tuning on SAR images: what this domain knows about it, and its script.

- ``python -m domains.sar.finetune run MODEL --manifest FILE.csv ...`` is ``fmhub finetune``: classes of targets and
  scenes (``--task classification``), numbers such as ship length or wave height (``--task regression``).
- ``... segment MODEL --manifest FILE.csv --output-dir OUT`` learns the classes of pixels (water and land) with a light
  decoder on the encoder's token states.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from domains.sar.raster import ArrayPixels, Raster
from hub.cli.script import run_script
from hub.finetuning.options import Preset
from hub.reading import Sample

SHIFT = 0.06
"""Largest share of a side by which an image is moved."""
LARGEST = 1 << 22
"""Pixels above which an image is not augmented: it would have to be held in memory."""


def move_and_mirror(sample: Sample, generator: torch.Generator) -> Sample:
    """Move an image by a few pixels, wrapped round, and mirror it along the azimuth half of the time.

    Columns are taken to lie along the azimuth. Range is not mirrored: shadows would fall towards the radar.

    Args:
        sample: Of a `Raster`.
        generator: Decides.
    """
    image: Raster = sample.data
    _, rows, columns = image.shape
    if rows * columns > LARGEST:
        return sample
    moves = [round(SHIFT * side * (2 * float(torch.rand((), generator=generator)) - 1)) for side in (rows, columns)]
    values = np.roll(image.values, moves, axis=(1, 2))
    if float(torch.rand((), generator=generator)) < 0.5:
        values = values[:, :, ::-1]
    moved = dataclasses.replace(image, pixels=ArrayPixels(np.ascontiguousarray(values)))
    return dataclasses.replace(sample, data=moved)


def preset() -> Preset:
    """Return rates to start from for small convolutional encoders, which are not tuned, and how to augment chips."""
    whole = {"learning_rate": 3e-4, "head_learning_rate": 3e-3, "batch_size": 32, "epochs": 30, "patience": 8}
    return Preset(
        defaults={"frozen": {"batch_size": 64}, "full": whole, "layerwise": {**whole, "learning_rate": 5e-4}},
        augment=move_and_mirror,
    )


def segment(
    model: Annotated[str, typer.Argument(help="Checkpoint of Nereus to start from.")],
    manifest: Annotated[Path, typer.Option(help="CSV with file,label,split; a label is a raster of class numbers.")],
    output_dir: Annotated[Path, typer.Option(help="Folder to write; it becomes a checkpoint.")],
    classes: Annotated[str, typer.Option(help="Comma-separated names of classes 0, 1 and so on.")],
    mode: Annotated[str, typer.Option(help="frozen (the decoder alone) or full.")] = "frozen",
    from_scratch: Annotated[bool, typer.Option(help="Initialise the encoder anew, to compare with.")] = False,
    size: Annotated[int, typer.Option(help="Side that images are seen at, pixels; 0 for the model's.")] = 0,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 300,
    batch_size: Annotated[int, typer.Option(help="Images in a batch.")] = 8,
    learning_rate: Annotated[float, typer.Option(help="Of the decoder; the encoder's is a tenth of it.")] = 3e-3,
    seed: Annotated[int, typer.Option(help="Of order and initialisation.")] = 0,
) -> None:
    """Learn the classes of pixels; the result answers ``segment`` with a GeoTIFF of class numbers."""
    from domains.sar.nereus.segmenting import Schedule, train_segmenter

    schedule = Schedule(mode, steps, batch_size, learning_rate, seed)
    result = train_segmenter(model, manifest, output_dir, classes.split(","), schedule, fresh=from_scratch, size=size)
    typer.echo(json.dumps(result))


def main() -> None:
    """Run the script."""
    run_script({"segment": segment})


if __name__ == "__main__":
    main()
