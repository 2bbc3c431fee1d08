"""The models whose readers and processors are tried."""

from __future__ import annotations

import warnings

import hub
from hub.cards import list_models
from hub.embedder import Embedder


def load_embedders() -> dict[str, list[Embedder]]:
    """Return the built-in models by domain, warmed up so that nothing is imported for the first file."""
    found: dict[str, list[Embedder]] = {}
    for card in list_models():
        if card.has_weights:
            embedder = hub.from_pretrained(card.name, device="cpu")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                embedder.warm_up()
            found.setdefault(embedder.system.domain.name, []).append(embedder)
    return found
