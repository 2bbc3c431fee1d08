"""Embeddings of training samples by an encoder in training, for monitors and curation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from hub.batching import batches_by_cost
from hub.modeling import EmbeddingModel
from hub.processing import Processor


@contextmanager
def in_eval_mode(encoder: EmbeddingModel) -> Iterator[None]:
    """Switch dropout and batch statistics off for a while."""
    training = encoder.training
    encoder.eval()
    try:
        yield
    finally:
        encoder.train(training)


@torch.no_grad()
def embed_prepared(
    encoder: EmbeddingModel, processor: Processor, features: Sequence[Any], costs: Sequence[int]
) -> torch.Tensor:
    """Embed prepared samples in batches of similar cost.

    Args:
        encoder: In eval mode. Where it has no pooling of its own, the mean over the tokens is taken.
        processor: Pads, and says how large a batch may be.
        features: What the processor's ``prepare`` returned.
        costs: Of each.

    Returns:
        ``(samples, dimension)`` float32 on the CPU, in the order of the features.
    """
    pooling = "mean" if encoder.config.pooling == "none" else None
    found: dict[int, torch.Tensor] = {}
    for group in batches_by_cost(costs, processor.batch_cost):
        batch = {
            name: value.to(encoder.device, encoder.dtype if value.is_floating_point() else None)
            for name, value in processor.pad([features[i] for i in group]).items()
        }
        vectors = encoder.embed(batch, pooling=pooling)
        found.update((i, vector.float().cpu()) for i, vector in zip(group, vectors, strict=True))
    return torch.stack([found[i] for i in range(len(features))])
