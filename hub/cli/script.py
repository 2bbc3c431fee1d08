"""A domain's own fine-tuning script: ``fmhub finetune`` and the commands that only this domain has."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import typer

from hub.errors import HubError


def run_script(commands: Mapping[str, Callable[..., Any]], arguments: Sequence[str] | None = None) -> None:
    """Run ``python -m domains.NAME.finetune``: ``run`` is ``fmhub finetune``, and an error is one line.

    Args:
        commands: The domain's further commands by name.
        arguments: Those of the command line unless given.
    """
    # Bars of libraries would break up the lines that are printed.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from hub.cli.finetune import finetune

    app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)
    for name, command in {"run": finetune, **commands}.items():
        app.command(name)(command)
    try:
        app(list(arguments) if arguments is not None else None)
    except HubError as error:
        raise SystemExit(str(error)) from None
