"""Folds of a labelled set: fixed by its ``split`` column, or seeded, grouped and stratified."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hub.errors import InvalidManifest
from hub.manifest import Row

Indices = NDArray[np.int64]
Strings = NDArray[np.str_]

INNER_PARTS = 5
"""A fifth of the train part is held out to choose a probe's strength on."""


@dataclass(frozen=True)
class Fold:
    """Row numbers to fit on and to test on.

    Attributes:
        train: ``(rows,)`` to fit on.
        test: ``(rows,)`` to test on.
        valid: ``(rows,)`` that the set itself keeps for choosing, or ``None``; never in ``train`` or ``test``.
    """

    train: Indices
    test: Indices
    valid: Indices | None = None


def folds_of(rows: Sequence[Row], count: int = 5, seed: int = 0, shots: int | None = None) -> Iterator[Fold]:
    """Yield the folds of a set.

    With a ``split`` column there is one fold: fit on ``train``, test on ``test``. With a ``group`` column a group is
    never on both sides; as many folds as groups leave one group out at a time. Otherwise the folds are stratified.
    Rows without a group in a set that has groups count as one group together.

    Args:
        rows: The set.
        count: Number of folds, at least 2; fewer where there are fewer groups.
        seed: Of the shuffling.
        shots: Fit on this many rows of each class only, drawn anew in each fold. A fixed split is then drawn from
            ``count`` times.

    Raises:
        InvalidManifest: The set cannot be split like that, or one sample would be on both sides.
    """
    labels = np.array([r.label for r in rows])
    samples = [(r.file, r.span, r.item) for r in rows]
    generator = np.random.default_rng(seed)
    for fold in _whole_folds(rows, labels, count, seed, repeat=count if shots else 1):
        _refuse_leak(samples, fold)
        missing = set(labels[fold.test]) - set(labels[fold.train])
        if missing:
            raise InvalidManifest(
                f"label {sorted(missing)[0]!r} is in a fold's test part but not in its train part; "
                "give more groups, fewer folds, or a split column"
            )
        if len(set(labels[fold.train])) < 2:
            raise InvalidManifest("a fold's train part has a single label, so there is nothing to tell apart")
        # With few shots the set's own validation rows would be labels beyond the shots, so they are left out.
        yield fold if shots is None else Fold(_few_shots(fold.train, labels, shots, generator), fold.test)


def inner_split(fold: Fold, labels: Strings, groups: Strings, seed: int = 0) -> tuple[Indices, Indices]:
    """Part a fold's train rows in rows to fit on and rows to choose by; the test rows are not looked at.

    The set's own validation rows come first. Otherwise a fifth of the train rows is held out: whole groups where there
    are groups, stratified by label, and such that every label stays among the rows to fit on.

    Args:
        fold: The outer fold.
        labels: ``(rows,)`` of the whole set.
        groups: ``(rows,)`` of the whole set, empty strings where there are none.
        seed: Of the shuffling.

    Raises:
        InvalidManifest: The train rows cannot be parted like that.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if fold.valid is not None:
        return fold.train, fold.valid
    own_labels, own_groups = labels[fold.train], groups[fold.train]
    grouped = bool((own_groups != "").any())
    parts = min(INNER_PARTS, _largest(own_labels), np.unique(own_groups).size if grouped else INNER_PARTS)
    if parts > 1:
        splitter = (StratifiedGroupKFold if grouped else StratifiedKFold)(parts, shuffle=True, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a label with fewer rows than parts; checked below
            candidates = list(splitter.split(own_labels, own_labels, own_groups))
        for fit, valid in candidates:
            if len(valid) and set(own_labels[fit]) == set(own_labels):
                return fold.train[fit], fold.train[valid]
    raise InvalidManifest(
        f"no {'group' if grouped else 'row'} can be held out of a fold's {len(fold.train)} train rows to choose C by "
        "without losing a label; give more of them, rows with split valid, or leave the sweep out"
    )


def _refuse_leak(samples: Sequence[tuple[object, ...]], fold: Fold) -> None:
    chosen = {samples[i] for part in (fold.train, fold.valid) if part is not None for i in part}
    leaked = next((samples[i] for i in fold.test if samples[i] in chosen), None)
    if leaked is not None:
        raise InvalidManifest(
            f"{leaked[0]}: the same sample is in a fold's train and test part; list it once, or give its rows one group"
        )


def _whole_folds(rows: Sequence[Row], labels: Strings, count: int, seed: int, repeat: int) -> Iterator[Fold]:
    from sklearn.model_selection import LeaveOneGroupOut, StratifiedGroupKFold, StratifiedKFold

    everything = np.arange(len(rows))
    splits = np.array([r.split for r in rows])
    if any(splits):
        train, test, valid = (everything[splits == name] for name in ("train", "test", "valid"))
        if not len(train) or not len(test):
            raise InvalidManifest("the split column must name both train and test rows")
        yield from [Fold(train, test, valid if len(valid) else None)] * repeat
        return
    if count < 2:
        raise InvalidManifest(f"{count} folds hold nothing out; ask for at least 2, or give a split column")
    groups = np.array([r.group for r in rows])
    number = len(set(groups))
    if any(groups):
        if number < 2:
            raise InvalidManifest("all rows are of one group, so nothing can be held out")
        if number <= count:
            splitter = LeaveOneGroupOut()
        else:
            count = min(count, _largest(labels))
            if count < 2:
                raise InvalidManifest("every label has a single row, so none can be both fitted and tested")
            splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
        parts = splitter.split(everything, labels, groups)
    else:
        smallest = int(np.unique(labels, return_counts=True)[1].min())
        if smallest < 2:
            raise InvalidManifest("a label has a single row, so it cannot be both fitted and tested")
        parts = StratifiedKFold(min(count, smallest), shuffle=True, random_state=seed).split(everything, labels)
    for train, test in parts:
        # Groups of very different size can leave one of the grouped folds without a test row.
        if len(test):
            yield Fold(train, test)


def _largest(labels: Strings) -> int:
    """Return the number of rows of the commonest label, which bounds what scikit-learn parts them in."""
    return int(np.unique(labels, return_counts=True)[1].max())


def _few_shots(train: Indices, labels: Strings, shots: int, generator: np.random.Generator) -> Indices:
    if shots < 1:
        raise InvalidManifest(f"{shots} shots leave nothing to fit on; ask for at least 1")
    chosen = []
    for label in sorted(set(labels[train])):
        of_label = train[labels[train] == label]
        if len(of_label) < shots:
            raise InvalidManifest(f"label {label!r} has {len(of_label)} rows to fit on, fewer than {shots} shots")
        chosen.append(generator.choice(of_label, shots, replace=False))
    return np.concatenate(chosen)
