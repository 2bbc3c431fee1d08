"""``fmhub neighbourhood``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def neighbourhood(
    model: Annotated[str, typer.Argument(help="Built-in name, folder, or org/repo.")],
    data: Annotated[Path, typer.Option(help="Folder of native files, or a manifest, like the data of the training.")],
    made_from: Annotated[str, typer.Option(help="What the data are, and their licence; kept in the file.")],
    output_dir: Annotated[
        Path | None, typer.Option(help="Folder to write to; the checkpoint's own unless given.")
    ] = None,
    max_samples: Annotated[int, typer.Option(min=30, help="At most so many samples.")] = 512,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
) -> None:
    """Make the reference set of a model: what tells how unlike its training data an input is.

    Writes neighbourhood.safetensors: embeddings of most of the samples, and how near the others lie to them.
    """
    from hub.curation.pool import find_rows
    from hub.embedder import from_pretrained
    from hub.reference_set import make_reference_set, write_reference_set

    embedder = from_pretrained(model)
    rows, _ = find_rows(data, embedder)
    found = make_reference_set(embedder, rows, made_from, max_samples=max_samples, seed=seed)
    path = write_reference_set(found, embedder, output_dir or embedder.folder)
    typer.echo(f"{len(found.reference)} reference vectors of {found.reference.shape[1]} dimensions in {path}")
