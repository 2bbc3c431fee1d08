"""The files of the served checkpoints, as a Hugging Face repository would list them."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from hub.cards import CHECKPOINT_FILES
from hub.catalog import find_checkpoint
from hub.errors import HubError
from serving.errors import NotFound
from serving.lane import Lane

logger = logging.getLogger("fmhub.serving")

LARGE = "*.safetensors"
"""Files that a repository keeps beside git, under their SHA-256."""


@dataclass(frozen=True)
class HubFile:
    """One file of a checkpoint.

    Attributes:
        name: In the checkpoint.
        path: Where it lies.
        size: In bytes.
        oid: What git would call its content.
        sha256: Of its content.
        large: Whether a repository would keep it beside git.
    """

    name: str
    path: Path
    size: int
    oid: str
    sha256: str
    large: bool

    @property
    def etag(self) -> str:
        """What huggingface_hub keeps the content under."""
        return self.sha256 if self.large else self.oid

    @property
    def entry(self) -> dict[str, Any]:
        """The file in a listing."""
        found: dict[str, Any] = {"type": "file", "path": self.name, "size": self.size, "oid": self.oid}
        if self.large:
            found["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": 134}
        return found


@dataclass(frozen=True)
class Listing:
    """A checkpoint's files, and what stands for a commit: a hash of their names and contents.

    Attributes:
        commit: 40 hexadecimal digits; the same files have the same.
        files: By name.
        stamps: Sizes and times of the files when they were hashed.
    """

    commit: str
    files: dict[str, HubFile]
    stamps: tuple[tuple[str, int, int], ...]


class Listings:
    """The listings of all served models; each is made when it is asked for, and again when a file has changed."""

    def __init__(self) -> None:
        """Start with none."""
        self._folders: dict[tuple[Any, ...], Path] = {}
        self._listings: dict[Path, Listing] = {}
        self._making = asyncio.Lock()

    async def of(self, lane: Lane) -> Listing:
        """Return a model's files.

        Raises:
            NotFound: It has none here, for example because the service was given embedders of its own.
        """
        revision = (lane.embedder.revision if lane.embedder is not None else None) or lane.settings.revision
        async with self._making:
            return await asyncio.to_thread(self._of, lane.settings.name, revision, lane.id)

    def _of(self, name: str, revision: str | None, model: str) -> Listing:
        try:
            # Looked up once: of a repository it is a question to the Hub.
            folder = self._folders.get((name, revision)) or find_checkpoint(name, revision).folder
        except HubError as error:
            # The reason may tell of this machine's folders.
            logger.warning("the files of %s were asked for and are not here (%s)", model, type(error).__name__)
            raise NotFound(f"the files of {model} are not here", code="model_not_found") from None
        self._folders[name, revision] = folder
        paths = _paths(folder)
        stamps = tuple((p.name, s.st_size, s.st_mtime_ns) for p in paths for s in [p.stat()])
        known = self._listings.get(folder)
        if known is None or known.stamps != stamps:
            files = {path.name: _file(path) for path in paths}
            lines = "".join(f"{file.sha256}  {name}\n" for name, file in files.items())
            commit = hashlib.sha256(lines.encode()).hexdigest()[:40]
            known = self._listings[folder] = Listing(commit, files, stamps)
        return known


def _paths(folder: Path) -> list[Path]:
    """Return what may be fetched: the files that make a checkpoint, and nothing else that lies beside them."""
    return sorted(p for p in folder.iterdir() if p.is_file() and any(fnmatchcase(p.name, x) for x in CHECKPOINT_FILES))


def _file(path: Path) -> HubFile:
    size = path.stat().st_size
    sha256, git = hashlib.sha256(), hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(1024 * 1024):
            sha256.update(chunk)
            git.update(chunk)
    return HubFile(path.name, path, size, git.hexdigest(), sha256.hexdigest(), fnmatchcase(path.name, LARGE))
