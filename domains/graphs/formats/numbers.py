"""Columns of numbers in text files, with errors that name the file and line."""

from __future__ import annotations

import re

import numpy as np

from hub.errors import InvalidInput

_SEPARATORS = re.compile(r"[,;\s]+")


def decode(content: bytes, name: str) -> str:
    """Return the text of a file, without a byte-order mark.

    Raises:
        InvalidInput: It is not UTF-8.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidInput(f"{name} is not text in UTF-8", code="not_text") from None


def number_rows(text: str, name: str, columns: int | None = None) -> np.ndarray:
    """Parse rows of numbers separated by commas, semicolons or white space; empty lines are skipped.

    Args:
        text: Of the file.
        name: What messages call the file.
        columns: How many a row must have; those of the first row where not given.

    Returns:
        ``(rows, columns)`` float64.

    Raises:
        InvalidInput: A row has another number of columns, or something that is no number.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return np.zeros((0, columns or 0))
    columns = columns or len(_cells(lines[0]))
    cells = _cells(text)
    try:
        # In one go for the millions of lines of a large set; where that fails, line by line for the message.
        if len(cells) == columns * len(lines) and all(len(_cells(line)) == columns for line in lines[:100]):
            return np.array(cells, dtype=np.float64).reshape(len(lines), columns)
    except ValueError:
        pass
    for number, line in enumerate(text.splitlines(), start=1):
        row = _cells(line)
        if row and len(row) != columns:
            raise InvalidInput(f"{name}, line {number} has {len(row)} numbers instead of {columns}", code="bad_form")
        try:
            [float(cell) for cell in row]
        except ValueError:
            raise InvalidInput(f"{name}, line {number} holds something that is no number", code="bad_form") from None
    raise InvalidInput(f"{name} is no table of {columns} columns of numbers", code="bad_form")


def whole_rows(text: str, name: str, columns: int | None = None) -> np.ndarray:
    """Like `number_rows`, for whole numbers.

    Returns:
        ``(rows, columns)`` int64.

    Raises:
        InvalidInput: A number has a fraction, or is too large to number anything.
    """
    return as_whole(number_rows(text, name, columns), name)


def as_whole(numbers: np.ndarray, name: str) -> np.ndarray:
    """Return numbers as int64.

    Raises:
        InvalidInput: One has a fraction, is not finite, or is too large to number anything.
    """
    with np.errstate(invalid="ignore"):
        wrong = ~((numbers == np.floor(numbers)) & (np.abs(numbers) < 2**53))
    if wrong.any():
        row = int(np.argwhere(wrong)[0][0])
        raise InvalidInput(f"{name}: entry {row} (from 0 on) holds a number that is not whole", code="fractional_id")
    return numbers.astype(np.int64)


def _cells(text: str) -> list[str]:
    return [cell for cell in _SEPARATORS.split(text) if cell]
