"""CSV and text tables: one row a moment, as Muse, OpenBCI and spreadsheets write them, or one number a line."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from domains.eeg.channels import canonical, choose, is_electrode
from domains.eeg.formats.common import Limits, Raw, sample_range
from domains.eeg.formats.sidecar import Stated
from domains.eeg.recording import Annotation, cut_annotations
from hub.doubts import Doubt
from hub.errors import InvalidInput, TooLarge, UnsupportedFormat
from hub.reading import Source, Span

MAX_TEXT_BYTES = 1 << 28
BACKWARDS = 0.05
"""Seconds that a timestamp may lie before the one above it; wireless headsets stamp by packets."""
HOLE = 0.25
"""Seconds between two rows from which on samples are missing."""
_TIME = re.compile(r"^(?:t|times?|timestamps?|lsl_timestamps?)\s*(?:[_ (\[]+(?P<unit>ms|s|sec|seconds)[)\]]*)?$", re.I)
_MARKER = re.compile(r"^(?:markers?|stim|trigger|events?|labels?|annotations?)[ _]*(?:channel)?\s*\d*$", re.I)
_UNUSED = re.compile(r"^(?:(?:sample|package|packet|row)?[ _]*(?:index|number|num|id|count)|not used.*|time.*|)$", re.I)
_COMMENT_RATE = re.compile(r"^%\s*Sample Rate\s*=\s*(\d{1,6}(?:\.\d+)?)", re.I | re.M)
_COMMENT_CHANNELS = re.compile(r"^%\s*Number of channels\s*=\s*(\d{1,6})", re.I | re.M)
_NO_MARK = {"", "0", "0.0", "nan", "none"}


@dataclass(frozen=True)
class _Table:
    """Lines of a table, not yet numbers.

    Attributes:
        lines: Of data, without empty ones.
        numbers: Of each line in the file, from 1.
        delimiter: ``None`` for any white space.
        header: Names of the columns; empty without a header.
        columns: How many there are.
        comments: The lines before that begin with ``%`` or ``#``.
    """

    lines: list[str]
    numbers: list[int]
    delimiter: str | None
    header: list[str]
    columns: int
    comments: str


def read_table(source: Source, span: Span | None, limits: Limits, keep_all: bool, stated: Stated) -> Raw:
    """Read a table whose columns are channels.

    A header names them; a time column gives the rate, and has to rise without holes; a marker column becomes
    annotations. Without a header every column is a channel. Values are microvolts unless ``stated`` has another unit.

    Raises:
        UnsupportedFormat: It is no table of numbers.
        InvalidInput: A row is ragged, a cell no finite number, time runs backwards or has a hole, or nothing says the
            rate; the text gives line and column.
        TooLarge: It is longer than the limits allow.
    """
    table = _lines(source)
    names, time, marker = _roles(table, stated)
    _check_ragged(table)
    limits.check_channels(len(names))
    columns = list(names)
    rows, notes = choose([names[c] for c in columns], [True] * len(columns), keep_all)
    wanted = [columns[i] for i in rows]
    values = _numbers(table, wanted if time is None else [*wanted, time[0]])
    in_comments = _COMMENT_RATE.search(table.comments)
    found = float(in_comments[1]) if in_comments else None
    warnings = list(notes)
    if time is not None:
        by_clock, doubts = _rate(values[:, -1], time[1], table, limits)
        found = found or by_clock
        warnings += doubts
    if time is None and len(table.header) == 0 and len(names) == 1 and not in_comments:
        # A lone column of numbers may be anything: nothing is assumed about it.
        stated = Stated(stated.sampling_rate, stated.channels, stated.unit)
    rate, doubts = stated.rate(found)
    limits.check_rate(rate)
    first, last = sample_range(span, len(values), rate)
    limits.check_size(len(wanted), last - first, rate)
    signal = values[first:last, : len(wanted)].T * stated.volts
    marks = [] if marker is None else _marks(table, marker, rate)
    return Raw(
        np.ascontiguousarray(signal),
        [rate] * len(wanted),
        [names[c] for c in wanted],
        cut_annotations(marks, first / rate, last / rate),
        warnings + doubts,
        first / rate,
    )


def _lines(source: Source) -> _Table:
    if source.size > MAX_TEXT_BYTES:
        raise TooLarge(f"the text has {source.size:,} bytes; at most {MAX_TEXT_BYTES:,} are read: save it as EDF")
    with source.open() as stream:
        content = stream.read()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    all_lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    comments = "\n".join(line for _, line in all_lines if line.startswith(("%", "#")))
    filled = [(number, line) for number, line in all_lines if line and not line.startswith(("%", "#"))]
    if not filled:
        raise InvalidInput("there is no line of data in the file", code="empty")
    numbers, lines = [n for n, _ in filled], [line for _, line in filled]
    first = lines[0]
    delimiter = next((d for d in (";", "\t", ",") if d in first), None)
    if delimiter in (";", "\t") and "." not in lines[-1] and "," in lines[-1]:
        lines = [line.replace(",", ".") for line in lines]
        first = lines[0]
    header = [] if any(_is_number(cell) for cell in _cells(first, delimiter)) else _cells(first, delimiter)
    if header and len(header) == 1 and len(first) > 80:
        raise UnsupportedFormat("text, but no table of numbers with one column a channel", code="no_table")
    if header:
        lines, numbers = lines[1:], numbers[1:]
        if not lines:
            raise InvalidInput("the table has a header and no row of samples", code="empty")
    return _Table(lines, numbers, delimiter, header, len(_cells(first, delimiter)), comments)


def _roles(table: _Table, stated: Stated) -> tuple[dict[int, str], tuple[int, str] | None, int | None]:
    """Return the channels' names by column, the time column with its unit, and the marker column."""
    if not table.header:
        in_comments = _COMMENT_CHANNELS.search(table.comments)
        if in_comments and table.columns > int(in_comments[1]):
            # OpenBCI's older files: a counter, then the channels, then accelerometer and clock.
            return {i: f"EEG {i}" for i in range(1, int(in_comments[1]) + 1)}, None, None
        names = stated.channels or [f"EEG {i + 1}" for i in range(table.columns)]
        if len(names) != table.columns:
            raise InvalidInput(
                f"the table has {table.columns} columns and no header, and {len(names)} channels are named",
                code="bad_shape",
            )
        return dict(enumerate(names)), None, None
    times = [(i, match["unit"] or "") for i, name in enumerate(table.header) if (match := _TIME.match(name))]
    markers = [i for i, name in enumerate(table.header) if _MARKER.match(name)]
    # Where electrodes are named, a column of another name may still be one (a Muse's "Right AUX").
    channels = {
        i: name
        for i, name in enumerate(table.header)
        if is_electrode(canonical(name)) or not (_TIME.match(name) or _MARKER.match(name) or _UNUSED.match(name))
    }
    if not channels:
        raise InvalidInput("no column of the table is a channel", code="no_channel")
    return channels, times[0] if times else None, markers[0] if markers else None


