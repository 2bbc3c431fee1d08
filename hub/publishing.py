"""Writing checkpoints and their cards, and pushing them to a Hub."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hub.cards import CHECKPOINT_FILES, Card
from hub.domain import System
from hub.errors import HubError, InvalidCheckpoint
from hub.processing import Processor
from hub.quiet import without_progress_bars

WEIGHTS = "model.safetensors"


def save_checkpoint(folder: Path, model: Any, processor: Processor, *, half_precision: bool = False) -> None:
    """Write ``config.json``, ``model.safetensors`` and ``preprocessor_config.json``.

    Args:
        folder: Where to; made if absent.
        model: The encoder or its pretext task.
        processor: Its processor.
        half_precision: Store the tensors as float16 at half the size. They are read back as float32, the type
            that ``config.json`` names, so nothing else changes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with without_progress_bars():
        model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if half_precision:
        halve_weights(folder)


def halve_weights(folder: Path) -> None:
    """Store a checkpoint's float32 tensors as float16; ``config.json`` keeps naming float32.

    Raises:
        InvalidCheckpoint: A value does not fit into float16.
    """
    path = folder / WEIGHTS
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = {}
    for name, tensor in load_file(path).items():
        tensors[name] = tensor.half() if tensor.dtype == torch.float32 else tensor
        if not torch.isfinite(tensors[name]).all():
            raise InvalidCheckpoint(f"{path}: {name} does not fit into float16")
    temporary = path.with_suffix(".partial")
    save_file(tensors, temporary, metadata=metadata)
    os.replace(temporary, path)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def card_metadata(
    system: System,
    *,
    license: str,
    datasets: Sequence[str] = (),
    results: Sequence[Mapping[str, Any]] = (),
    name: str = "",
    **extra: Any,
) -> dict[str, Any]:
    """Return the front matter of a card.

    Args:
        system: What the checkpoint is of.
        license: Licence of the weights, an identifier of the Hugging Face Hub.
        datasets: What it was trained on.
        results: Measured results: ``task``, ``dataset``, ``metric``, ``value``, and optionally ``config``.
        name: The checkpoint's name in the model-index.
        extra: Further keys of fmhub's own section, for example ``parameters`` or ``source``.
    """
    from huggingface_hub import EvalResult, ModelCardData

    evaluations = [
        EvalResult(
            task_type="feature-extraction",
            task_name=r["task"],
            dataset_type=r["dataset"],
            dataset_name=r["dataset"],
            dataset_config=r.get("config"),
            metric_type=r["metric"],
            metric_value=r["value"],
        )
        for r in results
    ]
    data = ModelCardData(
        license=license,
        library_name="fmhub",
        pipeline_tag="feature-extraction",
        tags=[system.domain.name, system.name, "self-supervised"],
        datasets=list(datasets) or None,
        model_name=name or system.title,
        eval_results=evaluations or None,
    )
    return {**data.to_dict(), "fmhub": {"domain": system.domain.name, "system": system.name, **extra}}


def write_card(folder: Path, metadata: Mapping[str, Any], text: str) -> Card:
    """Write a checkpoint's ``README.md`` and return it read back."""
    from huggingface_hub import ModelCard

    front = yaml.safe_dump(dict(metadata), sort_keys=False, allow_unicode=True, width=120)
    card = ModelCard(f"---\n{front}---\n\n{text.strip()}\n")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(str(card), encoding="utf-8")
    return Card.read(folder)


def check_publishable(folder: Path) -> Card:
    """Check that a folder is a whole checkpoint with a usable card.

    Raises:
        InvalidCheckpoint: A file or a required field of the card is missing.
    """
    for name in ("config.json", WEIGHTS, "preprocessor_config.json", "README.md"):
        if not (folder / name).exists():
            raise InvalidCheckpoint(f"{folder} lacks {name}; a checkpoint holds it")
    card = Card.read(folder)
    for key in ("license", "library_name", "pipeline_tag", "tags", "fmhub"):
        if not card.metadata.get(key):
            raise InvalidCheckpoint(f"{folder / 'README.md'}: the front matter lacks {key!r}")
    try:
        json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (ValueError, KeyError):
        raise InvalidCheckpoint(f"{folder / 'config.json'} names no model_type") from None
    return card


def push(folder: Path, repository: str, *, private: bool = False, message: str = "Publish checkpoint") -> str:
    """Upload a checkpoint to the Hugging Face Hub and return its address.

    Only a checkpoint's own files travel: no optimiser state, no logs.

    Args:
        folder: The checkpoint.
        repository: ``org/name``; made if absent.
        private: Whether a new repository is private.
        message: Commit message.

    Raises:
        InvalidCheckpoint: The folder is not publishable.
        HubError: The Hub refused; the text says why.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    check_publishable(folder)
    api = HfApi()
    try:
        url = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message=message,
            allow_patterns=[*CHECKPOINT_FILES, "*.png", "recipe.yaml"],
            # A run's resumable checkpoints lie in folders below.
            ignore_patterns=["*/*"],
        )
    except HfHubHTTPError as error:
        raise HubError(f"{repository} could not be published: {error}", code="publish_failed") from None
    return str(url)
