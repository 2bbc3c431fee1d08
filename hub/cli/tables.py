"""Tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

WIDE = 1_000
"""Columns of a line that no terminal wraps."""


def print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows of the same columns as a table, at least one row; into a pipe or file as wide as it is."""
    table = Table(box=None, pad_edge=False)
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    console = Console()
    if not console.is_terminal:
        console.width = WIDE
    console.print(table)