def _check_ragged(table: _Table) -> None:
    for number, line in zip(table.numbers, table.lines, strict=True):
        count = len(line.split()) if table.delimiter is None else line.count(table.delimiter) + 1
        if count != table.columns:
            raise InvalidInput(
                f"line {number} has {count} cells, where the first line has {table.columns}", code="ragged"
            )


def _numbers(table: _Table, columns: Sequence[int]) -> NDArray[np.float64]:
    """Return the cells of some columns, ``(rows, columns)``, all finite."""
    try:
        values = np.loadtxt(table.lines, delimiter=table.delimiter, usecols=columns, comments=None, ndmin=2)
    except ValueError:
        values = None
    if values is not None and np.isfinite(values).all():
        return values
    for number, line in zip(table.numbers, table.lines, strict=True):
        cells = _cells(line, table.delimiter)
        for column in columns:
            if not _is_number(cells[column]) or not math.isfinite(float(cells[column])):
                what = "not a finite number" if _is_number(cells[column]) else "no number"
                what = what if cells[column] else "empty"
                raise InvalidInput(f"line {number}, column {column + 1} is {what}", code="not_finite")
    raise InvalidInput("the table holds something that is no number", code="not_finite")


def _rate(times: NDArray[np.float64], unit: str, table: _Table, limits: Limits) -> tuple[float | None, list[str]]:
    """Return the rate by a time column, Hz, and a warning where its unit is a guess."""
    if len(times) < 2 or times[-1] == times[0]:
        return None, []
    doubts: list[str] = []
    rate = (len(times) - 1) / (times[-1] - times[0])
    if unit == "ms" or (not unit and abs(rate) < limits.min_sampling_rate <= 1000 * abs(rate)):
        doubts += [] if unit else [Doubt("The time column is taken as milliseconds.", "unit_assumed")]
        times, rate = times / 1000, rate * 1000
    steps = np.diff(times)
    for place, what in ((np.argmin(steps), "goes back by"), (np.argmax(steps), "jumps forward by")):
        step = float(steps[place])
        if step < -BACKWARDS or step > HOLE:
            raise InvalidInput(
                f"time {what} {abs(step):.3f} s at line {table.numbers[place + 1]}; samples are missing or out of "
                "order: give each piece as a file of its own",
                code="bad_time",
            )
    # Stamps are rounded, and no clock is better than this.
    return round(float(rate), 3), doubts


def _marks(table: _Table, column: int, rate: float) -> list[Annotation]:
    """Return an annotation for every row whose marker is set and not that of the row before."""
    marks, before = [], ""
    for row, line in enumerate(table.lines):
        mark = _cells(line, table.delimiter)[column]
        if mark != before and mark.lower() not in _NO_MARK:
            marks.append(Annotation(row / rate, 0.0, mark.removesuffix(".0")))
        before = mark
    return marks


def _cells(line: str, delimiter: str | None) -> list[str]:
    return [cell.strip().strip('"') for cell in line.split(delimiter)]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text
