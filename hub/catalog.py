"""Names to checkpoints: built-in model cards, local folders, and repositories on the Hugging Face Hub."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from hub.cards import CHECKPOINT_FILES, Card, built_in_cards
from hub.errors import InvalidCheckpoint, UnknownModel
from hub.published import WEIGHTS as PUBLISHED_WEIGHTS
from hub.published import converted_checkpoint, publishing_system
from hub.sources import fetched_checkpoint

_REPOSITORY = re.compile(r"^[\w.-]+/[\w.-]+$")


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
    name = folder.resolve().name
    if system := publishing_system(folder):
        folder = converted_checkpoint(system, folder, name)
        return Checkpoint(name, folder, Card.read(folder, name))
    if not any(folder.glob("*.safetensors")):
        raise InvalidCheckpoint(
            f"{folder} holds no model.safetensors; an official .pth or .ckpt enters through `fmhub convert`"
        )
    return Checkpoint(name, folder, Card.read(folder))


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
        system = publishing_system(folder)
        if system and not any(folder.glob("*.safetensors")):
            snapshot_download(repository, revision=folder.name, allow_patterns=list(PUBLISHED_WEIGHTS))
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
    # The snapshot's folder is named after the commit, so what was loaded can be told exactly.
    commit = folder.name
    if system:
        folder = converted_checkpoint(system, folder, repository)
    else:
        _local(folder)
    return Checkpoint(repository, folder, Card.read(folder, repository), commit)
