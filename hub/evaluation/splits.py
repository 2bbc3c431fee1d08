"""Folds of a labelled set: fixed by its ``split`` column, or seeded, grouped and stratified."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hub.errors import InvalidManifest
from hub.manifest import Row

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Fold:
    """Row numbers to fit on and to test on."""

    train: Indices
    test: Indices


def folds_of(rows: Sequence[Row], count: int = 5, seed: int = 0, shots: int | None = None) -> Iterator[Fold]:
    """Yield the folds of a set.

    With a ``split`` column there is one fold: fit on ``train``, test on ``test``. With a ``group`` column a group is
    never on both sides; as many folds as groups leave one group out at a time. Otherwise the folds are stratified.

    Args:
        rows: The set.
        count: Number of folds; fewer where there are fewer groups.
        seed: Of the shuffling.
        shots: Fit on this many rows of each class only, drawn anew in each fold. A fixed split is then drawn from
            ``count`` times.

    Raises:
        InvalidManifest: The set cannot be split like that.
    """
    labels = np.array([r.label for r in rows])
    generator = np.random.default_rng(seed)
    for fold in _whole_folds(rows, labels, count, seed, repeat=count if shots else 1):
        missing = set(labels[fold.test]) - set(labels[fold.train])
        if missing:
            raise InvalidManifest(
                f"label {sorted(missing)[0]!r} is in a fold's test part but not in its train part; "
                "give more groups, fewer folds, or a split column"
            )
        yield fold if shots is None else Fold(_few_shots(fold.train, labels, shots, generator), fold.test)


def _whole_folds(rows: Sequence[Row], labels: NDArray[np.str_], count: int, seed: int, repeat: int) -> Iterator[Fold]:
    from sklearn.model_selection import LeaveOneGroupOut, StratifiedGroupKFold, StratifiedKFold

    everything = np.arange(len(rows))
    splits = np.array([r.split for r in rows])
    if any(splits):
        fold = Fold(everything[splits == "train"], everything[splits == "test"])
        if not len(fold.train) or not len(fold.test):
            raise InvalidManifest("the split column must name both train and test rows")
        yield from [fold] * repeat
        return
    groups = np.array([r.group for r in rows])
    number = len(set(groups))
    if any(groups):
        if number < 2:
            raise InvalidManifest("all rows are of one group, so nothing can be held out")
        splitter = (
            LeaveOneGroupOut() if number <= count else StratifiedGroupKFold(count, shuffle=True, random_state=seed)
        )
        parts = splitter.split(everything, labels, groups)
    else:
        smallest = min(int((labels == label).sum()) for label in set(labels))
        if smallest < 2:
            raise InvalidManifest("a label has a single row, so it cannot be both fitted and tested")
        parts = StratifiedKFold(min(count, smallest), shuffle=True, random_state=seed).split(everything, labels)
    for train, test in parts:
        yield Fold(train, test)


def _few_shots(train: Indices, labels: NDArray[np.str_], shots: int, generator: np.random.Generator) -> Indices:
    chosen = []
    for label in sorted(set(labels[train])):
        of_label = train[labels[train] == label]
        if len(of_label) < shots:
            raise InvalidManifest(f"label {label!r} has {len(of_label)} rows to fit on, fewer than {shots} shots")
        chosen.append(generator.choice(of_label, shots, replace=False))
    return np.concatenate(chosen)
