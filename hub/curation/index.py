"""The index files of a curated set: a manifest of what was kept, and a list of what was not, with the reasons."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from hub.curation.pool import Pool
from hub.curation.selection import Selection
from hub.errors import UnsupportedOption
from hub.manifest import COLUMNS, Row


def dropped_path(output: Path) -> Path:
    """Return the name of the list of dropped samples beside a manifest."""
    return output.with_suffix(".dropped.csv")


def check_output(output: Path, data: Path) -> None:
    """Refuse to write over what is read.

    Raises:
        UnsupportedOption: The name is no CSV file's, or one of the two files is the manifest of the data.
    """
    if output.suffix.lower() != ".csv" or output.is_dir():
        raise UnsupportedOption(f"--output {output}: name a CSV file; it becomes a manifest", param="output")
    if data.resolve() in (output.resolve(), dropped_path(output).resolve()):
        raise UnsupportedOption(f"--output {output} would overwrite {data}; choose another name", param="output")


def write_index(output: Path, pool: Pool, selection: Selection, passed: Sequence[Row] = ()) -> None:
    """Write the manifest of the kept samples to ``output``, and the list of the others beside it.

    Paths are relative where a file lies below the manifest's folder, else absolute. Both files have the columns of a
    manifest that are in use, then ``score`` and ``cluster``; the list also has ``reason``, and of near-duplicates
    ``kept_file`` and ``kept_item``: which sample stayed in its place.

    Args:
        output: The manifest.
        pool: What there was to choose among.
        selection: What of it was kept.
        passed: Rows that go into the manifest as they are.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    named = [*pool.rows, *passed, *(row for row, _ in pool.unusable)]
    cells = [_cells(row, output.parent.resolve()) for row in (*pool.rows, *passed)]
    used = [column for column in COLUMNS if any(_cells(row, Path())[column] for row in named)]
    scored = [
        {"score": f"{score:.6g}", "cluster": str(cluster)}
        for score, cluster in zip(selection.scores.tolist(), selection.clusters.tolist(), strict=True)
    ]
    kept = [cells[n] | scored[n] for n in selection.kept.tolist()]
    _write(output, [*used, "score", "cluster"], [*kept, *cells[len(pool.rows) :]])
    dropped = [cells[n] | scored[n] | {"reason": selection.reason} for n in selection.dropped.tolist()]
    columns = [*used, "reason", "score", "cluster"]
    if selection.stands_for is not None:
        columns += ["kept_file", "kept_item"]
        for row, n in zip(dropped, selection.dropped.tolist(), strict=True):
            keeper = cells[int(selection.stands_for[n])]
            row |= {"kept_file": keeper["file"], "kept_item": keeper["item"]}
    dropped += [_cells(row, output.parent.resolve()) | {"reason": reason} for row, reason in pool.unusable]
    _write(dropped_path(output), columns, dropped)


def _cells(row: Row, folder: Path) -> dict[str, str]:
    file = row.file.absolute()
    if file.resolve().is_relative_to(folder):
        file = file.resolve().relative_to(folder)
    ends = (row.span.start, row.span.stop) if row.span else (None, None)
    start, stop = ("" if end is None else repr(end) for end in ends)
    return {
        "file": str(file),
        "label": row.label,
        "group": row.group,
        "split": row.split,
        "start": start,
        "stop": stop,
        "item": row.item,
    }


def _write(path: Path, columns: Sequence[str], rows: Iterable[dict[str, str]]) -> None:
    partial = path.with_name(path.name + ".partial")
    # A name that is not UTF-8 can only be in the list, where it is for people to read.
    with partial.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream:
        writer = csv.DictWriter(stream, columns, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(path)
