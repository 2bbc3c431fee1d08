"""Edge lists, alone or beside a table of node features."""

from __future__ import annotations

import csv

import numpy as np

from domains.graphs.formats.files import Members
from domains.graphs.formats.numbers import decode, number_rows, whole_rows
from domains.graphs.limits import GraphLimits, build_sample
from hub.errors import InvalidInput
from hub.reading import Sample

SOURCES = ("source", "src", "from")
TARGETS = ("target", "dst", "to")


def looks_like_edges(line: str) -> bool:
    """Tell whether a line holds two or more numbers and nothing else, as the first of an edge list does."""
    cells = line.replace(",", " ").replace(";", " ").split()
    try:
        return len(cells) >= 2 and all(float(cell) is not None for cell in cells)
    except ValueError:
        return line.startswith(("#", "%"))


def is_edge_header(line: str) -> bool:
    """Tell whether a line names a source and a target column."""
    names = _names(line)
    return any(n in SOURCES for n in names) and any(n in TARGETS for n in names)


def read_edge_list(text: str, limits: GraphLimits, x: np.ndarray | None = None) -> Sample:
    """Return the graph of an edge list: a line an edge, two node numbers from 0 on; lines with # are comments.

    A first line may name the columns; ``source`` and ``target`` are used. Without ``x`` the nodes have no features and
    are as many as the largest number says.

    Raises:
        InvalidInput: A line holds something else; the text gives it.
    """
    lines = ["" if line.lstrip().startswith(("#", "%")) else line for line in text.splitlines()]
    at = next((i for i, line in enumerate(lines) if line.strip()), None)
    if at is None:
        raise InvalidInput("the edge list is empty", code="empty")
    columns = [0, 1]
    if is_edge_header(lines[at]):
        names = _names(lines[at])
        columns = [next(i for i, n in enumerate(names) if n in known) for known in (SOURCES, TARGETS)]
        lines[at] = ""
    # Further columns, such as weights, may hold fractions; only the two of the ends must be whole.
    rows = number_rows("\n".join(lines), "the edge list")
    if rows.shape[1] < 2:
        raise InvalidInput("an edge list has two columns, source and target", code="bad_form")
    ends = whole_rows("\n".join(f"{a!r} {b!r}" for a, b in rows[:, columns].tolist()), "the edge list", 2)
    return build_sample(limits, ends.T, x)


def read_edges_and_nodes(members: Members, limits: GraphLimits) -> Sample:
    """Return the graph of ``edges.csv`` and ``nodes.csv``: a row of features a node, in the order of their numbers.

    A column ``id`` of ``nodes.csv`` is checked to count from 0.

    Raises:
        InvalidInput: A table holds something else.
    """
    name = "nodes.csv"
    lines = decode(members[name](), name).splitlines()
    names: list[str] = []
    if lines and not looks_like_edges(lines[0]) and not _is_number(lines[0]):
        names = _names(lines[0])
        lines[0] = ""
    x = number_rows("\n".join(lines), name)
    if "id" in names:
        place = names.index("id")
        if not np.array_equal(x[:, place], np.arange(len(x))):
            raise InvalidInput(f"{name}: the column 'id' does not count from 0; sort the nodes", code="bad_ids")
        x = np.delete(x, place, axis=1)
    return read_edge_list(decode(members["edges.csv"](), "edges.csv"), limits, x)


def _names(line: str) -> list[str]:
    separator = "\t" if "\t" in line else ";" if ";" in line else "," if "," in line else " "
    return [cell.strip().lower() for cell in next(csv.reader([line], delimiter=separator), [])]


def _is_number(line: str) -> bool:
    try:
        return float(line.strip()) is not None
    except ValueError:
        return False
