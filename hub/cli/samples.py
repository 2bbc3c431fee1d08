"""``fmhub samples``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hub.domain import domains, get_domain


def samples(
    folder: Annotated[Path, typer.Argument(help="Where to; one folder a domain is made below it.")],
    domain: Annotated[str | None, typer.Option(help="Only this domain.")] = None,
) -> None:
    """Write small synthetic files of each domain to try things on."""
    chosen = [get_domain(domain)] if domain else [d for d in domains().values() if "samples" in d.references]
    for entry in chosen:
        if entry.missing and domain is None:
            typer.echo(f"{entry.name}: left out, it needs {', '.join(entry.missing)}; run: {entry.install}", err=True)
            continue
        target = folder / entry.name
        target.mkdir(parents=True, exist_ok=True)
        for path in entry.load("samples")(target):
            typer.echo(path)
