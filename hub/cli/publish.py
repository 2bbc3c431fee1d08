"""``fmhub publish``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def publish(
    folder: Annotated[Path, typer.Argument(help="The checkpoint.")],
    repository: Annotated[str, typer.Argument(help="org/name on the Hugging Face Hub.")],
    private: Annotated[bool, typer.Option(help="Make a new repository private.")] = False,
    message: Annotated[str, typer.Option(help="Commit message.")] = "Publish checkpoint",
) -> None:
    """Check a checkpoint and push it to the Hugging Face Hub.

    Only config, weights, preprocessing, card and curve travel; HF_TOKEN and HF_ENDPOINT are honoured.
    """
    from hub.publishing import push

    typer.echo(push(folder, repository, private=private, message=message))
