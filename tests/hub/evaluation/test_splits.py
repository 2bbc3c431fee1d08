from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.errors import InvalidManifest
from hub.evaluation.splits import Fold, folds_of, inner_split
from hub.manifest import Row, read_manifest
from hub.reading import Span


def rows_of(labels, groups=None, splits=None) -> list[Row]:
    none = [""] * len(labels)
    listed = zip(labels, groups or none, splits or none, strict=True)
    return [Row(Path(f"{i}.x"), label=la, group=g, split=s) for i, (la, g, s) in enumerate(listed)]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 7)), min_size=4, max_size=40), st.integers(2, 6))
def test_groups_are_never_on_both_sides_and_every_row_is_tested_once(drawn, count) -> None:
    labels, groups = [d[0] for d in drawn], [f"g{d[1]}" for d in drawn]
    try:
        folds = list(folds_of(rows_of(labels, groups), count))
    except InvalidManifest:
        return
    assert 2 <= len(folds) <= count
    tested = np.sort(np.concatenate([f.test for f in folds]))
    np.testing.assert_array_equal(tested, np.arange(len(drawn)))
    for fold in folds:
        assert not {groups[i] for i in fold.train} & {groups[i] for i in fold.test}
        assert {labels[i] for i in fold.test} <= {labels[i] for i in fold.train}


@settings(deadline=None, max_examples=30)
@given(st.lists(st.sampled_from("abc"), min_size=4, max_size=40), st.integers(2, 6), st.integers(0, 3))
def test_ungrouped_rows_are_each_tested_once(labels, count, seed) -> None:
    try:
        folds = list(folds_of(rows_of(labels), count, seed))
    except InvalidManifest as error:
        assert min(labels.count(label) for label in set(labels)) < 2 or len(set(labels)) < 2, error
        return
    tested = np.sort(np.concatenate([f.test for f in folds]))
    np.testing.assert_array_equal(tested, np.arange(len(labels)))
    assert all(not set(f.train) & set(f.test) for f in folds)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9)), min_size=8, max_size=40), st.booleans())
def test_what_a_sweep_chooses_by_is_of_the_train_part_and_shares_no_group(drawn, grouped) -> None:
    labels = np.array([d[0] for d in drawn])
    groups = np.array([f"g{d[1]}" if grouped else "" for d in drawn])
    try:
        folds = list(folds_of(rows_of(labels.tolist(), groups.tolist()), 3))
    except InvalidManifest:
        return
    for fold in folds:
        try:
            fit, valid = inner_split(fold, labels, groups)
        except InvalidManifest:
            continue
        assert len(valid) and sorted([*fit, *valid]) == sorted(fold.train)
        assert set(labels[fit]) == set(labels[fold.train])
        if grouped:
            assert not set(groups[fit]) & set(groups[valid])


def test_leave_one_group_out_where_folds_allow() -> None:
    folds = list(folds_of(rows_of("abababab", ["x", "x", "y", "y", "z", "z", "w", "w"]), 5))
    assert [f.test.tolist() for f in folds] == [[6, 7], [0, 1], [2, 3], [4, 5]]


def test_a_split_column_fixes_the_fold_and_keeps_its_validation_rows() -> None:
    splits = ["train"] * 4 + ["valid"] * 2 + ["test"] * 2
    rows = rows_of("abababab", splits=splits)
    (fold,) = folds_of(rows, 5)
    assert (fold.train.tolist(), fold.valid.tolist(), fold.test.tolist()) == ([0, 1, 2, 3], [4, 5], [6, 7])
    labels, groups = np.array(list("abababab")), np.array([""] * 8)
    fit, valid = inner_split(fold, labels, groups)
    assert (fit.tolist(), valid.tolist()) == ([0, 1, 2, 3], [4, 5])
    draws = list(folds_of(rows, 3, shots=1))
    assert len(draws) == 3 and all(len(d.train) == 2 and d.valid is None for d in draws)


def test_few_shots_are_balanced_drawn_anew_and_repeatable() -> None:
    rows = rows_of("ab" * 20)
    draws = list(folds_of(rows, 4, seed=1, shots=3))
    for fold in draws:
        assert [("ab" * 20)[i] for i in fold.train] == ["a"] * 3 + ["b"] * 3
        assert not set(fold.train) & set(fold.test)
    assert len({tuple(f.train) for f in draws}) == 4
    again = list(folds_of(rows, 4, seed=1, shots=3))
    assert all((a.train == b.train).all() for a, b in zip(draws, again, strict=True))


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (rows_of("aaab"), {}, "single row"),
        (rows_of("aaaa"), {}, "single label"),
        (rows_of("abab", ["g"] * 4), {}, "one group"),
        (rows_of("aabb", ["g", "g", "h", "h"]), {}, "not in its train part"),
        (rows_of("abab", splits=["train"] * 4), {}, "both train and test"),
        (rows_of("abab", splits=["train", "train", "test", ""]), {"shots": 2}, "fewer than 2 shots"),
        (rows_of("abab"), {"count": 1}, "at least 2"),
        (rows_of("abab"), {"shots": 0}, "at least 1"),
    ],
)
def test_sets_that_cannot_be_split_are_refused(rows, options, message) -> None:
    with pytest.raises(InvalidManifest, match=message):
        list(folds_of(rows, **{"count": 2, **options}))


def test_a_sample_on_both_sides_is_refused() -> None:
    rows = [Row(Path("x"), label=label, split=s) for s in ("train", "test") for label in "ab"]
    with pytest.raises(InvalidManifest, match="train and test part"):
        list(folds_of(rows))
    # Other parts of the same recording are other samples.
    apart = [Row(Path("x"), label=r.label, split=r.split, span=Span(i, i + 1)) for i, r in enumerate(rows)]
    assert len(list(folds_of(apart))) == 1


def test_a_group_on_both_sides_of_a_split_column_is_refused(tmp_path) -> None:
    (tmp_path / "x").touch()
    manifest = tmp_path / "set.csv"
    manifest.write_text("file,label,group,split\nx,a,s1,train\nx,b,s1,test\n")
    with pytest.raises(InvalidManifest, match="a group belongs to one split"):
        read_manifest(manifest)


def test_nothing_to_choose_by_is_refused() -> None:
    labels, groups = np.array(list("abab")), np.array([""] * 4)
    with pytest.raises(InvalidManifest, match="choose C"):
        inner_split(Fold(np.array([0, 1]), np.array([2, 3])), labels, groups)
    with pytest.raises(InvalidManifest, match="no group"):
        inner_split(Fold(np.arange(4), np.array([], int)), labels, np.array(["x", "y", "x", "y"]))
