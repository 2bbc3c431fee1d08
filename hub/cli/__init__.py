"""The ``fmhub`` command. Each command is a module that is imported when it is called."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

import typer

from hub.errors import HubError

COMMANDS = {
    "models": "List the models that load by name, and the domains installed.",
    "samples": "Write small synthetic files of each domain to try things on.",
    "embed": "Embed files or whole folders to npy, parquet or jsonl.",
    "curate": "Choose by their embeddings, without labels, which samples to train on.",
    "pretrain": "Pretrain a system by a recipe, on a folder or a manifest.",
    "finetune": "Fine-tune a model on a labelled set; the result loads, and serves with its task.",
    "evaluate": "Probe a model on a labelled set, beside its random twin and a baseline.",
    "neighbourhood": "Make a model's reference set, which tells how unlike its training data an input is.",
    "convert": "Convert an official checkpoint file to a Hugging Face-style folder.",
    "publish": "Check a checkpoint and push it to the Hugging Face Hub.",
}
"""The hub's own commands, each a function of that name in the module of that name."""

COMMAND_GROUP = "fmhub.commands"


def _own(name: str) -> Any:
    return getattr(importlib.import_module(f"hub.cli.{name}"), name)


def _contributed() -> dict[str, tuple[Callable[[], Any], Callable[[], str]]]:
    """Return name to (loader, help) of what installed packages and the domains add."""
    from hub.domain import domains

    found: dict[str, tuple[Callable[[], Any], Callable[[], str]]] = {}
    for point in sorted(entry_points(group=COMMAND_GROUP), key=lambda p: p.name):
        found[point.name] = (point.load, lambda p=point: (p.load().__doc__ or "").partition("\n")[0])
    for domain in domains().values():
        for name, command in domain.commands.items():
            found.setdefault(name, (lambda d=domain, c=command: d.resolve(c.reference), lambda c=command: c.help))
    return found


def build(arguments: list[str]) -> typer.Typer:
    """Return the application for these arguments; of all commands only the called one is imported."""
    app = typer.Typer(
        name="fmhub",
        help="Domain-specific self-supervised foundation models: embed, serve, pretrain, evaluate.",
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    called = next((a for a in arguments if not a.startswith("-")), None)
    for name, text in COMMANDS.items():
        app.command(name, help=None if name == called else text)(_own(name) if name == called else _not_called)
    if called not in COMMANDS:
        for name, (load, text_of) in _contributed().items():
            app.command(name, help=None if name == called else text_of())(load() if name == called else _not_called)
    return app


def _not_called() -> None:
    """Stand in for a command that is only listed."""


def main() -> None:
    """Run ``fmhub``; an error that fmhub foresaw is one line on stderr and exit code 1."""
    # Bars of libraries would break up the lines that a command prints; it draws its own.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    arguments = sys.argv[1:]
    try:
        build(arguments)(arguments, prog_name="fmhub")
    except HubError as error:
        sys.exit(f"fmhub: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
