from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.evaluation.intervals import bootstrap_weights, percentile_interval, resampled_by_group, t_interval
from hub.evaluation.metrics import Prediction, metrics_of, weighted_metrics
from hub.evaluation.summary import FoldOutcome, confusion_of, natural_order, per_class, summarise


def random_prediction(seed: int, rows: int = 60, classes: int = 4, coarse: bool = False) -> Prediction:
    generator = np.random.default_rng(seed)
    names = np.array([f"c{i}" for i in range(classes)])
    truth = names[generator.integers(0, classes, rows)]
    scores = generator.normal(size=(rows, classes)) + (truth[:, None] == names)
    if coarse:
        scores = np.round(scores)  # ties
    return Prediction(truth, names[scores.argmax(1)], scores, names)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(2, 50), st.integers(2, 5), st.booleans())
def test_metrics_are_those_of_scikit_learn(seed, rows, classes, coarse) -> None:
    from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score

    p = random_prediction(seed, rows, classes, coarse)
    found = metrics_of(p)
    assert found["accuracy"] == pytest.approx(accuracy_score(p.truth, p.predicted))
    if set(p.predicted) <= set(p.truth):
        assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(p.truth, p.predicted))
    present = [c for c in range(classes) if 0 < (p.truth == p.classes[c]).sum() < rows]
    if present:
        expected = np.mean([roc_auc_score(p.truth == p.classes[c], p.scores[:, c]) for c in present])
        assert found["macro_auc"] == pytest.approx(expected)
    else:
        assert math.isnan(found["macro_auc"])


def test_a_weight_is_a_repeated_row() -> None:
    p = random_prediction(3, coarse=True)
    weights = np.random.default_rng(0).integers(0, 4, (5, len(p.truth))).astype(float)
    found = weighted_metrics(p, weights)
    for draw, weight in enumerate(weights.astype(int)):
        rows = np.repeat(np.arange(len(p.truth)), weight)
        repeated = metrics_of(Prediction(p.truth[rows], p.predicted[rows], p.scores[rows], p.classes))
        assert {k: v[draw] for k, v in found.items()} == pytest.approx(repeated)


def test_a_label_that_was_never_fitted_counts_as_wrong() -> None:
    p = Prediction(np.array(["a", "b", "z"]), np.array(["a", "b", "b"]), np.eye(3)[:, :2], np.array(["a", "b"]))
    found = metrics_of(p)
    assert found["accuracy"] == pytest.approx(2 / 3) and found["balanced_accuracy"] == pytest.approx(2 / 3)
    assert found["macro_auc"] == 1.0


def test_t_interval_by_hand() -> None:
    # Mean 0.8, standard deviation 0.1, three values: 4.302653 is the 97.5 % point of t with 2 degrees of freedom.
    low, high = t_interval([0.7, 0.8, 0.9, float("nan")])
    assert (low, high) == pytest.approx((0.8 - 4.302653 * 0.1 / 3**0.5, 0.8 + 4.302653 * 0.1 / 3**0.5), abs=1e-6)
    assert t_interval([0.7]) is None and t_interval([float("nan")] * 3) is None
    assert percentile_interval(np.array([np.nan, 1.0])) is None


def test_bootstrap_interval_of_an_accuracy_is_near_the_binomial_one() -> None:
    rows = 400
    right = np.arange(rows) < 320
    draws = np.concatenate([w @ right / w.sum(1) for w in bootstrap_weights(np.array([""] * rows), 4000)])
    low, high = percentile_interval(draws)
    half = 1.96 * (0.8 * 0.2 / rows) ** 0.5
    assert (low, high) == pytest.approx((0.8 - half, 0.8 + half), abs=0.006)


def test_bootstrap_draws_whole_groups_where_there_are_enough() -> None:
    groups = np.array([f"g{i // 3}" for i in range(36)])
    assert resampled_by_group(groups) and not resampled_by_group(groups[:27])
    weights = np.concatenate(list(bootstrap_weights(groups, 20)))
    assert weights.shape == (20, 36)
    assert (weights.reshape(20, 12, 3) == weights.reshape(20, 12, 3)[:, :, :1]).all()
    assert (np.concatenate(list(bootstrap_weights(groups[:27], 20))).sum(1) == 27).all()


def test_gain_is_paired_over_folds_and_over_draws() -> None:
    folds = [
        FoldOutcome({"model": [random_prediction(s)], "random_twin": [random_prediction(s)]}, np.array([""] * 60))
        for s in range(3)
    ]
    for chosen in (folds, folds[:1]):
        results, interval = summarise(chosen)
        line = results["gain_over_twin"]["macro_auc"]
        assert line["mean"] == 0 and line["interval"] == [0, 0]
        assert results["model"]["macro_auc"]["interval"][0] < results["model"]["macro_auc"]["interval"][1]
        assert ("folds" if len(chosen) > 1 else "bootstrap") in interval["method"]


def test_undefined_figures_are_null() -> None:
    one = np.array(["a"] * 4)
    p = Prediction(one, one, np.zeros((4, 2)), np.array(["a", "b"]))
    results, _ = summarise([FoldOutcome({"model": [p]}, np.array([""] * 4))])
    assert results["model"]["macro_auc"] == {"mean": None, "spread": 0.0, "interval": None, "folds": [None]}
    assert results["model"]["accuracy"]["mean"] == 1.0


def test_per_class_and_confusion_by_hand() -> None:
    truth, predicted = np.array(["2", "2", "10", "10"]), np.array(["2", "10", "10", "10"])
    p = Prediction(truth, predicted, np.zeros((4, 2)), np.array(["10", "2"]))
    outcome = FoldOutcome({"model": [p]}, np.array([""] * 4))
    table = per_class([outcome, outcome])
    assert list(table) == ["2", "10"]  # by value, not by spelling
    assert table["2"] == {"rows": 4, "recall": {"model": 0.5}, "precision": {"model": 1.0}}
    assert table["10"]["precision"]["model"] == pytest.approx(0.6667)
    labels, counts = confusion_of([outcome])
    assert labels == ["2", "10"] and counts.tolist() == [[1, 1], [0, 2]]
    assert natural_order(["b", "10", "a"]) == ["10", "a", "b"]
