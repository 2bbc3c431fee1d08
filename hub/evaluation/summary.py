"""Predictions of all folds to tables: mean, spread and interval of each metric, each class's recall, confusions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.evaluation.intervals import (
    DRAWS,
    LEVEL,
    Interval,
    bootstrap_weights,
    percentile_interval,
    resampled_by_group,
    t_interval,
)
from hub.evaluation.metrics import METRICS, Prediction, mean_metrics, metrics_of, weighted_metrics

GAIN = "gain_over_twin"


@dataclass(frozen=True)
class FoldOutcome:
    """One fold's predictions: for each contender those of its variants, and the groups of the test rows."""

    predictions: dict[str, list[Prediction]]
    groups: NDArray[np.str_]


def summarise(outcomes: Sequence[FoldOutcome], seed: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return each contender's metrics over the folds, with the model's paired gain over its twin; and the method.

    A fold's figure of a contender is the mean over its variants. Over several folds the interval is Student's t of
    those figures; a single fold is resampled instead, every contender by the same draws.

    Args:
        outcomes: At least one fold, all with the same contenders.
        seed: Of the resampling.
    """
    scores = {
        name: [mean_metrics([metrics_of(p) for p in fold.predictions[name]]) for fold in outcomes]
        for name in outcomes[0].predictions
    }
    if "random_twin" in scores:
        pairs = zip(scores["model"], scores["random_twin"], strict=True)
        scores[GAIN] = [{name: a[name] - b[name] for name in METRICS} for a, b in pairs]
    draws = _bootstrap(outcomes[0], seed) if len(outcomes) == 1 else None
    results = {
        name: {metric: _line([f[metric] for f in folds], draws[name][metric] if draws else None) for metric in METRICS}
        for name, folds in scores.items()
    }
    if len(outcomes) > 1:
        method = f"Student's t over {len(outcomes)} folds"
    else:
        unit = "groups" if resampled_by_group(outcomes[0].groups) else "rows"
        method = f"bootstrap of {DRAWS} draws over the test {unit}"
    return results, {"level": LEVEL, "method": method}


def _line(values: Sequence[float], draws: NDArray[np.float64] | None) -> dict[str, Any]:
    finite = [v for v in values if math.isfinite(v)]
    interval: Interval | None = t_interval(values) if draws is None else percentile_interval(draws)
    return {
        "mean": rounded(float(np.mean(finite))) if finite else None,
        "spread": rounded(float(np.std(finite, ddof=1))) if len(finite) > 1 else 0.0,
        "interval": [rounded(end) for end in interval] if interval else None,
        "folds": [rounded(v) for v in values],
    }


def _bootstrap(fold: FoldOutcome, seed: int) -> dict[str, dict[str, NDArray[np.float64]]]:
    blocks: dict[str, dict[str, list[NDArray[np.float64]]]] = {
        name: {metric: [] for metric in METRICS} for name in fold.predictions
    }
    for weights in bootstrap_weights(fold.groups, seed=seed):
        for name, variants in fold.predictions.items():
            resampled = [weighted_metrics(p, weights) for p in variants]
            for metric in METRICS:
                blocks[name][metric].append(np.mean([r[metric] for r in resampled], axis=0))
    draws = {name: {m: np.concatenate(b) for m, b in metrics.items()} for name, metrics in blocks.items()}
    if "random_twin" in draws:
        draws[GAIN] = {m: draws["model"][m] - draws["random_twin"][m] for m in METRICS}
    return draws


def natural_order(labels: Sequence[str]) -> list[str]:
    """Sort labels by value where all are numbers, and by name otherwise."""
    try:
        return sorted(labels, key=lambda label: (float(label), label))
    except ValueError:
        return sorted(labels)


def per_class(outcomes: Sequence[FoldOutcome]) -> dict[str, dict[str, Any]]:
    """Return for each tested label the number of tests, and each contender's recall and precision over all folds.

    A row that several folds test counts in each. The precision of a label that was never predicted is ``None``.
    """
    labels = natural_order(list({label for fold in outcomes for label in _any(fold).truth.tolist()}))
    table: dict[str, dict[str, Any]] = {}
    for label in labels:
        rows = sum(int((_any(fold).truth == label).sum()) for fold in outcomes)
        entry: dict[str, Any] = {"rows": rows, "recall": {}, "precision": {}}
        for name in outcomes[0].predictions:
            predictions = [p for fold in outcomes for p in fold.predictions[name]]
            right = sum(int(((p.predicted == label) & (p.truth == label)).sum()) for p in predictions)
            said = sum(int((p.predicted == label).sum()) for p in predictions)
            entry["recall"][name] = rounded(right / sum(int((p.truth == label).sum()) for p in predictions))
            entry["precision"][name] = rounded(right / said) if said else None
        table[label] = entry
    return table


def confusion_of(outcomes: Sequence[FoldOutcome]) -> tuple[list[str], NDArray[np.int64]]:
    """Return the labels, and how often the model gave each (columns) to rows of each (rows), over all folds."""
    predictions = [p for fold in outcomes for p in fold.predictions["model"]]
    labels = natural_order(list({label for p in predictions for label in (*p.truth.tolist(), *p.predicted.tolist())}))
    number = {label: index for index, label in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels)), np.int64)
    for p in predictions:
        for truth, predicted in zip(p.truth.tolist(), p.predicted.tolist(), strict=True):
            counts[number[truth], number[predicted]] += 1
    return labels, counts


def rounded(value: float) -> float | None:
    """Round to what is worth printing; ``None`` for what is not finite, for which JSON has no word."""
    return round(float(value), 4) if math.isfinite(value) else None


def _any(fold: FoldOutcome) -> Prediction:
    return next(iter(fold.predictions.values()))[0]
