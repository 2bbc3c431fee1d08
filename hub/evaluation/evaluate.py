"""A model on a labelled set, beside its random twins and the domain's simple baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.embedder import Embedder
from hub.evaluation.contenders import Features, Key, embed_contenders
from hub.evaluation.geometry import alignment, label_free_figures, label_pairs
from hub.evaluation.metrics import Prediction
from hub.evaluation.probes import Probe, probe_fold
from hub.evaluation.report import Evaluation, write_report
from hub.evaluation.retrieval import retrieval
from hub.evaluation.splits import folds_of
from hub.evaluation.summary import FoldOutcome, confusion_of, per_class, rounded, summarise
from hub.finetuning.run import preset_of
from hub.manifest import Row, read_manifest
from hub.modeling import Layer

Strings = NDArray[np.str_]


@dataclass(frozen=True)
class LabelledSet:
    """One manifest: its rows, and for each its label, its group and where its sample is in the feature matrices."""

    rows: list[Row]
    labels: Strings
    groups: Strings
    where: NDArray[np.int64]


def evaluate(
    embedder: Embedder,
    manifests: Sequence[str | Path],
    *,
    probe: str = "linear",
    sweep: bool = False,
    neighbours: int | None = None,
    temperature: float = 0.1,
    folds: int = 5,
    shots: int | None = None,
    seed: int = 0,
    twins: int = 3,
    pooling: str | None = None,
    layer: Layer = None,
    report: str | Path | None = None,
) -> dict[str, Any]:
    """Measure a model's frozen embeddings.

    Args:
        embedder: The model.
        manifests: One labelled set, or several that each add their folds (the draws of a few-shot protocol).
        probe: ``linear``, ``knn`` or ``nb``.
        sweep: See `hub.evaluation.probes.Probe`, as for the next two.
        neighbours: k of ``knn``.
        temperature: T of ``knn``.
        folds: Folds of a set without a split column.
        shots: Rows of each class to fit on, or ``None`` for all.
        seed: Of the folds, the twins and the resampling.
        twins: Random initialisations of the same architecture to compare with; each fold takes their mean.
        pooling: As for ``embed``, but one vector a sample.
        layer: As for ``embed``.
        report: Folder to write a report to; made if absent.

    Returns:
        JSON-able. Under ``results``, for ``model``, ``random_twin`` and ``baseline``, each metric's mean, its standard
        deviation over the folds, the values, and a confidence interval; and ``gain_over_twin``, the same for the paired
        difference. Beside them ``retrieval``, ``label_free``, ``per_class``, and ``notes`` on how to read them. What is
        undefined is ``None``.

    Raises:
        InvalidManifest: A set cannot be read or split.
        InvalidInput: A file of a set cannot be used.
        UnsupportedOption: There is no such probe, pooling or layer, or it has no such option.
    """
    options = Probe(probe, sweep, neighbours, temperature)
    paths = [Path(path) for path in manifests]
    sets, keys = _read_sets(paths, embedder)
    # Sets that cannot be split are refused before anything is embedded.
    planned = [(labelled, list(folds_of(labelled.rows, folds, seed, shots))) for labelled in sets]
    notes: list[str] = []
    contenders = embed_contenders(
        embedder, keys, twins=twins, seed=seed, pooling=pooling, layer=layer, on_note=notes.append
    )

    outcomes: list[FoldOutcome] = []
    strengths: dict[str, list[float | None]] = {name: [] for name in contenders}
    for labelled, planned_folds in planned:
        own = {name: [f[labelled.where] for f in variants] for name, variants in contenders.items()}
        for fold in planned_folds:
            predictions: dict[str, list[Prediction]] = {}
            for name, variants in own.items():
                fitted = [probe_fold(options, f, labelled.labels, labelled.groups, fold, seed) for f in variants]
                predictions[name] = [prediction for prediction, _ in fitted]
                strengths[name] += [strength for _, strength in fitted]
            outcomes.append(FoldOutcome(predictions, labelled.groups[fold.test]))

    results, interval = summarise(outcomes, seed)
    summary: dict[str, Any] = {
        "model": embedder.name,
        "manifests": [path.name for path in paths],
        "probe": probe,
        "shots": shots,
        "seed": seed,
        "rows": len(keys),
        "classes": len({label for s in sets for label in s.labels}),
        "groups": len({group for s in sets for group in s.groups if group}),
        "folds": len(outcomes),
        "settings": {
            "sweep": sweep,
            "neighbours": neighbours,
            "temperature": temperature if probe == "knn" else None,
            "folds": folds,
            "twins": twins,
            "pooling": pooling,
            "layer": layer,
        },
        "interval": interval,
        "results": results,
        "retrieval": {name: _mean([_retrieval(f, sets) for f in v]) for name, v in contenders.items()},
        "label_free": {name: _mean([_geometry(f, sets, seed) for f in v]) for name, v in contenders.items()},
        "per_class": per_class(outcomes),
        "notes": notes,
    }
    if sweep:
        summary["chosen_c"] = strengths
    if report is not None:
        first = {name: variants[0] for name, variants in contenders.items()}
        write_report(Path(report), Evaluation(summary, first, _labels_of(sets, len(keys)), *confusion_of(outcomes)))
    return summary


def _read_sets(manifests: Sequence[Path], embedder: Embedder) -> tuple[list[LabelledSet], list[Key]]:
    rows = [read_manifest(path, need=("file", "label")) for path in manifests]
    if (complete := preset_of(embedder.system.domain).rows) is not None:
        # As for fine-tuning, a row means what its domain says. Groups are the set's own: here it need not have any.
        rows = [complete(own, True) for own in rows]
    positions: dict[Key, int] = {}
    sets = []
    for own in rows:
        where = [positions.setdefault((r.file, r.span, r.item), len(positions)) for r in own]
        labels, groups = np.array([r.label for r in own]), np.array([r.group for r in own])
        sets.append(LabelledSet(own, labels, groups, np.array(where)))
    return sets, list(positions)


def _labels_of(sets: Sequence[LabelledSet], rows: int) -> Strings:
    """Label of each row of the feature matrices; of one that several sets label, the last."""
    labels = np.empty(rows, object)
    for labelled in sets:
        labels[labelled.where] = labelled.labels
    return labels.astype(str)


def _retrieval(features: Features, sets: Sequence[LabelledSet]) -> dict[str, float]:
    from sklearn.preprocessing import StandardScaler

    # Standardised, without labels, as the probes do: simple features have a unit each, and cosines of mixed units
    # would make any model look good beside them.
    values = StandardScaler().fit_transform(np.asarray(features, np.float64))
    # Draws of one set differ in their split only, which retrieval does not use.
    distinct = {(s.where.tobytes(), s.labels.tobytes(), s.groups.tobytes()): s for s in sets}
    return _mean_of([retrieval(values[s.where], s.labels, s.groups) for s in distinct.values()])


def _geometry(features: Features, sets: Sequence[LabelledSet], seed: int) -> dict[str, float]:
    figures = label_free_figures(features, seed=seed)
    first, second = label_pairs(sets[0].labels, seed)
    own = features[sets[0].where]
    figures["label_alignment"] = alignment(own[first], own[second]) if len(first) else float("nan")
    return figures


def _mean_of(figures: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([f[name] for f in figures])) for name in figures[0]}


def _mean(figures: Sequence[dict[str, float]]) -> dict[str, float | None]:
    return {name: rounded(value) for name, value in _mean_of(figures).items()}
