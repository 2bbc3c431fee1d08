"""Which slices of which volume were chosen, as a manifest that says so; pretraining reads it."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from domains.medical.image import MedicalImage
from hub.curation.index import dropped_path
from hub.curation.selection import Rows, Selection
from hub.errors import InvalidManifest
from hub.manifest import Row

COLUMNS = ("file", "item", "label", "group", "split", "slices", "of", "digest")


@dataclass(frozen=True)
class Chosen:
    """One volume and its slices.

    Attributes:
        row: Where it is; ``item`` names it in its file.
        digest: See `digest_of`.
        selection: Of its slices.
    """

    row: Row
    digest: str
    selection: Selection


def digest_of(image: MedicalImage) -> str:
    """Return what tells an image's values from all others: a table then holds wherever the files lie."""
    values = np.ascontiguousarray(image.values)
    return hashlib.sha256(repr(values.shape).encode() + values.tobytes()).hexdigest()[:32]


def write_table(output: Path, chosen: Iterable[Chosen]) -> None:
    """Write ``output``, a manifest with the columns ``slices`` (kept, from 0), ``of`` (all) and ``digest``.

    Beside it goes ``NAME.dropped.csv``: every slice left out, with its ``score`` and the ``reason``.
    """
    dropped = dropped_path(output)
    with output.open("w", newline="", encoding="utf-8") as kept, dropped.open("w", newline="", encoding="utf-8") as out:
        writer, lost = csv.writer(kept), csv.writer(out)
        writer.writerow(COLUMNS)
        lost.writerow(("file", "item", "slice", "kept_slice", "score", "score_is", "reason"))
        for one in chosen:
            row, found = one.row, one.selection
            file = _below(row.file, output.parent)
            numbers = ";".join(map(str, found.kept.tolist()))
            writer.writerow((file, row.item, row.label, row.group, row.split, numbers, len(found.scores), one.digest))
            for number in found.dropped.tolist():
                stands = "" if found.stands_for is None else int(found.stands_for[number])
                score = f"{found.scores[number]:.6g}"
                lost.writerow((file, row.item, number, stands, score, found.score, found.reason))


class SliceTable:
    """The slices that were chosen, found again by the content of their volume."""

    def __init__(self, slices: dict[str, Rows]) -> None:
        """Keep digest to slice numbers."""
        self._slices = slices

    @classmethod
    def read(cls, path: Path) -> SliceTable:
        """Read what `write_table` wrote.

        Raises:
            InvalidManifest: It is no such table; the text gives the line.
        """
        try:
            with path.open(newline="", encoding="utf-8-sig") as stream:
                reader = csv.DictReader(stream)
                if missing := [c for c in ("slices", "of", "digest") if c not in (reader.fieldnames or ())]:
                    raise InvalidManifest(
                        f"{path} has no column {missing[0]!r}; fmhub reduce-slices writes such tables"
                    )
                return cls({row["digest"]: _numbers(row, f"{path}, line {n}") for n, row in enumerate(reader, 2)})
        except FileNotFoundError:
            raise InvalidManifest(f"{path}: no such table of slices") from None
        except (UnicodeDecodeError, IsADirectoryError, csv.Error):
            raise InvalidManifest(f"{path} is not a CSV text file") from None

    def __len__(self) -> int:
        """Return the number of volumes."""
        return len(self._slices)

    def kept(self, image: MedicalImage) -> NDArray[np.int64] | None:
        """Return the numbers of the slices to keep, as they were acquired; ``None`` for an image not in the table."""
        return self._slices.get(digest_of(image))


def _numbers(row: dict[str, str], where: str) -> Rows:
    try:
        numbers = np.array([int(part) for part in row["slices"].split(";")], np.int64)
        good = 0 <= numbers.min() and numbers.max() < int(row["of"]) and len(set(numbers.tolist())) == len(numbers)
    except (ValueError, AttributeError):
        good = False
    if not good:
        raise InvalidManifest(f"{where}: slices are different numbers from 0 to below the column 'of', as 0;2;5")
    return numbers


def _below(file: Path, folder: Path) -> str:
    file, folder = file.resolve(), folder.resolve()
    return str(file.relative_to(folder)) if file.is_relative_to(folder) else str(file)
