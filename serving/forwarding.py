"""The forward stage: one batch through the model, in the model's own thread."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from hub.embedder import Embedder
from hub.errors import InvalidInput
from serving.jobs import Waiting, Work

logger = logging.getLogger("fmhub.serving")


def limit_torch_threads(count: int) -> None:
    """Let torch use this many threads for work begun in the calling thread."""
    # Asked first, because torch initialises a thread lazily with the process's number and would undo the setting.
    torch.get_num_threads()
    torch.set_num_threads(count)


def forward_batch(embedder: Embedder, batch: Sequence[Waiting]) -> list[Any]:
    """Run one batch; each sample gets its value, or the exception that it alone is to blame for.

    A batch that fails as a whole is run again sample by sample, so that one bad sample cannot take its
    neighbours, which belong to other requests, down with it.

    Args:
        embedder: The model.
        batch: Samples of equal work.

    Returns:
        One entry a sample, in order: a value, or an Exception.
    """
    work = batch[0].job.work
    try:
        return _forward(embedder, work, batch)
    except Exception as error:
        if len(batch) == 1:
            return [error]
        requests = ", ".join(dict.fromkeys(w.job.call.id for w in batch))
        logger.warning(
            "a batch of %d of the requests %s failed (%s); running its samples alone",
            len(batch),
            requests,
            type(error).__name__,
        )
    return [_alone(embedder, work, waiting) for waiting in batch]


def _alone(embedder: Embedder, work: Work, waiting: Waiting) -> Any:
    if waiting.job.done:
        return None
    try:
        return _forward(embedder, work, [waiting])[0]
    except Exception as error:
        return error


def _forward(embedder: Embedder, work: Work, batch: Sequence[Waiting]) -> list[Any]:
    prepared = [w.prepared for w in batch]
    if work.task is not None:
        values = embedder.run_batch(work.task, prepared)
    else:
        values = [_finite(v) for v in embedder.forward(prepared, work.pooling, work.layer)]
    if len(values) != len(batch):
        raise RuntimeError(f"{embedder.name} returned {len(values)} results for {len(batch)} samples")
    return values


def _finite(vector: np.ndarray) -> Any:
    if np.isfinite(vector).all():
        return vector
    # The values are finite, or the reader would have refused them: they are beyond what the model can compute with.
    return InvalidInput(
        "its values are so large that the embedding is not finite; check their scale and unit",
        code="embedding_not_finite",
    )
