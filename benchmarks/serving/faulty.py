"""An embedder factory for the fault tests: the real model, which breaks when a file says so.

The server is started with ``embedder_factory: benchmarks.serving.faulty:load`` and the folder of those files in
``BENCH_FAULTS``. While ``raise`` or ``hang`` stands there, the forward of the model called ``victim`` raises, or does
not come back.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import hub
from hub.embedder import Embedder
from hub.modeling import EmbeddingModel

MODEL = "tera-tiny"
GOOD, VICTIM = "good", "victim"


def load(name: str, **options: Any) -> Embedder:
    """Return the model under either name; only the victim breaks."""
    embedder = hub.from_pretrained(MODEL, **options)
    embedder.name = name
    if name == VICTIM:
        _breakable(embedder.model, Path(os.environ["BENCH_FAULTS"]))
    return embedder


def _breakable(model: EmbeddingModel, folder: Path) -> None:
    embed = model.embed

    def breaking(*args: Any, **kwargs: Any) -> Any:
        while (folder / "hang").exists():
            time.sleep(0.05)
        if (folder / "raise").exists():
            raise RuntimeError("the forward was told to fail")
        return embed(*args, **kwargs)

    model.embed = breaking  # type: ignore[method-assign]
