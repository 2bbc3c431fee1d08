from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.errors import UnsupportedOption
from hub.evaluation.metrics import metrics_of
from hub.evaluation.neighbours import neighbour_votes
from hub.evaluation.probes import STRENGTHS, Probe, probe_fold
from hub.evaluation.splits import Fold, folds_of, inner_split
from hub.manifest import Row


def blobs(seed: int = 0, rows: int = 150, width: int = 12, classes: int = 3, margin: float = 1.0):
    generator = np.random.default_rng(seed)
    labels = np.arange(rows) % classes
    centres = margin * generator.normal(size=(classes, width))
    features = (centres[labels] + generator.normal(size=(rows, width))) * np.exp(generator.normal(size=width))
    return features.astype(np.float32), labels.astype(str), np.array([""] * rows)


def halves(rows: int) -> Fold:
    order = np.random.default_rng(0).permutation(rows)
    return Fold(order[: rows // 2], order[rows // 2 :])


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("kind", ["linear", "knn"])
def test_a_probe_is_its_scikit_learn_namesake(kind, classes) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score, roc_auc_score
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, labels, groups = blobs(classes=classes, margin=0.4)
    fold = halves(len(labels))
    reference = {
        "linear": LogisticRegression(C=1.0, max_iter=2000),
        "knn": KNeighborsClassifier(5, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.1)),
    }[kind]
    pipe = make_pipeline(StandardScaler(), reference)
    pipe.fit(features[fold.train].astype(np.float64), labels[fold.train])
    test = features[fold.test].astype(np.float64)
    prediction, strength = probe_fold(Probe(kind), features, labels, groups, fold)
    found, chances = metrics_of(prediction), pipe.predict_proba(test)
    assert found["accuracy"] == pytest.approx(accuracy_score(labels[fold.test], pipe.predict(test)), abs=1e-3)
    aucs = [roc_auc_score(labels[fold.test] == c, chances[:, i]) for i, c in enumerate(pipe.classes_)]
    assert found["macro_auc"] == pytest.approx(np.mean(aucs), abs=1e-3)
    assert strength == (1.0 if kind == "linear" else None)


def test_naive_bayes_is_the_posterior_of_gaussians_of_one_variance() -> None:
    from scipy.special import logsumexp
    from scipy.stats import norm

    features, labels, groups = blobs(classes=3, margin=0.3)
    fold = halves(len(labels))
    prediction, _ = probe_fold(Probe("nb"), features, labels, groups, fold)
    train, test = features[fold.train].astype(np.float64), features[fold.test].astype(np.float64)
    train, test = (train - train.mean(0)) / train.std(0), (test - train.mean(0)) / train.std(0)
    names, counts = np.unique(labels[fold.train], return_counts=True)
    own = [train[labels[fold.train] == name] for name in names]
    spread = np.sqrt(sum(len(rows) * rows.var(0) for rows in own) / len(train))
    joint = np.stack([norm.logpdf(test, rows.mean(0), spread).sum(1) for rows in own], 1) + np.log(counts / len(train))
    posterior = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
    np.testing.assert_allclose(1 / (1 + np.exp(-prediction.scores)), posterior, rtol=1e-6, atol=1e-12)


def test_naive_bayes_of_one_shot_takes_the_nearest_example() -> None:
    features, labels, groups = blobs(rows=60, width=5, classes=4, margin=3.0)
    fold = Fold(np.arange(4), np.arange(4, 60))
    prediction, _ = probe_fold(Probe("nb"), features, labels, groups, fold)
    scale = features[:4].std(0)
    nearest = (((features[4:, None] - features[None, :4]) / scale) ** 2).sum(-1).argmin(1)
    assert (prediction.predicted == labels[:4][nearest]).mean() == 1.0


def test_naive_bayes_keeps_its_order_where_posteriors_saturate() -> None:
    """In 500 dimensions every posterior is 0 or 1, so an AUC of probabilities would be made of ties."""
    generator = np.random.default_rng(0)
    labels = np.arange(200) % 2
    features = generator.normal(size=(200, 500)) + 0.02 * labels[:, None]
    prediction, _ = probe_fold(Probe("nb"), features, labels.astype(str), np.array([""] * 200), halves(200))
    assert len(np.unique(prediction.scores[:, 0])) == 100


@pytest.mark.parametrize("kind", ["linear", "knn", "nb"])
def test_constant_columns_and_collapsed_features_do_no_harm(kind) -> None:
    features, labels, groups = blobs()
    fold = halves(len(labels))
    plain, _ = probe_fold(Probe(kind), features, labels, groups, fold)
    padded = np.concatenate([features, np.full((len(features), 2), 0.1, np.float32)], axis=1)
    with_constants, _ = probe_fold(Probe(kind), padded, labels, groups, fold)
    np.testing.assert_allclose(plain.scores, with_constants.scores, atol=1e-6)
    assert (plain.predicted == with_constants.predicted).all()
    collapsed, _ = probe_fold(Probe(kind), np.ones_like(features), labels, groups, fold)
    assert np.isfinite(collapsed.scores).all()
    assert metrics_of(collapsed)["macro_auc"] == 0.5


@pytest.mark.parametrize("kind", ["linear", "knn", "nb"])
def test_one_shot(kind) -> None:
    features, labels, groups = blobs(margin=4.0)
    prediction, _ = probe_fold(Probe(kind), features, labels, groups, Fold(np.arange(3), np.arange(3, 150)))
    assert metrics_of(prediction)["accuracy"] > 0.9


# --- neighbours ---------------------------------------------------------------------------------------------------


def test_votes_by_hand() -> None:
    bank = np.array([[1, 0], [2, 0], [0, 3], [-1, 0]])
    votes, classes = neighbour_votes(bank, np.array(["x", "y", "y", "z"]), np.array([[5.0, 0]]), k=3, temperature=0.5)
    # Two rows at similarity 1, one at 0.
    e2, e0 = np.exp(2), 1.0
    assert classes.tolist() == ["x", "y", "z"]
    np.testing.assert_allclose(votes, [[e2 / (2 * e2 + e0), (e2 + e0) / (2 * e2 + e0), 0]])


def test_rows_that_tie_for_the_last_place_share_it() -> None:
    bank = np.array([[1, 0], [1, 1], [1, -1], [-1, 0]])
    votes, _ = neighbour_votes(bank, np.array(list("abcd")), np.array([[1.0, 0]]), k=2, temperature=1.0)
    near, tied = np.exp(1), np.exp(0.5**0.5)
    np.testing.assert_allclose(votes, [[near, tied / 2, tied / 2, 0] / (near + tied)])


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1000), st.integers(1, 40), st.integers(1, 6), st.floats(1e-3, 1e3))
def test_votes_do_not_depend_on_row_order_or_scale(seed, k, distinct, scale) -> None:
    generator = np.random.default_rng(seed)
    bank = generator.normal(size=(distinct, 4))[generator.integers(0, distinct, 20)]  # with repeated rows: ties
    labels = generator.integers(0, 3, 20).astype(str)
    queries = np.concatenate([generator.normal(size=(5, 4)), np.zeros((1, 4))])
    votes, classes = neighbour_votes(bank, labels, queries, k)
    order = generator.permutation(20)
    shuffled, again = neighbour_votes(bank[order] * scale, labels[order], queries * scale, k)
    assert (classes == again).all()
    np.testing.assert_allclose(votes, shuffled, atol=1e-6)
    np.testing.assert_allclose(votes.sum(1), 1)


