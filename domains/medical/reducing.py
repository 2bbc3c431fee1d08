"""``fmhub reduce-slices``: of each volume the slices worth training on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from domains.medical.slice_reduction import SliceReduction
from domains.medical.slice_table import Chosen, digest_of, write_table
from hub.errors import InvalidInput, InvalidManifest, UnsupportedOption
from hub.manifest import Row, read_manifest
from hub.reading import Reader, Sample, Source

Embed = Callable[[Sample], NDArray[np.float32]]


def reduce_slices(
    data: Annotated[Path, typer.Argument(help="Folder of files and series, or a manifest (its train part).")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Manifest to write, with a column of slices.")],
    by: Annotated[str, typer.Option(help="hash, embedding, mutual_information or entropy.")] = "hash",
    threshold: Annotated[float | None, typer.Option(help="Bits, cosine, information, or share kept.")] = None,
    model: Annotated[str, typer.Option(help="By embedding: a model with one vector a slice.")] = "",
    device: Annotated[str, typer.Option(help="cpu or cuda; chosen if not given.")] = "",
) -> None:
    """Choose, within each volume, the slices to pretrain on; what repeats another slice is left out.

    Beside the manifest goes NAME.dropped.csv, with the reason for every slice left out. The data is not touched.
    """
    from hub.curation.index import check_output
    from hub.domain import get_domain

    reduction = SliceReduction(by, threshold)
    if (by == "embedding") != bool(model):
        raise UnsupportedOption("--by embedding and --model belong together: give both, or neither", param="model")
    if not data.is_dir():
        check_output(output, data)
    embed = _slice_embedder(model, device) if model else None
    domain = get_domain("medical")
    reader: Reader = domain.load("reader")()
    chosen = []
    for row, sample in _volumes(_rows(data, reader, domain.suffixes), reader):
        embeddings = embed(sample) if embed is not None else None
        chosen.append(Chosen(row, digest_of(sample.data), reduction(sample.data, embeddings)))
    if not chosen:
        raise InvalidManifest(f"{data} holds no image that can be read")
    write_table(output, chosen)
    slices = sum(len(one.selection.scores) for one in chosen)
    kept = sum(len(one.selection.kept) for one in chosen)
    typer.echo(f"kept {kept} of {slices} slices ({kept / slices:.1%}) of {len(chosen)} images: {output}")


def _rows(data: Path, reader: Reader, suffixes: tuple[str, ...]) -> list[Row]:
    if data.is_dir():
        return [Row(file) for file in reader.find(data, suffixes)]
    rows = read_manifest(data)
    return [row for row in rows if row.split in ("", "train")]


def _volumes(rows: list[Row], reader: Reader) -> Iterator[tuple[Row, Sample]]:
    """Yield each sample with the row that names it; what cannot be read is said and left out."""
    for row in rows:
        try:
            for sample in reader.read(Source.from_path(row.file)):
                if row.item not in ("", sample.key):
                    continue
                if sample.error is not None:  # one of several in its file
                    typer.echo(f"left out: {sample.error.at(str(row.file))}", err=True)
                    continue
                yield Row(row.file, row.label, row.group, row.split, None, sample.key), sample
        except InvalidInput as error:
            typer.echo(f"left out: {error.at(str(row.file))}", err=True)


def _slice_embedder(model: str, device: str) -> Embed:
    """Return what gives a sample's slices one vector each.

    Raises:
        UnsupportedOption: The model's token states are not one a slice.
    """
    from hub.embedder import from_pretrained

    embedder = from_pretrained(model, device=device or None)

    def embed(sample: Sample) -> NDArray[np.float32]:
        states = np.asarray(embedder.embed([sample], pooling="none")[0], np.float32)
        count = sample.data.slices().shape[0]
        if len(states) != count:
            raise UnsupportedOption(
                f"{model} gives {len(states)} vectors for {count} slices; choose a model with one vector a slice",
                param="model",
            )
        return states

    return embed
