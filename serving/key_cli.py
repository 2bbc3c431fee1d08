"""``fmhub key``. Only typer is imported here; the rest when the command is called."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Action(StrEnum):
    """What to do with a key."""

    new = "new"


def key(
    action: Annotated[Action, typer.Argument(help="new: make a key.")],
    name: Annotated[str, typer.Argument(help="Whose it is; the log and the metrics show it.")],
    models: Annotated[
        str | None, typer.Option(help="Models it may use, separated by commas, with * as a wildcard; all unless given.")
    ] = None,
    requests_per_minute: Annotated[int | None, typer.Option(help="Unlimited unless given.")] = None,
) -> None:
    """Make a key for the server: shown once, with the hashed entry for its settings."""
    import yaml

    from serving.config import KeySettings, settings_of
    from serving.keys import hash_of, new_key

    fresh = new_key()
    scope = [m.strip() for m in models.split(",")] if models else None
    given = {"name": name, "hash": hash_of(fresh), "models": scope, "requests_per_minute": requests_per_minute}
    entry = settings_of(KeySettings, {k: v for k, v in given.items() if v is not None}, "key")
    print(f"{fresh}\n\nThe key above is shown this once. Its entry for 'keys' or 'keys_file':\n")
    print(yaml.safe_dump([entry.model_dump(exclude_none=True)], sort_keys=False), end="")
