"""``fmhub flows``: captures to the rows that netFound is trained on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from domains.network.flow import Flow
from domains.network.reading import CaptureReader
from domains.network.rows import write_rows
from hub.domain import get_domain
from hub.errors import InvalidInput
from hub.reading import Source


def flows(
    inputs: Annotated[list[Path], typer.Argument(help="Captures, or folders to walk.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Arrow IPC stream to write; replaced if it exists.")],
    compat: Annotated[bool, typer.Option(help="As netFound's own tools, their slips and losses included.")] = False,
    label: Annotated[str, typer.Option(help="What to label every row with.")] = "",
) -> None:
    """Turn captures into a table of flows: the Arrow stream of rows that netFound is trained on.

    A capture that cannot be used is reported and does not stop the rest; the exit code is then 1. The rows hold the
    first 12 bytes of each packet's payload, and no address.
    """
    reader = CaptureReader(compat=compat)
    suffixes = get_domain("network").suffixes
    files = [f for path in inputs for f in (reader.find(path, suffixes) if path.is_dir() else [path])]
    failed: list[InvalidInput] = []
    count = write_rows(output, _flows(reader, files, failed), label)
    typer.echo(f"{count:,} flows of {len(files) - len(failed):,} files in {output}")
    if failed:
        raise typer.Exit(1)


def _flows(reader: CaptureReader, files: list[Path], failed: list[InvalidInput]) -> Iterator[Flow]:
    for path in files:
        try:
            for sample in reader.read(Source.from_path(path)):
                for warning in sample.warnings:
                    typer.echo(f"warning: {path}: {warning}", err=True)
                yield sample.checked(str(path)).data
        except InvalidInput as error:
            typer.echo(f"failed: {error}", err=True)
            failed.append(error)
