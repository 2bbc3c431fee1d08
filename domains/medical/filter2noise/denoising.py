"""``fmhub denoise``: an image of one channel to the same image with less noise."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from domains.medical.filter2noise.fitting import Fit, denoise_image
from domains.medical.image import MedicalImage
from domains.medical.writing import suffix_of, write_image
from hub.errors import InvalidInput, UnsupportedOption
from hub.reading import Reader, Sample, Source

FIGURES = (".png", ".svg", ".pdf")


def denoise(
    image: Annotated[Path, typer.Argument(help="A DICOM slice, a series (folder or zip), NIfTI, or a grey picture.")],
    out: Annotated[Path, typer.Option(help="File to write: .nii.gz, .nii, .npy, or .png for a picture.")],
    filters: Annotated[Path | None, typer.Option(help="Figure of the filter to write: .png, .svg or .pdf.")] = None,
    item: Annotated[str, typer.Option(help="Which image of the file, where it holds several.")] = "",
    stages: Annotated[int, typer.Option(help="1 or 2 filters after each other.")] = 2,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 500,
    edge_weight: Annotated[float | None, typer.Option(help="Small smooths more, large keeps more.")] = None,
    crop: Annotated[int, typer.Option(help="Pixels of a side that a step looks at; 0 for whole slices.")] = 128,
    spread: Annotated[int, typer.Option(help="2 or 3 for noise correlated over neighbours; 0 to find out.")] = 0,
    each_slice: Annotated[bool, typer.Option("--each-slice", help="Fit every slice of a volume by itself.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of initialisation and crops.")] = 0,
) -> None:
    """Remove the noise of one CT slice or series without any other data (Filter2Noise).

    Values keep their units. Nothing of a DICOM header but the place of the voxels is written.
    """
    from domains.medical.filter2noise.figure import draw_filters

    given = {} if edge_weight is None else {"edge_weight": edge_weight}
    fit = Fit(stages, steps, crop=crop, spread=spread, seed=seed, **given)
    if filters is not None and filters.suffix.lower() not in FIGURES:
        raise UnsupportedOption(f"{filters.name}: name a figure that ends with {', '.join(FIGURES)}", param="filters")
    sample = only_sample(image, item)
    original: MedicalImage = sample.data
    suffix_of(out, original)
    for warning in sample.warnings:
        typer.echo(f"warning: {warning}", err=True)
    fits = len(original.slices()) if each_slice else 1
    with typer.progressbar(length=fits * fit.steps, label="fitting") as bar:
        result = denoise_image(original, fit, each_slice, bar.update)
    write_image(out, result.image)
    if filters is not None:
        draw_filters(original, result, filters)
    typer.echo(f"{out}: estimated noise {result.noise:.4g}, removed {result.removed:.4g} (standard deviations)")


def only_sample(path: Path, item: str = "") -> Sample:
    """Return a file's one image, or the one that ``item`` names.

    Raises:
        InvalidInput: There are several and none is named, or none is called that; or the file cannot be read.
    """
    from hub.domain import get_domain

    reader: Reader = get_domain("medical").load("reader")()
    samples = list(reader.read(Source.from_path(path)))
    found = [s for s in samples if s.key == item] if item else samples
    if len(found) != 1:
        keys = ", ".join(s.key for s in samples)
        raise InvalidInput(f"give --item, one of {keys}", code="which_item", source=str(path))
    return found[0].checked(str(path))
