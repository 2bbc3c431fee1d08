"""The on-disk feature cache: what a collator prepares of a sample, kept for the next pass and the next run."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from hub.errors import InvalidRecipe
from hub.processing import Processor
from hub.training.collation import Collator
from hub.training.index import Entry


class FeatureCache:
    """Prepared samples in a folder, one file each, named by everything that they depend on.

    A changed native file (by size or time), processor, system or option of it gets a new name, so a stale entry is
    never read. Files are written beside their place and renamed, so several processes and runs may share the folder.
    """

    def __init__(
        self, folder: Path, collator: Collator, processor: Processor, options: Mapping[str, Any] | None = None
    ) -> None:
        """Use or create a folder.

        Args:
            folder: Of the cache.
            collator: Whose ``prepare`` is kept.
            processor: Whose configuration the features depend on.
            options: What else they may depend on: the recipe's ``model`` and ``pretext``.

        Raises:
            InvalidRecipe: This system's collator prepares nothing that could be kept.
        """
        kind = type(collator)
        if kind.prepare is Collator.prepare:
            raise InvalidRecipe(f"{kind.__name__} prepares nothing ahead of its views, so there is nothing to cache")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        maker = [kind.__module__, kind.__name__, processor.to_dict(), options or {}]
        self._maker = json.dumps(maker, sort_keys=True, default=str)

    def get(self, entry: Entry, make: Callable[[], Any]) -> Any:
        """Return what is kept for an entry; make and keep it when it is not there, or cannot be read.

        Args:
            entry: Of the index.
            make: Prepares the sample: a tensor, or a list, tuple or dictionary of tensors, numbers and texts.
        """
        path = self._path(entry)
        if path.exists():
            try:
                return torch.load(path, weights_only=True)
            except (OSError, RuntimeError, EOFError, ValueError, UnpicklingError):
                pass  # damaged, for example by a full disk: it is made anew
        value = make()
        path.parent.mkdir(exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as stream:
            torch.save(_contiguous(value), stream)
        os.replace(stream.name, path)
        return value

    def _path(self, entry: Entry) -> Path:
        status = Path(entry.file).stat()
        place = (entry.number, entry.start, entry.stop, entry.place)
        key = [str(Path(entry.file).resolve()), status.st_size, status.st_mtime_ns, place, self._maker]
        name = hashlib.sha256(json.dumps(key).encode()).hexdigest()
        return self.folder / name[:2] / f"{name[2:40]}.pt"


def _contiguous(value: Any) -> Any:
    """Copy views: a slice would be stored with the whole tensor it was cut from."""
    if isinstance(value, torch.Tensor):
        return value.clone(memory_format=torch.contiguous_format)
    if isinstance(value, Mapping):
        return {k: _contiguous(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_contiguous(v) for v in value)
    return value
