"""Train, validation and test part of a labelled set; a group is never on two sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hub.errors import InvalidManifest
from hub.finetuning.targets import Targets
from hub.manifest import Row

PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class Parts:
    """Row numbers of each part; ``valid`` and ``test`` may be empty."""

    train: list[int]
    valid: list[int]
    test: list[int]

    def items(self) -> list[tuple[str, list[int]]]:
        """Return name and rows of each part."""
        return [(name, getattr(self, name)) for name in PARTS]


def split(rows: Sequence[Row], targets: Targets, valid_share: float, test_share: float, seed: int) -> Parts:
    """Split a labelled set.

    A ``split`` column fixes train and test, and ``valid`` where it names it. What it does not fix is held out at
    random: whole groups where there are any, whole files where rows are parts of a recording, else single rows; with
    the classes in equal shares as far as that goes.

    Args:
        rows: The set.
        targets: Their labels.
        valid_share: Share of the training part for early stopping.
        test_share: Share of a set without a ``split`` column for the test.
        seed: Of the choice.

    Raises:
        InvalidManifest: The set cannot be split like that, or the same sample is on two sides.
    """
    everything = list(range(len(rows)))
    if any(row.split for row in rows):
        strange = [row.split for row in rows if row.split not in PARTS]
        if strange:
            raise InvalidManifest(f"split {strange[0]!r} is none of {', '.join(PARTS)}; every row needs one")
        train, valid, test = ([i for i in everything if rows[i].split == part] for part in PARTS)
    else:
        train, test = _hold_out(everything, rows, targets, test_share, seed)
        valid = []
    if not valid:
        train, valid = _hold_out(train, rows, targets, valid_share, seed + 1)
    parts = Parts(train, valid, test)
    check_parts(parts, rows, targets)
    return parts


def check_parts(parts: Parts, rows: Sequence[Row], targets: Targets) -> None:
    """Refuse parts that share a group or a sample, and classes that cannot be learnt.

    Raises:
        InvalidManifest: The text names the group, sample or label.
    """
    if not parts.train:
        raise InvalidManifest("no row is left to train on; a split column must name train rows")
    groups: dict[str, str] = {}
    samples: dict[tuple[object, ...], str] = {}
    for part, numbers in parts.items():
        for number in numbers:
            row = rows[number]
            if row.group and groups.setdefault(row.group, part) != part:
                raise InvalidManifest(
                    f"group {row.group!r} is in {groups[row.group]} and {part}; it belongs to one part"
                )
            key = (row.file, row.span, row.item)
            if samples.setdefault(key, part) != part:
                raise InvalidManifest(f"{row.file.name} is in {samples[key]} and {part}; a sample belongs to one part")
    learnt = targets.classes_of(parts.train)
    for part, numbers in parts.items():
        unseen = targets.classes_of(numbers) - learnt
        if unseen:
            raise InvalidManifest(
                f"label {targets.labels[min(unseen)]!r} is in the {part} part but not in the train part; give more "
                "groups or rows, another seed, or a split column"
            )


def _hold_out(
    numbers: Sequence[int], rows: Sequence[Row], targets: Targets, share: float, seed: int
) -> tuple[list[int], list[int]]:
    """Return (kept, held out) of some rows."""
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    if share == 0:
        return list(numbers), []
    units = [_unit(rows[n], n) for n in numbers]
    distinct = len(set(units))
    if distinct < 2:
        raise InvalidManifest("all rows are of one group, so nothing can be held out")
    folds = min(max(2, round(1 / share)), distinct)
    strata = [targets.stratum(n) for n in numbers]
    positions = np.arange(len(numbers))
    smallest = 0 if None in strata else min(strata.count(s) for s in set(strata))
    if smallest >= 2:
        # The rarest class has to reach every fold.
        splitter = StratifiedGroupKFold(min(folds, smallest), shuffle=True, random_state=seed)
        kept, held = next(splitter.split(positions, strata, units))
    else:
        kept, held = next(GroupKFold(folds, shuffle=True, random_state=seed).split(positions, groups=units))
    return [numbers[i] for i in kept], [numbers[i] for i in held]


def _unit(row: Row, number: int) -> str:
    """Return what stays together: the group, the recording that a row is a part of, or the row."""
    if row.group:
        return f"group {row.group}"
    return f"file {row.file}" if row.span is not None else f"row {number}"
