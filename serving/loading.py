"""One model from its settings to ready: loaded, identified, weighed and warmed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hub.catalog import find_checkpoint
from hub.embedder import Embedder, from_pretrained
from serving.config import ModelSettings
from serving.numerics import NumericError, load_as_set
from serving.provenance import Provenance, provenance_of


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to serve.

    Attributes:
        embedder: It.
        dimension: Of its embeddings.
        provenance: What it was made of.
        dtype_error: What its arithmetic costs in exactness; ``None`` for plain float32.
        bytes: Its weights take in memory.
        seconds: All this took.
    """

    embedder: Embedder
    dimension: int
    provenance: Provenance
    dtype_error: NumericError | None
    bytes: int
    seconds: float


def load_model(factory: Callable[..., Embedder], settings: ModelSettings) -> LoadedModel:
    """Load and warm a model; called in its thread, since what torch prepares for a thread is then there.

    Raises:
        HubError: It cannot be loaded, or not as its settings say.
    """
    started = time.monotonic()
    embedder, error = load_as_set(factory, settings)
    provenance = provenance_of(embedder, _folder(factory, settings, embedder), settings.dtype)
    tensors = [*embedder.model.parameters(), *embedder.model.buffers()]
    size = sum(t.numel() * t.element_size() for t in tensors)
    dimension = embedder.warm_up()
    return LoadedModel(embedder, dimension, provenance, error, size, time.monotonic() - started)


def _folder(factory: Callable[..., Embedder], settings: ModelSettings, embedder: Embedder) -> Path:
    """Return the folder of the weights; of weights that are fetched, a card's own folder holds the card alone."""
    if factory is not from_pretrained:
        return embedder.card.folder
    return find_checkpoint(settings.name, embedder.revision or settings.revision).folder
