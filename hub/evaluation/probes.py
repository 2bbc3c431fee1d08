"""Probes: simple classifiers on frozen embeddings, and their metrics."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.errors import UnsupportedOption

PROBES = ("linear", "knn", "nb")


def make_probe(kind: str, smallest_class: int) -> Any:
    """Return an unfitted scikit-learn classifier.

    Args:
        kind: ``linear`` (logistic regression, C=1), ``knn`` (cosine, weighted by similarity) or ``nb`` (Gaussian
            naive Bayes), each on standardised features.
        smallest_class: Rows of the rarest class to fit on, which bounds k.

    Raises:
        UnsupportedOption: There is no such probe.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import GaussianNB
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if kind == "linear":
        classifier: Any = LogisticRegression(C=1.0, max_iter=2000)
    elif kind == "knn":
        classifier = KNeighborsClassifier(
            n_neighbors=max(1, min(5, smallest_class)), metric="cosine", weights=_similarity_weights
        )
    elif kind == "nb":
        classifier = GaussianNB()
    else:
        raise UnsupportedOption(f"probe {kind!r} is none of {', '.join(PROBES)}", param="probe")
    return make_pipeline(StandardScaler(), classifier)


def _similarity_weights(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    # exp(similarity / 0.1): the usual weighting of nearest-neighbour probes of self-supervised features.
    return np.exp((1.0 - distances) / 0.1)


def probe_fold(
    kind: str,
    features: NDArray[np.float32],
    labels: NDArray[np.str_],
    train: NDArray[np.int64],
    test: NDArray[np.int64],
) -> dict[str, float]:
    """Fit on one part, test on the other; return accuracy, balanced accuracy and macro-AUC.

    The AUC is one-against-rest, averaged over the classes that the test part holds beside another class; it is NaN
    where there is none.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score

    counts = np.unique(labels[train], return_counts=True)[1]
    probe = make_probe(kind, int(counts.min()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe.fit(features[train], labels[train])
    predicted = probe.predict(features[test])
    scores = probe.predict_proba(features[test])
    aucs = [
        roc_auc_score(labels[test] == name, scores[:, column])
        for column, name in enumerate(probe.classes_)
        if 0 < (labels[test] == name).sum() < len(test)
    ]
    return {
        "accuracy": float(accuracy_score(labels[test], predicted)),
        "balanced_accuracy": float(balanced_accuracy_score(labels[test], predicted)),
        "macro_auc": float(np.mean(aucs)) if aucs else float("nan"),
    }
