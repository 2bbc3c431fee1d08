"""Images with masks: rows of a manifest, apart by patient, and what an encoder sees of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from domains.medical.duplicates import keep_duplicates_together
from domains.medical.masks import read_mask
from domains.medical.segmentation.grids import Grid
from hub.errors import InvalidInput, InvalidManifest
from hub.manifest import Row, read_manifest
from hub.processing import Processor
from hub.reading import Sample, Source


@dataclass(frozen=True)
class Case:
    """One image with its mask.

    Attributes:
        row: Of the manifest.
        sample: The image; of what is only trained on, without its values.
        mask: ``(slices, rows, columns)`` on the image's own grid.
        feature: What the processor made of the image.
        labels: The mask on the feature's grid.
    """

    row: Row
    sample: Sample = field(repr=False)
    mask: NDArray[np.int64] = field(repr=False)
    feature: Any = field(repr=False)
    labels: Tensor = field(repr=False)


def labelled_rows(manifest: Path, processor: Processor, test_share: float, leaky: bool, seed: int) -> list[Row]:
    """Return the rows of a labelled set, each on one side of a split.

    The column ``patient`` (or ``group``) names what stays together; a row without it is a patient of its own.

    Args:
        manifest: ``file,label`` with ``split``, or without one: then a test part of patients is held out.
        processor: Whose reader reads the images.
        test_share: Share of the patients that are held out where no split is given.
        leaky: Let patients and near-duplicates be on two sides.
        seed: Of what is held out.

    Raises:
        InvalidManifest: It cannot be read or split, or its split leaks.
    """
    rows = read_manifest(manifest, need=("file", "label"), leaky=leaky)
    rows = keep_duplicates_together(rows, processor.reader(), leaky)
    if any(row.split for row in rows):
        strange = next((n for n, row in enumerate(rows) if not row.split), None)
        if strange is not None:
            raise InvalidManifest(f"row {strange + 1} has no split; every row needs one, or none")
        sides: dict[str, str] = {}
        for row in rows:
            if row.group and sides.setdefault(row.group, row.split) != row.split:
                raise InvalidManifest(
                    f"patient {row.group!r} is in {sides[row.group]} and {row.split}; a patient belongs to one side: "
                    "give --leaky-split if the leak is meant"
                )
    else:
        rows = _held_out(rows, test_share, seed)
    for part in ("train", "test"):
        if not any(row.split == part for row in rows):
            raise InvalidManifest(f"{manifest}: segmentation needs rows of the splits train and test")
    return rows


def read_cases(
    rows: Sequence[Row],
    processor: Processor,
    grid: Grid,
    folder: Path,
    classes: int,
    on_error: Callable[[InvalidInput], None] = lambda error: None,
) -> list[Case]:
    """Read images and masks; what cannot be used is told and left out.

    Args:
        rows: Of a manifest.
        processor: Of the encoder.
        grid: How it sees images.
        folder: That masks are seen from.
        classes: How many there are.
        on_error: Called with each image or mask that cannot be used.

    Raises:
        InvalidManifest: None is left, or a mask has a class without a name.
    """
    cases = []
    for row in rows:
        try:
            found = list(processor.reader().read(Source.from_path(row.file)))
            found = [sample for sample in found if row.item in ("", sample.key)]
            if len(found) != 1:
                raise InvalidInput(
                    f"{len(found)} images have this name; a row names one with 'item'", code="which_item"
                )
            sample = found[0].checked(row.file.name)
            mask = read_mask(Source.from_path(folder / row.label), sample.data)
            feature = processor.prepare(sample)
        except InvalidInput as error:
            on_error(error.at(row.file.name))
            continue
        if mask.max() >= classes:
            raise InvalidManifest(f"{row.label} has class {mask.max()}, and names are given for 0 to {classes - 1}")
        cases.append(Case(row, sample, mask, feature, grid.labels(mask, feature, sample)))
    if not cases:
        raise InvalidManifest(f"none of the {len(rows)} rows names an image and a mask that can be used")
    return cases


def _held_out(rows: Sequence[Row], share: float, seed: int) -> list[Row]:
    from sklearn.model_selection import GroupShuffleSplit

    patients = [row.group or f"row {number}" for number, row in enumerate(rows)]
    count = len(set(patients))
    if count < 2:
        raise InvalidManifest("all rows are of one patient, so none can be held out for the test")
    splitter = GroupShuffleSplit(1, test_size=min(max(1, round(share * count)), count - 1), random_state=seed)
    _, held = next(splitter.split(patients, groups=patients))
    test = set(held.tolist())
    return [replace(row, split="test" if number in test else "train") for number, row in enumerate(rows)]
