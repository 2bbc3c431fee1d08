"""Probes: simple classifiers on frozen embeddings."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hub.errors import UnsupportedOption
from hub.evaluation.metrics import Prediction
from hub.evaluation.neighbours import neighbour_votes
from hub.evaluation.splits import Fold, inner_split

Floats = NDArray[np.float64]
Strings = NDArray[np.str_]

PROBES = ("linear", "knn", "nb")

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2)
"""Values of C that a sweep tries, strongest regularisation first."""

DEFAULT_NEIGHBOURS = 5
VARIANCE_FLOOR = 1e-9
"""Added to each variance of naive Bayes: with one row a class all are 0, and every dimension then weighs the same."""


@dataclass(frozen=True)
class Probe:
    """Which classifier, and its options.

    Attributes:
        kind: ``linear`` (logistic regression), ``knn`` (cosine, weighted by similarity) or ``nb`` (Gaussian naive
            Bayes with shared variances), each on features standardised on the rows fitted.
        sweep: Choose the linear probe's C on a held-out part of the train rows; C=1 otherwise.
        neighbours: k of ``knn``; ``None`` for 5, or the rows of the rarest class where those are fewer.
        temperature: T of ``knn``.

    Raises:
        UnsupportedOption: There is no such probe, or it has no such option.
    """

    kind: str = "linear"
    sweep: bool = False
    neighbours: int | None = None
    temperature: float = 0.1

    def __post_init__(self) -> None:
        if self.kind not in PROBES:
            raise UnsupportedOption(f"probe {self.kind!r} is none of {', '.join(PROBES)}", param="probe")
        if self.sweep and self.kind != "linear":
            raise UnsupportedOption(f"only the linear probe has a C to sweep, not {self.kind}", param="sweep")
        if self.neighbours is not None and self.kind != "knn":
            raise UnsupportedOption(f"only the knn probe has neighbours, not {self.kind}", param="neighbours")
        if self.neighbours is not None and self.neighbours < 1:
            raise UnsupportedOption(f"neighbours={self.neighbours}: at least 1 is needed", param="neighbours")
        if not self.temperature > 0:
            raise UnsupportedOption(f"temperature={self.temperature}: it must be positive", param="temperature")


def probe_fold(
    probe: Probe, features: ArrayLike, labels: Strings, groups: Strings, fold: Fold, seed: int = 0
) -> tuple[Prediction, float | None]:
    """Fit on a fold's train part and predict its test part.

    Args:
        probe: The classifier.
        features: ``(rows, dimension)`` of the whole set.
        labels: ``(rows,)``.
        groups: ``(rows,)``, empty strings where there are none.
        fold: What to fit and test on.
        seed: Of the part held out by a sweep.

    Returns:
        The prediction, and the C of a linear probe.

    Raises:
        InvalidManifest: A sweep finds nothing to hold out.
    """
    values = np.asarray(features, np.float64)
    strength = None
    if probe.kind == "linear":
        strength = _sweep(values, labels, *inner_split(fold, labels, groups, seed)) if probe.sweep else 1.0
    scores, classes = _fit_and_score(probe, strength, values[fold.train], labels[fold.train], values[fold.test])
    return Prediction(labels[fold.test], classes[scores.argmax(1)], scores, classes), strength


def _fit_and_score(
    probe: Probe, strength: float | None, train: Floats, labels: Strings, test: Floats
) -> tuple[Floats, Strings]:
    train, test = _standardised(train, test)
    if probe.kind == "knn":
        rarest = int(np.unique(labels, return_counts=True)[1].min())
        return neighbour_votes(
            train, labels, test, probe.neighbours or min(DEFAULT_NEIGHBOURS, rarest), probe.temperature
        )
    if probe.kind == "nb":
        return _naive_bayes(train, labels, test)
    classifier = _logistic(strength)
    _fit(classifier, train, labels)
    return _log_odds(_logits(classifier, test)), classifier.classes_


def _naive_bayes(train: Floats, labels: Strings, test: Floats) -> tuple[Floats, Strings]:
    """Gaussian naive Bayes with one variance a dimension, which all classes share.

    Zheng et al. 2023, "Revisiting discriminative vs. generative classifiers": the counterpart of logistic regression
    that needs O(log dimension) rows. scikit-learn's has a variance for each class, which few shots cannot
    tell.
    """
    from scipy.spatial.distance import cdist

    classes, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    priors = counts / len(labels)
    rows = [train[codes == code] for code in range(len(classes))]
    means = np.stack([some.mean(0) for some in rows])
    variance = priors @ np.stack([some.var(0) for some in rows]) + VARIANCE_FLOOR
    distances = cdist(test / np.sqrt(variance), means / np.sqrt(variance), "sqeuclidean")
    return _log_odds(np.log(priors) - 0.5 * distances), classes


def _sweep(features: Floats, labels: Strings, fit: NDArray[np.int64], valid: NDArray[np.int64]) -> float:
    """Return the C with the best balanced accuracy on the validation rows, the strongest regularisation of equals."""
    train, held_out = _standardised(features[fit], features[valid])
    truth = labels[valid]
    # Every step starts where the last one ended, which is near.
    classifier = _logistic(STRENGTHS[0], warm_start=True)
    best, chosen = -1.0, STRENGTHS[0]
    for strength in STRENGTHS:
        _fit(classifier.set_params(C=strength), train, labels[fit])
        right = classifier.predict(held_out) == truth
        score = float(np.mean([right[truth == label].mean() for label in np.unique(truth)]))
        if score > best:
            best, chosen = score, strength
    return chosen


def _standardised(train: Floats, test: Floats) -> tuple[Floats, Floats]:
    """Centre and scale by the train rows alone; a constant column becomes zero, not noise."""
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(train)
    return scaler.transform(train), scaler.transform(test)


def _logistic(strength: float | None, **options: Any) -> Any:
    from sklearn.linear_model import LogisticRegression

    # lbfgs in float64: in float32 its line search gives up on nearly collinear columns.
    return LogisticRegression(C=strength, max_iter=2000, **options)


def _fit(classifier: Any, features: Floats, labels: Strings) -> None:
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(features, labels)


def _logits(classifier: Any, features: Floats) -> Floats:
    decision = classifier.decision_function(features)
    # Of two classes scikit-learn gives one column: the second class's logit above the first's.
    return np.stack([np.zeros_like(decision), decision], axis=1) if decision.ndim == 1 else decision


def _log_odds(joint: Floats) -> Floats:
    """Log-odds of each class against all others, ``(rows, classes)``.

    They order the rows as the posterior does, without its ties at exactly 0 and 1, which would spoil an AUC.
    """
    from scipy.special import logsumexp

    others = [logsumexp(np.delete(joint, column, axis=1), axis=1) for column in range(joint.shape[1])]
    return joint - np.stack(others, axis=1)
