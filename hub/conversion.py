"""Official checkpoint files to Hugging Face-style folders: what every converter shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hub.cards import Card
from hub.domain import get_system
from hub.errors import InvalidCheckpoint, UnsupportedOption
from hub.publishing import card_metadata, check_publishable, sha256_of, write_card
from hub.quiet import without_progress_bars


def parse_options(pairs: Sequence[str]) -> dict[str, Any]:
    """Return ``["heads=12"]`` as ``{"heads": 12}``.

    Raises:
        UnsupportedOption: A pair is no ``name=value``.
    """
    options: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise UnsupportedOption(f"option {pair!r} is not of the form name=value", param="option")
        try:
            options[name] = int(value)
        except ValueError:
            options[name] = value
    return options


def convert_checkpoint(
    system_name: str, file: Path, output: Path, *, license: str = "other", options: Mapping[str, Any] | None = None
) -> Card:
    """Convert an official file with the system's converter and write the card.

    Args:
        system_name: Which system the file is of.
        file: The official file.
        output: Folder to write; must not exist or be empty.
        license: Licence of the weights.
        options: What the file does not tell.

    Raises:
        UnknownDomain: There is no such system, or it has no converter.
        InvalidCheckpoint: The file is not of this system, or holds something else than tensors and plain containers.
    """
    system = get_system(system_name)
    converter = system.load("converter")
    if not file.is_file():
        raise InvalidCheckpoint(f"{file}: no such file")
    if output.exists() and any(output.iterdir()):
        raise InvalidCheckpoint(f"{output} is not empty; give a new folder")
    with without_progress_bars():
        facts = converter(file, output, **dict(options or {}))
    origin = {"file": file.name, "sha256": sha256_of(file)}
    metadata = card_metadata(system, license=license, name=output.name, converted_from=origin)
    lines = "\n".join(f"- {name.replace('_', ' ')}: {value}" for name, value in facts.items())
    write_card(
        output,
        metadata,
        f"# {output.name}\n\n{system.title} ({system.paper}), converted from the official file `{file.name}` "
        f"(SHA-256 `{origin['sha256']}`). The weights keep their authors' licence.\n\n{lines}\n",
    )
    if (output / "preprocessor_config.json").exists():
        check_publishable(output)
    # Without one the weights are of features made elsewhere: readable, but nothing to embed files with.
    return Card.read(output)
