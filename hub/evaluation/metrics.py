"""Accuracy, balanced accuracy and macro-AUC of predictions, for one weighting of the test rows or for many.

A bootstrap draw is a weighting: how often each row was drawn. So the figure and its resampled spread come from the same
few lines, and a thousand draws are one matrix product instead of a thousand calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Strings = NDArray[np.str_]

METRICS = ("accuracy", "balanced_accuracy", "macro_auc")


@dataclass(frozen=True)
class Prediction:
    """What a fitted probe says about the test rows of a fold.

    Attributes:
        truth: ``(rows,)`` labels.
        predicted: ``(rows,)`` labels.
        scores: ``(rows, classes)``; within a column, larger means likelier.
        classes: ``(classes,)`` labels that the probe was fitted on, in the order of the columns.
    """

    truth: Strings
    predicted: Strings
    scores: Floats
    classes: Strings


def metrics_of(prediction: Prediction) -> dict[str, float]:
    """Return each of ``METRICS``; NaN where it is undefined. See `weighted_metrics`."""
    weights = np.ones((1, len(prediction.truth)))
    return {name: float(values[0]) for name, values in weighted_metrics(prediction, weights).items()}


def weighted_metrics(prediction: Prediction, weights: Floats) -> dict[str, Floats]:
    """Return each metric under each weighting of the test rows.

    Balanced accuracy is the mean recall of the labels that are present. The AUC is one-against-rest, averaged over the
    labels that were fitted and are present beside another; it is NaN where there is none.

    Args:
        prediction: Of one fold.
        weights: ``(draws, rows)``, not negative, with a positive sum in each draw.

    Returns:
        Name to ``(draws,)``.
    """
    right = (prediction.predicted == prediction.truth).astype(np.float64)
    recalls = []
    for label in np.unique(prediction.truth):
        own = prediction.truth == label
        recalls.append(_ratio(weights[:, own] @ right[own], weights[:, own].sum(1)))
    aucs = [
        _auc(prediction.truth == label, prediction.scores[:, column], weights)
        for column, label in enumerate(prediction.classes)
    ]
    return {
        "accuracy": (weights @ right) / weights.sum(1),
        "balanced_accuracy": _present_mean(np.stack(recalls)),
        "macro_auc": _present_mean(np.stack(aucs)),
    }


def mean_metrics(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each metric over several variants of one contender."""
    return {name: sum(s[name] for s in scores) / len(scores) for name in scores[0]}


def _auc(positive: NDArray[np.bool_], scores: Floats, weights: Floats) -> Floats:
    """Return the weighted share of (positive, other) pairs in the right order, ties counting one half."""
    if positive.all() or not positive.any():
        return np.full(len(weights), np.nan)
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    own = np.add.reduceat(weights[:, order] * positive[order], starts, axis=1)
    other = np.add.reduceat(weights[:, order] * ~positive[order], starts, axis=1)
    below = np.cumsum(other, axis=1) - other
    return _ratio((own * (below + other / 2)).sum(1), own.sum(1) * other.sum(1))


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    return np.divide(numerator, denominator, out=np.full(len(numerator), np.nan), where=denominator > 0)


def _present_mean(values: Floats) -> Floats:
    """Mean over the first axis of what is not NaN; NaN where nothing is left."""
    present = ~np.isnan(values)
    return _ratio(np.where(present, values, 0.0).sum(0), present.sum(0).astype(np.float64))
