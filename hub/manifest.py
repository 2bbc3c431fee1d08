"""Labelled sets: a CSV with ``file,label`` and optional ``group,split,start,stop,item``."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hub.errors import InvalidManifest
from hub.reading import Span

SPLITS = ("train", "valid", "test")
COLUMNS = ("file", "label", "group", "split", "start", "stop", "item")
GROUPS = ("group", "patient", "subject")
"""Names that the column of groups may have; the first that is there counts."""


@dataclass(frozen=True)
class Row:
    """One line of a manifest.

    Attributes:
        file: Path of the native file, resolved against the manifest's folder.
        label: Class name or number; empty in a set for pretraining.
        group: Speaker, subject, capture file, scaffold: never on both sides of a split.
        split: ``train``, ``valid`` or ``test`` where the set fixes it.
        span: Part of a recording, in seconds.
        item: Key of the sample in its file; empty where a file holds one.
    """

    file: Path
    label: str = ""
    group: str = ""
    split: str = ""
    span: Span | None = None
    item: str = ""


def read_manifest(path: str | Path, need: Sequence[str] = ("file",), *, leaky: bool = False) -> list[Row]:
    """Read a manifest.

    Args:
        path: The CSV file; relative paths in it start at its folder.
        need: Columns that must be present and filled.
        leaky: Leave the groups out, so that its split may part them.

    Raises:
        InvalidManifest: It is no CSV, lacks a column, names a missing file, has a span that is no span, or a
            group on both sides of its split; the text gives the line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InvalidManifest(f"{path}: no such manifest") from None
    except (UnicodeDecodeError, IsADirectoryError):
        raise InvalidManifest(f"{path} is not a CSV text file") from None
    reader = csv.DictReader(text.splitlines())
    columns = reader.fieldnames or []
    grouping = next((name for name in GROUPS if name in columns), "group")
    for column in need:
        if column not in columns:
            raise InvalidManifest(f"{path} has no column {column!r}; a manifest has {', '.join(COLUMNS)}")
    rows = []
    for number, entry in enumerate(reader, start=2):
        where = f"{path}, line {number}"
        for column in need:
            if not (entry.get(column) or "").strip():
                raise InvalidManifest(f"{where}: {column} is empty")
        file = path.parent / entry["file"].strip()
        if not file.exists():
            raise InvalidManifest(f"{where}: no such file: {entry['file']}")
        values = {c: (entry.get(c) or "").strip() for c in ("label", "split", "item")}
        values["group"] = "" if leaky else (entry.get(grouping) or "").strip()
        if values["split"] not in ("", *SPLITS):
            raise InvalidManifest(f"{where}: split is {values['split']!r}; it is one of {', '.join(SPLITS)}, or empty")
        rows.append(Row(file, span=_span(entry, where), **values))
    if not rows:
        raise InvalidManifest(f"{path} lists no file")
    _refuse_leaks(rows, path)
    return rows


def _span(entry: dict[str, str], where: str) -> Span | None:
    ends = []
    for column in ("start", "stop"):
        text = (entry.get(column) or "").strip()
        try:
            ends.append(float(text) if text else None)
        except ValueError:
            raise InvalidManifest(f"{where}: {column} is {text!r}, not a number of seconds") from None
    start, stop = ends
    if start is None and stop is None:
        return None
    if any(e is not None and not math.isfinite(e) for e in ends) or (start or 0) < 0:
        raise InvalidManifest(f"{where}: start and stop are seconds from 0 on")
    if stop is not None and stop <= (start or 0):
        raise InvalidManifest(f"{where}: stop ({stop} s) is not after start ({start or 0} s)")
    return Span(start, stop)


def _refuse_leaks(rows: Sequence[Row], path: Path) -> None:
    sides: dict[str, set[str]] = {}
    for row in rows:
        if row.group and row.split:
            sides.setdefault(row.group, set()).add(row.split)
    leaking = sorted(group for group, splits in sides.items() if len(splits) > 1)
    if leaking:
        raise InvalidManifest(
            f"{path}: group {leaking[0]!r} is in {' and '.join(sorted(sides[leaking[0]]))}"
            f" ({len(leaking)} such groups); a group belongs to one split"
        )
