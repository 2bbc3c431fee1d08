"""A model on a labelled set, beside its random twins and the domain's simple baseline."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.embedder import Embedder
from hub.errors import InvalidManifest
from hub.evaluation.probes import probe_fold
from hub.evaluation.splits import Fold, folds_of
from hub.manifest import read_manifest
from hub.modeling import Layer
from hub.reading import Sample, Source

Features = NDArray[np.float32]


def evaluate(
    embedder: Embedder,
    manifests: Sequence[Path],
    *,
    probe: str = "linear",
    folds: int = 5,
    shots: int | None = None,
    seed: int = 0,
    twins: int = 3,
    pooling: str | None = None,
    layer: Layer = None,
) -> dict[str, Any]:
    """Probe a model's frozen embeddings.

    Args:
        embedder: The model.
        manifests: One labelled set, or several that each add their folds (the draws of a few-shot protocol).
        probe: ``linear``, ``knn`` or ``nb``.
        folds: Folds of a set without a split column.
        shots: Rows of each class to fit on, or ``None`` for all.
        seed: Of the folds.
        twins: Random initialisations of the same architecture to compare with; each fold takes their mean.
        pooling: As for ``embed``.
        layer: As for ``embed``.

    Returns:
        For ``model``, ``random_twin`` and ``baseline``: each metric's mean, its standard deviation over the folds and
        the values; and ``gain_over_twin``, the same for the paired difference.

    Raises:
        InvalidManifest: A set cannot be read or split.
        InvalidInput: A file of a set cannot be used.
    """
    sets = [read_manifest(path, need=("file", "label")) for path in manifests]
    rows = list(dict.fromkeys((r.file, r.span, r.item) for s in sets for r in s))
    positions = {row: number for number, row in enumerate(rows)}
    samples = list(_samples(embedder, rows))

    def embed(model: Embedder) -> Features:
        return np.asarray(model.embed(samples, pooling=pooling, layer=layer))

    contenders: dict[str, list[Features]] = {"model": [embed(embedder)]}
    if twins:
        contenders["random_twin"] = [embed(embedder.random_twin(seed + i)) for i in range(twins)]
    domain = embedder.system.domain
    if "baseline" in domain.references:
        baseline: Callable[[Sample], Any] = domain.load("baseline")
        contenders["baseline"] = [np.stack([np.asarray(baseline(s), np.float32) for s in samples])]

    scores: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for labelled in sets:
        labels = np.array([r.label for r in labelled])
        where = np.array([positions[r.file, r.span, r.item] for r in labelled])
        for fold in folds_of(labelled, folds, seed, shots):
            for name, variants in contenders.items():
                scores[name].append(_mean([_score(probe, f[where], labels, fold) for f in variants]))
    report: dict[str, Any] = {
        "model": embedder.name,
        "manifests": [path.name for path in manifests],
        "probe": probe,
        "shots": shots,
        "seed": seed,
        "rows": len(rows),
        "classes": len({r.label for s in sets for r in s}),
        "folds": len(scores["model"]),
        "results": {name: _summary(values) for name, values in scores.items()},
    }
    if twins:
        pairs = zip(scores["model"], scores["random_twin"], strict=True)
        report["results"]["gain_over_twin"] = _summary([{k: a[k] - b[k] for k in a} for a, b in pairs])
    return report


def _score(probe: str, features: Features, labels: NDArray[np.str_], fold: Fold) -> dict[str, float]:
    return probe_fold(probe, features, labels, fold.train, fold.test)


def _samples(embedder: Embedder, rows: Sequence[tuple[Path, Any, str]]) -> Iterator[Sample]:
    read: dict[tuple[Path, Any], list[Sample]] = {}
    for file, span, item in rows:
        if (file, span) not in read:
            # Rows of one file come together in every manifest worth reading, so one file is kept.
            read = {(file, span): list(embedder.read(Source.from_path(file), span))}
        found = [s for s in read[file, span] if not item or s.key == item]
        if len(found) != 1:
            keys = ", ".join(s.key for s in read[file, span][:5])
            raise InvalidManifest(
                f"{file}: item {item!r} names {len(found)} of its {len(read[file, span])} samples"
                + (f" (their keys begin {keys})" if keys else "")
            )
        yield found[0]


def _mean(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: sum(s[name] for s in scores) / len(scores) for name in scores[0]}


def _summary(folds: Sequence[dict[str, float]]) -> dict[str, dict[str, Any]]:
    summary = {}
    for name in folds[0]:
        values = [f[name] for f in folds]
        finite = [v for v in values if math.isfinite(v)]
        summary[name] = {
            "mean": round(float(np.mean(finite)), 4) if finite else None,
            "spread": round(float(np.std(finite, ddof=1)), 4) if len(finite) > 1 else 0.0,
            "folds": [round(v, 4) if math.isfinite(v) else None for v in values],
        }
    return summary
