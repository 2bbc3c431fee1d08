"""Model cards: a checkpoint's ``README.md``, and those that fmhub knows by name."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from hub.errors import InvalidCheckpoint

CHECKPOINT_FILES = ("config.json", "preprocessor_config.json", "README.md", "*.safetensors", "*.safetensors.index.json")
"""What is ever fetched of a repository: never code, never a pickle."""

FETCHED_KINDS = ("wheel", "url", "hub")
"""Kinds of a card's ``source`` that are fetched by themselves (`hub.sources`)."""


@dataclass(frozen=True)
class Card:
    """A model card: a checkpoint's ``README.md``.

    Attributes:
        name: What `hub.from_pretrained` calls it.
        folder: Where it lies.
        metadata: The Hugging Face front matter (licence, tags, model-index), with fmhub's own under ``fmhub``.
        text: The prose below it.
    """

    name: str
    folder: Path
    metadata: dict[str, Any] = field(default_factory=dict, repr=False)
    text: str = field(default="", repr=False)

    @classmethod
    def read(cls, folder: Path, name: str | None = None) -> Card:
        """Read a checkpoint folder's card; a folder without one gives an empty card.

        Raises:
            InvalidCheckpoint: The front matter is not YAML.
        """
        path = folder / "README.md"
        if not path.exists():
            return cls(name or folder.name, folder)
        match = re.match(r"\A---\n(.*?)\n---\n?(.*)\Z", path.read_text(encoding="utf-8"), re.DOTALL)
        if match is None:
            return cls(name or folder.name, folder, {}, path.read_text(encoding="utf-8"))
        try:
            metadata = yaml.safe_load(match[1]) or {}
        except yaml.YAMLError as error:
            raise InvalidCheckpoint(f"{path}: the card's front matter is not YAML ({error})") from None
        return cls(name or folder.name, folder, metadata, match[2])

    @property
    def domain(self) -> str | None:
        """Domain of the checkpoint."""
        return self.metadata.get("fmhub", {}).get("domain")

    @property
    def system(self) -> str | None:
        """System of the checkpoint."""
        return self.metadata.get("fmhub", {}).get("system")

    @property
    def source(self) -> dict[str, Any]:
        """Where the weights of a card without weights are published, and how to get them."""
        return self.metadata.get("fmhub", {}).get("source") or {}

    @property
    def fetched(self) -> bool:
        """Whether the weights come from their source by themselves, on first use."""
        return self.source.get("kind") in FETCHED_KINDS

    @property
    def has_weights(self) -> bool:
        """Whether the folder is a whole checkpoint, ready to load."""
        return (self.folder / "config.json").exists() and any(self.folder.glob("*.safetensors"))

    @property
    def summary(self) -> str:
        """First sentence of the prose."""
        prose = " ".join(line for line in self.text.strip().splitlines() if not line.startswith("#"))
        return re.split(r"(?<=[.!?])\s", prose.strip(), maxsplit=1)[0]


@cache
def built_in_cards() -> dict[str, Card]:
    """Return the cards of ``model_cards`` by name, from a checkout or an installed wheel alike."""
    spec = importlib.util.find_spec("model_cards")
    cards: dict[str, Card] = {}
    for root in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(root).glob("*/README.md")):
            cards.setdefault(path.parent.name, Card.read(path.parent))
    return cards


def list_models(domain: str | None = None, system: str | None = None) -> list[Card]:
    """Return the built-in cards, of one domain or system if given; nothing is imported or downloaded."""
    return [
        card
        for card in built_in_cards().values()
        if (domain is None or card.domain == domain) and (system is None or card.system == system)
    ]
