"""Names to checkpoints: built-in model cards, local folders, and repositories on the Hugging Face Hub."""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from hub.errors import InvalidCheckpoint, UnknownModel

CHECKPOINT_FILES = ("config.json", "preprocessor_config.json", "README.md", "*.safetensors", "*.safetensors.index.json")
"""What is ever fetched of a repository: never code, never a pickle."""

FETCHED_KINDS = ("wheel", "url", "hub")
"""Kinds of a card's ``source`` that are fetched by themselves (`hub.sources`)."""

_REPOSITORY = re.compile(r"^[\w.-]+/[\w.-]+$")


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


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint found: its folder with weights, its card, and the revision when it came from a Hub."""

    name: str
    folder: Path
    card: Card
    revision: str | None = None

    @property
    def model_type(self) -> str:
        """``model_type`` of its ``config.json``.

        Raises:
            InvalidCheckpoint: The file is damaged or names none.
        """
        path = self.folder / "config.json"
        try:
            return str(json.loads(path.read_text(encoding="utf-8"))["model_type"])
        except (ValueError, KeyError, TypeError):
            raise InvalidCheckpoint(f"{path} is not a checkpoint's configuration: it names no model_type") from None


def find_checkpoint(name: str | Path, revision: str | None = None) -> Checkpoint:
    """Find a checkpoint by built-in name, folder, or ``org/repo`` on the Hugging Face Hub.

    Args:
        name: A built-in name comes first, then an existing folder, then a repository.
        revision: Branch, tag or commit of a repository.

    Raises:
        UnknownModel: Nothing answers to this name; the text says what there is.
        InvalidCheckpoint: There is something, but it is no checkpoint.
    """
    text = str(name)
    card = built_in_cards().get(text)
    if card is not None:
        if not card.has_weights and card.fetched:
            from hub.sources import fetched_checkpoint

            return Checkpoint(text, fetched_checkpoint(card), card)
        if not card.has_weights:
            raise UnknownModel(_how_to_get(card), code="weights_not_included")
        return Checkpoint(text, card.folder, card)
    folder = Path(name)
    if folder.is_dir():
        return _local(folder)
    if revision is None and not _REPOSITORY.match(text):
        raise UnknownModel(
            f"no model {text!r}: neither a built-in name ({', '.join(_loadable()) or 'none'}), "
            "nor a folder, nor an org/repo of the Hugging Face Hub"
        )
    return _download(text, revision)


def _loadable() -> list[str]:
    return [name for name, card in built_in_cards().items() if card.has_weights or card.fetched]


def _local(folder: Path) -> Checkpoint:
    if not (folder / "config.json").exists():
        raise InvalidCheckpoint(f"{folder} holds no config.json, so it is not a checkpoint")
    if not any(folder.glob("*.safetensors")):
        raise InvalidCheckpoint(
            f"{folder} holds no model.safetensors; an official .pth or .ckpt enters through `fmhub convert`"
        )
    return Checkpoint(folder.resolve().name, folder, Card.read(folder))


def _how_to_get(card: Card) -> str:
    return f"{card.name} is known but its weights are not shipped. {card.source.get('instructions', '')}".strip()


def _download(repository: str, revision: str | None) -> Checkpoint:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=list(CHECKPOINT_FILES)))
    except RevisionNotFoundError:
        raise UnknownModel(f"{repository} has no revision {revision!r}") from None
    except RepositoryNotFoundError:
        raise UnknownModel(
            f"no model {repository!r}: no such repository on the Hugging Face Hub (or no access to it), "
            f"no such folder here, and the built-in names are {', '.join(_loadable())}"
        ) from None
    except LocalEntryNotFoundError:
        raise UnknownModel(
            f"{repository} is not in the local cache and the Hugging Face Hub cannot be reached"
        ) from None
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise UnknownModel(f"{repository} could not be fetched: {error}") from None
    checkpoint = _local(folder)
    # The snapshot's folder is named after the commit, so what was loaded can be told exactly.
    return Checkpoint(repository, folder, Card.read(folder, repository), checkpoint.folder.name)
