"""Repositories and folders as a system's authors publish them: another ``model_type``, another layout.

A system names in its ``domain.toml`` the values of ``model_type`` that its authors use (``published``), and its
converter reads such a checkpoint's weights with the ``config.json`` beside them. The result is kept in fmhub's cache.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from hub.cards import Card
from hub.domain import System, systems
from hub.errors import InvalidCheckpoint
from hub.sources import converted_once

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Where published weights lie, the safer file first; a pickle is read by torch's restricted unpickler alone."""


def publishing_system(folder: Path) -> System | None:
    """Return the system in whose authors' layout this folder is, or None.

    Args:
        folder: Holds a ``config.json``.
    """
    try:
        config: Any = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    model_type = config.get("model_type") if isinstance(config, dict) else None
    return next((s for s in systems().values() if model_type in s.published), None)


def converted_checkpoint(system: System, folder: Path, name: str) -> Path:
    """Return the converted form of a published checkpoint's folder, made on first use.

    Args:
        system: In whose authors' layout it is.
        folder: With ``config.json`` and the weights.
        name: For the cache and for messages.

    Raises:
        InvalidCheckpoint: There are no weights, or they are not of this layout.
    """
    file = next((folder / w for w in WEIGHTS if (folder / w).exists()), None)
    if file is None:
        raise InvalidCheckpoint(f"{folder} holds neither {' nor '.join(WEIGHTS)}: no weights of {system.title}")
    facts = file.stat()
    identity = f"{file.resolve()} {facts.st_size} {facts.st_mtime_ns} ".encode() + (folder / "config.json").read_bytes()
    key = f"{name.replace('/', '--')}-{hashlib.sha256(identity).hexdigest()[:12]}"
    license = str(Card.read(folder).metadata.get("license", "other"))
    return converted_once(key, system.name, lambda scratch: file, license=license)
