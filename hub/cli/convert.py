"""``fmhub convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def convert(
    system: Annotated[str, typer.Argument(help="Which system the file is of.")],
    file: Annotated[Path, typer.Argument(help="The official checkpoint file.")],
    output: Annotated[Path, typer.Argument(help="Folder to write.")],
    license: Annotated[str, typer.Option(help="Licence of the weights, as their authors state it.")] = "other",
    option: Annotated[
        list[str] | None, typer.Option(help="name=value that the file does not tell, for example heads=12.")
    ] = None,
) -> None:
    """Convert an official checkpoint file to a Hugging Face-style folder.

    No code in the file is run: it is read by a restricted unpickler, and a file of another system is refused.
    """
    from hub.conversion import convert_checkpoint, parse_options

    convert_checkpoint(system, file, output, license=license, options=parse_options(option or []))
    typer.echo(f"{output} is ready: hub.from_pretrained({str(output)!r})")
