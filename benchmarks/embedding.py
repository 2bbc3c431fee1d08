"""Batches by cost beside batches in the order of arrival, and beside one sample at a time."""

from __future__ import annotations

import random

import numpy as np

import hub
from benchmarks.measure import Result, side_by_side


def run() -> list[Result]:
    """Sixty clips of 0.3 to 12 s, shuffled, through a small model."""
    embedder = hub.from_pretrained("tera-tiny")
    generator = np.random.default_rng(0)
    clips = [
        {"samples": generator.normal(0, 0.1, int(s * 16_000)).astype("float32"), "sampling_rate": 16_000}
        for s in np.geomspace(0.3, 12, 60)
    ]
    random.Random(0).shuffle(clips)
    prepared = [embedder.prepare(next(embedder.read(c)), "clip") for c in clips]
    budget = embedder.processor.batch_cost

    def by_cost() -> None:
        from hub.batching import batches_by_cost

        for batch in batches_by_cost([p.cost for p in prepared], budget):
            embedder.forward([prepared[i] for i in batch])

    def in_order() -> None:
        for start in range(0, len(prepared), 16):
            embedder.forward(prepared[start : start + 16])

    def alone() -> None:
        for p in prepared:
            embedder.forward([p])

    contenders = {"batches of 16 as they come": in_order, "one at a time": alone, "batches by cost": by_cost}
    return [side_by_side("forward of 60 clips of 0.3 to 12 s", contenders)]
