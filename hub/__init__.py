"""fmhub: domain-specific self-supervised foundation models, loaded with one call.

>>> import hub
>>> embedder = hub.from_pretrained("tera-tiny")         # doctest: +SKIP
>>> embedder.embed(["a.wav", "b.flac"]).vectors.shape   # doctest: +SKIP
(2, 384)

Names below are imported when first used, so that ``import hub`` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hub.cards import list_models
    from hub.domain import register
    from hub.embedder import Embedder, Embeddings, from_pretrained
    from hub.errors import HubError, InvalidInput

__all__ = ["Embedder", "Embeddings", "HubError", "InvalidInput", "from_pretrained", "list_models", "register"]

_HOMES = {
    "Embedder": "hub.embedder",
    "Embeddings": "hub.embedder",
    "HubError": "hub.errors",
    "InvalidInput": "hub.errors",
    "from_pretrained": "hub.embedder",
    "list_models": "hub.cards",
    "register": "hub.domain",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'hub' has no attribute {name!r}")