def test_a_collapsed_bank_votes_by_the_frequency_of_its_labels() -> None:
    votes, _ = neighbour_votes(np.zeros((4, 3)), np.array(["a", "a", "a", "b"]), np.ones((1, 3)), k=2)
    np.testing.assert_allclose(votes, [[0.75, 0.25]])


def test_small_temperatures_do_not_overflow_and_impossible_options_are_refused() -> None:
    votes, _ = neighbour_votes(np.eye(3), np.array(list("abc")), np.eye(3), k=99, temperature=1e-6)
    np.testing.assert_allclose(votes, np.eye(3))
    for options in ({"k": 0}, {"temperature": 0.0}):
        with pytest.raises(ValueError, match="positive"):
            neighbour_votes(np.eye(2), np.array(["a", "b"]), np.eye(2), **options)


@pytest.mark.parametrize(("k", "temperature"), [(20, 0.1), (5, 0.07)])
def test_golden_rankings_of_neighbours(golden, k, temperature) -> None:
    tensors, _ = golden
    labels = tensors["knn/labels"].astype(str)
    votes, classes = neighbour_votes(tensors["knn/bank"], labels, tensors["knn/query"], k, temperature)
    ranking = tensors[f"knn/predicted_ranking_k{k}_t{temperature}"]
    assert classes.tolist() == ["0", "1", "2", "3"]
    np.testing.assert_array_equal(votes.argmax(1), ranking[:, 0])
    # Classes without a vote are in any order in the recording.
    np.testing.assert_allclose(np.take_along_axis(votes, ranking, 1), -np.sort(-votes, axis=1), atol=1e-12)


