"""How good the outputs are, for each task; labels that are not known take no part."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

CHOSEN_BY = {
    "classification": ("balanced_accuracy", 1),
    "multilabel": ("macro_auc", 1),
    "regression": ("mae", -1),
    "frames": ("balanced_accuracy", 1),
    "dense": ("mae", -1),
}
"""Task to the metric by which a run keeps its best pass, and the sign that makes larger better."""


def class_metrics(logits: Array, classes: NDArray[np.int64]) -> dict[str, float]:
    """Return accuracy, balanced accuracy and macro-F1.

    Args:
        logits: ``(rows, labels)``.
        classes: ``(rows,)``; all known.
    """
    from sklearn.metrics import f1_score

    chosen = logits.argmax(1)
    # Mean recall of the classes that occur; scikit-learn's warns where another class was predicted.
    recalls = [float((chosen[classes == c] == c).mean()) for c in np.unique(classes)]
    return {
        "accuracy": float((chosen == classes).mean()),
        "balanced_accuracy": float(np.mean(recalls)),
        "macro_f1": float(f1_score(classes, chosen, average="macro", zero_division=0)),
    }


def multilabel_metrics(logits: Array, present: Array) -> dict[str, float]:
    """Return macro-AUC and macro-F1 over the labels that can be scored, and how many those are.

    Args:
        logits: ``(rows, labels)``.
        present: ``(rows, labels)``: 1, 0, or NaN where not known. A label without both kinds cannot be scored; NaN
            where none can.
    """
    from sklearn.metrics import f1_score, roc_auc_score

    areas, scores = [], []
    for column in range(present.shape[1]):
        known = ~np.isnan(present[:, column])
        truth, logit = present[known, column].astype(int), logits[known, column]
        if len(set(truth)) == 2:
            areas.append(float(roc_auc_score(truth, logit)))
            scores.append(float(f1_score(truth, logit >= 0, zero_division=0)))
    return {
        "macro_auc": float(np.mean(areas)) if areas else math.nan,
        "macro_f1": float(np.mean(scores)) if scores else math.nan,
        "labels_scored": float(len(areas)),
    }


def number_metrics(values: Array, numbers: Array) -> dict[str, float]:
    """Return mean absolute error, root mean squared error and R2, each the mean over the labels that have targets.

    Args:
        values: ``(rows, labels)``, in the targets' units.
        numbers: ``(rows, labels)``, NaN where not known. R2 is NaN where a label's targets are all alike.
    """
    errors, roots, shares = [], [], []
    for value, number in zip(values.T, numbers.T, strict=True):
        known = ~np.isnan(number)
        if not known.any():
            continue
        residual = number[known] - value[known]
        spread = float(np.square(number[known] - number[known].mean()).sum())
        errors.append(float(np.abs(residual).mean()))
        roots.append(float(np.sqrt(np.square(residual).mean())))
        shares.append(1 - float(np.square(residual).sum()) / spread if spread else math.nan)
    return {
        "mae": float(np.mean(errors)) if errors else math.nan,
        "rmse": float(np.mean(roots)) if roots else math.nan,
        "r2": float(np.mean(shares)) if shares else math.nan,
    }


def ranking(task: str, metrics: dict[str, float]) -> tuple[float, float]:
    """Return what a better pass has more of: the task's metric, and of equal ones the lower loss."""
    name, sign = CHOSEN_BY[task]
    value = sign * metrics[name]
    return (value if math.isfinite(value) else -math.inf, -metrics["loss"])
