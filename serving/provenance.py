"""Where an answer came from: which weights, which processor, and which vectors it can be compared with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hub.embedder import Embedder
from hub.neighbourhood import FILE as REFERENCE_SET
from serving.jobs import Work

PREPROCESSOR = "preprocessor_config.json"

NOT_OF_THE_SPACE = frozenset(
    {"pooling", "layer", "dtype", "torch_dtype", "transformers_version", "architectures", "_name_or_path"}
)
"""Entries of ``config.json`` that stand in the id by their resolved value, or do not change a vector."""

SPACE_DIGITS = 32


@dataclass(frozen=True)
class Provenance:
    """What a served model was made of; computed once when it is loaded.

    Attributes:
        revision: Commit of the repository that it came from, if it came from one.
        weights: SHA-256 of ``model.safetensors``; of several files, of their list of hashes.
        processor: SHA-256 of ``preprocessor_config.json``.
        architecture: SHA-256 of what of ``config.json`` decides about the vectors.
        arithmetic: ``float32``, or the narrower kind of number that the model computes with.
    """

    revision: str | None
    weights: str
    processor: str
    architecture: str
    arithmetic: str

    @property
    def fields(self) -> dict[str, str | None]:
        """What every answer carries beside the model's id."""
        return {"revision": self.revision, "weights": self.weights, "processor": self.processor}

    def space(self, work: Work, dimensions: int | None = None) -> str:
        """Return the id of the space that vectors made with these options lie in.

        Equal ids mean comparable vectors: the same weights, preprocessing, pooling, layer, dimensions and arithmetic.
        Different ids promise nothing.
        """
        parts = (self.weights, self.processor, self.architecture, self.arithmetic, work.pooling, work.layer, dimensions)
        return _sha256(json.dumps(parts).encode())[:SPACE_DIGITS]


def provenance_of(embedder: Embedder, folder: Path, arithmetic: str) -> Provenance:
    """Return a loaded model's provenance.

    Args:
        embedder: The model.
        folder: Of its checkpoint. What is not there is hashed as it is in memory, so that an embedder made in another
            way has ids as well.
        arithmetic: What the model computes with.
    """
    # A reference set decides about no vector, and may be made after the checkpoint.
    files = sorted(file for file in folder.glob("*.safetensors") if file.name != REFERENCE_SET)
    processor = folder / PREPROCESSOR
    return Provenance(
        revision=embedder.revision,
        weights=_of_files(files) if files else _of_tensors(embedder.model),
        processor=_of_file(processor) if processor.is_file() else _of_values(embedder.processor.to_dict()),
        architecture=_of_values(_configuration(folder, embedder)),
        arithmetic=arithmetic,
    )


def _configuration(folder: Path, embedder: Embedder) -> dict[str, Any]:
    path = folder / "config.json"
    # The file rather than the object: another version of a library adds defaults to the object.
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else embedder.model.config.to_dict()
    return {name: value for name, value in found.items() if name not in NOT_OF_THE_SPACE}


def _of_files(files: Iterable[Path]) -> str:
    hashes = {file.name: _of_file(file) for file in files}
    if len(hashes) == 1:
        return next(iter(hashes.values()))
    return _sha256("".join(f"{found}  {name}\n" for name, found in hashes.items()).encode())


def _of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _of_tensors(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _of_values(values: Any) -> str:
    return _sha256(json.dumps(values, sort_keys=True, default=str).encode())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
