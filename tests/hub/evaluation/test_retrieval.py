from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.evaluation.retrieval import retrieval


def none(rows: int) -> np.ndarray:
    return np.array([""] * rows)


def test_by_hand() -> None:
    angles = np.radians([0, 10, 30, 60])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    found = retrieval(rows, np.array(list("abab")), none(4), ranks=(1, 2))
    # Each row's ranking: 0: b a b | 1: a(0) a(2) b | 2: b(1) a(0)~b(3) tie | 3: a(2) b(1) a(0).
    # Row 2 is 30 degrees from both row 0 (right) and row 3 (wrong): the wrong one first, so its row is third.
    assert found["recall_at_1"] == 0 and found["recall_at_2"] == 0.5
    assert found["map"] == pytest.approx((1 / 2 + 1 / 3 + 1 / 3 + 1 / 2) / 4) and found["queries"] == 4


def test_average_precision_is_that_of_scikit_learn() -> None:
    from sklearn.metrics import average_precision_score

    generator = np.random.default_rng(0)
    rows, labels = generator.normal(size=(700, 6)), generator.integers(0, 4, 700).astype(str)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    similar = unit @ unit.T
    expected = []
    for i in range(700):
        others = np.arange(700) != i
        expected.append(average_precision_score(labels[others] == labels[i], similar[i, others]))
    assert retrieval(rows, labels, none(700))["map"] == pytest.approx(np.mean(expected), abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1000), st.integers(1, 6), st.floats(1e-3, 1e3), st.booleans())
def test_row_order_and_scale_do_not_matter(seed, distinct, scale, grouped) -> None:
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(distinct, 3))[generator.integers(0, distinct, 15)]  # with repeated rows: ties
    labels = generator.integers(0, 3, 15).astype(str)
    groups = generator.integers(0, 4, 15).astype(str) if grouped else none(15)
    found = retrieval(rows, labels, groups)
    order = generator.permutation(15)
    assert retrieval(rows[order] * scale, labels[order], groups[order]) == pytest.approx(found, nan_ok=True)


def test_a_query_never_finds_itself_or_its_own_group() -> None:
    """Twins of one group are identical, and the only rows of their label at hand: without them, nothing is found."""
    rows = np.repeat(np.eye(4), 2, axis=0)
    labels = np.array(list("aabbaabb"))
    groups = np.array([f"g{i // 2}" for i in range(8)])
    assert retrieval(rows, labels, none(8), ranks=(1,))["recall_at_1"] == 1.0
    barred = retrieval(rows, labels, groups, ranks=(1, 4))
    assert barred["recall_at_1"] == 0.0 and barred["recall_at_4"] == 0.0 and barred["queries"] == 8
    alone = retrieval(np.eye(3), np.array(list("abc")), none(3))
    assert alone["queries"] == 0 and math.isnan(alone["map"]) and math.isnan(alone["recall_at_1"])


def test_a_collapsed_embedding_finds_nothing_however_the_rows_are_sorted() -> None:
    labels = np.array(["a"] * 10 + ["b"] * 10)
    found = retrieval(np.ones((20, 3)), labels, none(20))
    assert found["recall_at_10"] == 0.0 and found["map"] < 0.4
