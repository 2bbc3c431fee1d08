"""Making the reference set that `hub.neighbourhood` holds embeddings against."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from hub.embedder import Embedder, Prepared
from hub.errors import InvalidInput, InvalidManifest
from hub.manifest import Row
from hub.neighbourhood import FILE, LEAST_SCALE, QUANTILES, VIEWS, Matrix, Neighbourhood, with_views
from hub.publishing import sha256_of
from hub.reading import Source

MAX_SAMPLES = 512
MAX_BYTES = 300_000
"""Of the file, about: reference vectors beyond are left out."""
HELD_OUT = 0.3
"""Share of the groups that calibrate and are no reference."""
FEW_GROUPS = 8
"""Groups below which samples are split one by one: a set of two captures has no other way."""
MOST_WITH_VIEWS = 64
"""Held-out samples that are embedded with their views, each of which costs a forward."""
LEAST = 30
"""Samples below which quantiles mean nothing."""


def make_reference_set(
    embedder: Embedder, rows: Sequence[Row], made_from: str, *, max_samples: int = MAX_SAMPLES, seed: int = 0
) -> Neighbourhood:
    """Embed samples of a model's kind, part of them as the reference, part of them to calibrate.

    Files, or the groups of a manifest, are on one side only, so that the windows of one recording do not vouch for each
    other. A file gives no more samples than its share.

    Args:
        embedder: The model, with its default pooling and layer.
        rows: Of a manifest or a folder.
        made_from: What the data are, and under which licence, for people.
        max_samples: At most.
        seed: Of the order.

    Raises:
        InvalidManifest: Fewer than `LEAST` samples can be used.
    """
    drawn = list(rows)
    random.Random(seed).shuffle(drawn)
    samples = list(_samples(embedder, drawn, max_samples))
    if len(samples) < LEAST:
        raise InvalidManifest(f"{len(samples)} samples can be used; at least {LEAST} are needed")
    held_out = _held_out([group for group, _ in samples], seed)
    kept = [p for (_, p), out in zip(samples, held_out, strict=True) if not out]
    calibrating = [p for (_, p), out in zip(samples, held_out, strict=True) if out]
    vectors = np.stack([found[0] for _, found in with_views(embedder, kept, 0)])
    mean, scale = vectors.mean(axis=0), vectors.std(axis=0)
    typical = float(np.sqrt(np.square(scale).mean()))
    scale = np.maximum(scale, np.float32(LEAST_SCALE * typical + np.finfo(np.float32).tiny))
    # Rounded as the file will be, so that the quantiles are those of what is read from it.
    most = max(LEAST, MAX_BYTES // (2 * vectors.shape[1]))
    reference = ((vectors - mean) / scale)[:most].astype(np.float16).astype(np.float32)
    nothing = np.zeros(QUANTILES, np.float32)
    bare = Neighbourhood(mean, scale, reference, nothing, nothing)
    distances = [bare.distance_of(found[0]) for _, found in with_views(embedder, calibrating, 0)]
    with_copies = with_views(embedder, calibrating[:MOST_WITH_VIEWS], VIEWS)
    stabilities = [bare.stability_of(np.stack(found)) for _, found in with_copies]
    steps = np.linspace(0, 1, QUANTILES)
    distance, stability = (np.quantile(values, steps).astype(np.float32) for values in (distances, stabilities))
    return Neighbourhood(mean, scale, reference, distance, stability, made_from)


def write_reference_set(found: Neighbourhood, embedder: Embedder, folder: Path) -> Path:
    """Write ``neighbourhood.safetensors`` into a checkpoint's or card's folder and return its path."""
    tensors: dict[str, Matrix] = {
        name: np.ascontiguousarray(getattr(found, name)) for name in ("mean", "scale", "distance", "stability")
    }
    weights = embedder.folder / "model.safetensors"
    facts = {"made_from": found.made_from, "weights": sha256_of(weights) if weights.is_file() else ""}
    save_file({**tensors, "reference": found.reference.astype(np.float16)}, folder / FILE, facts)
    return folder / FILE


def _samples(embedder: Embedder, rows: Sequence[Row], max_samples: int) -> Iterator[tuple[str, Prepared]]:
    """Yield (group, prepared sample); what cannot be used is left out."""
    share, count = max(1, -(-max_samples // len(rows))), 0
    for row in rows:
        left = share
        try:
            for sample in embedder.read(Source.from_path(row.file), row.span):
                if row.item and sample.key != row.item:
                    continue
                try:
                    prepared = embedder.prepare(sample, row.file.name)
                except InvalidInput:
                    continue
                yield row.group or str(row.file), prepared
                left, count = left - 1, count + 1
                if not left or count == max_samples:
                    break
        except InvalidInput:
            continue
        if count == max_samples:
            return


def _held_out(groups: Sequence[str], seed: int) -> list[bool]:
    names = sorted(set(groups))
    if len(names) < FEW_GROUPS:
        draw = random.Random(seed)
        return [draw.random() < HELD_OUT for _ in groups]
    random.Random(seed).shuffle(names)
    chosen = set(names[: max(1, round(HELD_OUT * len(names)))])
    return [group in chosen for group in groups]
