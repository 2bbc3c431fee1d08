"""``fmhub despeckle``: an image of any size to its despeckled amplitude, a few rows at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from domains.sar.merlin.inference import despeckled_strips
from domains.sar.merlin.modeling import MerlinModel
from domains.sar.merlin.processing import MerlinProcessor
from domains.sar.raster import Raster
from domains.sar.writing import GeoTiff
from hub.errors import InvalidInput, UnsupportedOption
from hub.reading import Sample, Source

STREAMED_PIXELS = 1 << 31
"""Largest image of the command, which holds a few rows of it at a time."""


def despeckle(
    image: Annotated[Path, typer.Argument(help="A single-look complex image: GeoTIFF, COSAR, NITF, SAFE, HDF5, .npy.")],
    output: Annotated[Path, typer.Argument(help="GeoTIFF to write; replaced if it exists.")],
    model: Annotated[str, typer.Option(help="A MERLIN or SAR2SAR checkpoint.")] = "merlin-stripmap",
    item: Annotated[str, typer.Option(help="Which image of the file, where it holds several.")] = "",
    overlap: Annotated[
        int, typer.Option(help="Pixels that tiles overlap, blended by a ramp; the checkpoint's own tiling if 0.")
    ] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda; chosen if not given.")] = "",
) -> None:
    """Remove the speckle of a SAR image; writes a GeoTIFF with the same georeference.

    Values are amplitudes in the units of the image; missing pixels are 0.
    """
    import hub

    embedder = hub.from_pretrained(model, device=device or None)
    processor = embedder.processor
    if not isinstance(embedder.model, MerlinModel) or not isinstance(processor, MerlinProcessor):
        raise UnsupportedOption(f"{model} is no despeckling model; give a MERLIN or SAR2SAR checkpoint", param="model")
    if overlap:
        embedder.model.config = with_overlap(embedder.model.config, overlap)
    sample = only_sample(processor, image, item)
    for warning in sample.warnings:
        typer.echo(f"warning: {warning}", err=True)
    partial = output.with_name(output.name + ".partial")
    try:
        with typer.progressbar(length=sample.data.shape[1], label="rows") as bar:
            ratio = despeckle_to(embedder.model, processor, sample, partial, bar.update)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    partial.replace(output)
    typer.echo(f"{output}: mean intensity {ratio:.3f} of the image's")


def with_overlap(config: Any, overlap: int) -> Any:
    """Return a configuration whose tiles overlap by some pixels and are blended by a ramp.

    Raises:
        UnsupportedOption: It is more than half a tile, or negative.
    """
    if not 0 < overlap <= config.patch // 2:
        raise UnsupportedOption(f"overlap={overlap}: must lie between 0 and {config.patch // 2}", param="overlap")
    return type(config)(**{**config.to_dict(), "stride": config.patch - overlap, "taper": True})


def only_sample(processor: MerlinProcessor, path: Path, item: str) -> Sample:
    """Return a file's one image, or the one that ``item`` names.

    Raises:
        InvalidInput: There are several and none is named, or none is called that.
    """
    reader = dataclasses.replace(processor.reader(), max_pixels=STREAMED_PIXELS)
    samples = list(reader.read(Source.from_path(path)))
    found = [s for s in samples if s.key == item] if item else samples
    if len(found) != 1:
        keys = ", ".join(s.key for s in samples)
        raise InvalidInput(f"give --item, one of {keys}", code="which_item", source=str(path))
    return found[0].checked(str(path))


def despeckle_to(
    model: MerlinModel,
    processor: MerlinProcessor,
    sample: Sample,
    output: Path,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> float:
    """Write a sample's despeckled amplitude as GeoTIFF.

    Args:
        model: MERLIN or SAR2SAR.
        processor: Its processor.
        sample: As the processor's reader gives it; large images are read from their file as they are needed.
        output: File to write.
        on_rows: Called with the number of rows just finished.

    Returns:
        Mean intensity of the result over that of the image, 1 without bias.

    Raises:
        InvalidInput: The file is damaged on the way.
    """
    raster: Raster = sample.data
    _, rows, columns = raster.shape
    before = after = 0.0

    def read_rows(first: int, last: int) -> Any:
        return processor.parts(raster, slice(first, last))

    with GeoTiff(output, raster, model.describe()) as file:
        for strip in despeckled_strips(model, read_rows, rows, columns, processor.factor(sample)):
            amplitude = strip.amplitude.numpy()
            valid = file.write(strip.row, amplitude)
            original = read_rows(strip.row, strip.row + len(amplitude)).numpy()
            before += float(np.square(original, dtype=np.float64).sum(0)[valid].sum())
            after += float(np.square(amplitude, dtype=np.float64)[valid].sum())
            on_rows(len(amplitude))
    return after / before if before else float("nan")