# --- the sweep ----------------------------------------------------------------------------------------------------


def test_the_sweep_chooses_the_best_strength_on_held_out_rows() -> None:
    """Few rows, many noisy columns: strong regularisation wins on held-out rows, and the sweep finds it."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    features, labels, groups = blobs(1, rows=90, width=60, margin=0.25)
    fold = halves(90)
    _, chosen = probe_fold(Probe(sweep=True), features, labels, groups, fold)
    fit, valid = inner_split(fold, labels, groups)
    scaler = StandardScaler().fit(features[fit].astype(float))
    train, held_out = scaler.transform(features[fit].astype(float)), scaler.transform(features[valid].astype(float))
    scores = []
    for strength in STRENGTHS:
        right = LogisticRegression(C=strength, max_iter=2000).fit(train, labels[fit]).predict(held_out) == labels[valid]
        scores.append(np.mean([right[labels[valid] == label].mean() for label in np.unique(labels[valid])]))
    assert chosen == STRENGTHS[int(np.argmax(scores))]


def test_the_sweep_never_sees_test_rows() -> None:
    """Test rows that cannot be computed with do not stop the choice, and other labels there do not change it."""
    features, labels, groups = blobs(2, margin=0.3)
    fold = halves(len(labels))
    prediction, chosen = probe_fold(Probe(sweep=True), features, labels, groups, fold)
    flipped = labels.copy()
    flipped[fold.test] = np.roll(labels[fold.test], 1)
    other = features.copy()
    other[fold.test] *= 100
    for changed, names in ((features, flipped), (other, labels)):
        _, again = probe_fold(Probe(sweep=True), changed, names, groups, fold)
        assert again == chosen
    poisoned = features.copy()
    poisoned[fold.test] = np.nan
    with pytest.raises(ValueError, match="NaN"):  # at the prediction only, which is what the next lines show
        probe_fold(Probe(sweep=True), poisoned, labels, groups, fold)
    poisoned[fold.test[:1]] = features[fold.test[:1]]
    one = Fold(fold.train, fold.test[:1])
    single, again = probe_fold(Probe(sweep=True), poisoned, labels, groups, one)
    assert again == chosen
    np.testing.assert_allclose(single.scores, prediction.scores[:1], rtol=1e-12)


def test_a_peeking_sweep_would_be_noticed() -> None:
    """The test rows follow another rule than the train rows, so choosing on them gives another C."""
    generator = np.random.default_rng(0)
    labels = np.array(list("ab" * 60))
    sign = np.where(labels == "a", 1.0, -1.0)
    features = generator.normal(size=(120, 30))
    features[:, 0] += 0.9 * sign
    fold = Fold(np.arange(80), np.arange(80, 120))
    groups = np.array([""] * 120)
    chosen = probe_fold(Probe(sweep=True), features, labels, groups, fold)[1]
    peeking = Fold(fold.train, fold.test, valid=fold.test)
    swapped = features.copy()
    swapped[fold.test, 0] *= -1
    seen = {probe_fold(Probe(sweep=True), f, labels, groups, peeking)[1] for f in (features, swapped)}
    unseen = {probe_fold(Probe(sweep=True), f, labels, groups, fold)[1] for f in (features, swapped)}
    assert unseen == {chosen} and seen != unseen


def test_the_validation_rows_of_a_set_are_chosen_by_and_not_fitted() -> None:
    features, labels, groups = blobs()
    rows = [Row(f"{i}", label=la, split=("train", "valid", "test")[i // 50]) for i, la in enumerate(labels)]
    (fold,) = folds_of(rows)
    swept, strength = probe_fold(Probe(sweep=True), features, labels, groups, fold)
    features[50:100] = features[0]  # of no consequence to what is fitted with C=1
    plain, _ = probe_fold(Probe(), features, labels, groups, fold)
    if strength == 1.0:
        np.testing.assert_allclose(swept.scores, plain.scores)
    assert len(plain.truth) == 50


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "svm"},
        {"kind": "knn", "sweep": True},
        {"kind": "nb", "neighbours": 3},
        {"kind": "knn", "neighbours": 0},
        {"kind": "knn", "temperature": 0.0},
        {"kind": "knn", "temperature": float("nan")},
    ],
)
def test_options_that_a_probe_has_not_are_refused(options) -> None:
    with pytest.raises(UnsupportedOption):
        Probe(**options)
