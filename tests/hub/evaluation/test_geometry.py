from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.evaluation.geometry import (
    alignment,
    dimension_spread,
    label_free_figures,
    label_pairs,
    rankme,
    uniformity,
)


@pytest.mark.parametrize("name", ["gaussian", "rank5", "constant", "orthogonal", "wide"])
@pytest.mark.parametrize(("eps", "word"), [(1e-7, "eps1e-7"), (0.0, "eps0")])
def test_golden_rankme(golden, name, eps, word) -> None:
    tensors, scalars = golden
    assert rankme(tensors[f"rankme/{name}"], eps) == pytest.approx(scalars[f"rankme/{name}/{word}"], rel=1e-6)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 1000), st.integers(1, 30), st.integers(1, 12), st.floats(1e-6, 1e6), st.booleans())
def test_rankme_is_between_one_and_the_smaller_side_at_any_scale(seed, rows, width, scale, sparse) -> None:
    generator = np.random.default_rng(seed)
    matrix = generator.normal(size=(rows, width)) * (generator.random((rows, width)) < 0.3 if sparse else 1)
    value = rankme(matrix)
    assert 1 - 1e-6 <= value <= min(rows, width) * (1 + 1e-4)
    assert rankme(matrix * scale) == pytest.approx(value, rel=1e-6)
    assert rankme(matrix[::-1]) == pytest.approx(value, rel=1e-6)


def test_rankme_of_known_matrices() -> None:
    assert rankme(np.eye(7)) == pytest.approx(7, rel=1e-5)
    assert rankme(np.eye(7), eps=0.0) == pytest.approx(7, rel=1e-12)
    outer = np.outer(np.arange(1, 9), np.arange(1, 5))
    assert rankme(outer) == pytest.approx(1, abs=1e-4) and rankme(outer, eps=0.0) == pytest.approx(1, abs=1e-9)
    assert rankme(np.zeros((5, 3))) == 1.0
    # One share of 1 and seven of 0, each plus eps: the eps shows.
    shown = 7 * 1e-7 * np.log(1e7) - (1 + 1e-7) * np.log(1 + 1e-7)
    assert rankme(np.ones((50, 8))) == pytest.approx(np.exp(shown), rel=1e-9)
    # Singular values 3 and 1: shares 3/4 and 1/4.
    assert rankme(np.diag([3.0, 1.0]), eps=0.0) == pytest.approx(4 / 3**0.75)
    for empty in (np.zeros((0, 3)), np.zeros(3)):
        with pytest.raises(ValueError, match="rows, dimension"):
            rankme(empty)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.integers(2, 12), st.integers(1, 5), st.floats(0.5, 4))
def test_alignment_and_uniformity_by_formula(seed, rows, width, t) -> None:
    generator = np.random.default_rng(seed)
    x, y = generator.normal(size=(2, rows, width))
    u, v = (m / np.linalg.norm(m, axis=1, keepdims=True) for m in (x, y))
    expected = np.mean([sum((u[i] - v[i]) ** 2) ** (t / 2) for i in range(rows)])
    assert alignment(x, y, t) == pytest.approx(expected, abs=1e-9)
    pairs = [np.exp(-t * sum((u[i] - u[j]) ** 2)) for i in range(rows) for j in range(i)]
    assert uniformity(x, t) == pytest.approx(np.log(np.mean(pairs)), abs=1e-9)
    assert uniformity(x * 7, t) == pytest.approx(uniformity(x[::-1], t), abs=1e-9)


def test_alignment_and_uniformity_of_known_points() -> None:
    x = np.array([[1.0, 0], [0, 1]])
    assert alignment(x, x) == 0 and alignment(x, -x) == pytest.approx(4) and alignment(x, x[::-1]) == pytest.approx(2)
    assert uniformity(np.ones((5, 3))) == pytest.approx(0) and uniformity(np.array([[1.0], [-1.0]])) == -8
    with pytest.raises(ValueError, match="two rows"):
        uniformity(np.ones((1, 3)))
    with pytest.raises(ValueError, match="one shape"):
        alignment(np.ones((2, 3)), np.ones((3, 3)))


def test_figures_of_spread_and_of_collapse() -> None:
    spread = np.random.default_rng(0).normal(size=(3000, 16))
    figures = label_free_figures(spread, rows=500)
    assert figures["rankme"] > 15.5 and figures["unit_std"] == pytest.approx(1, abs=0.02)
    assert figures["uniformity"] == pytest.approx(uniformity(spread), abs=0.05)
    np.testing.assert_allclose(dimension_spread(spread), spread.std(0))
    dead = np.concatenate([spread, np.full((3000, 2), 5.0)], axis=1)
    assert label_free_figures(dead, rows=10)["dead_dimensions"] == 2
    collapsed = label_free_figures(np.ones((20, 4), np.float32))
    assert collapsed["unit_std"] == pytest.approx(0, abs=1e-9) and collapsed["rankme"] == pytest.approx(1, abs=1e-4)
    assert collapsed["dead_dimensions"] == 4 and collapsed["uniformity"] == pytest.approx(0, abs=1e-9)


def test_pairs_share_a_label_and_are_never_a_row_with_itself() -> None:
    labels = np.array(list("aabbbcz"))
    first, second = label_pairs(labels)
    assert sorted(first) == [0, 1, 2, 3, 4] == sorted(second)
    assert (labels[first] == labels[second]).all() and (first != second).all()
    assert len(label_pairs(np.array(["a", "b"]))[0]) == 0
