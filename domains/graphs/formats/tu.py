"""Sets of labelled graphs in the text formats that graph classification uses: TUDataset and S2V."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from domains.graphs.formats.files import Members
from domains.graphs.formats.numbers import decode, whole_rows
from domains.graphs.limits import GraphLimits, build_sample
from hub.errors import InvalidInput, TooLarge
from hub.reading import Sample

EDGES = "_A.txt"
INDICATOR = "_graph_indicator.txt"


def prefixes(members: Members) -> list[str]:
    """Return the names of the sets among some files: what stands before ``_A.txt``."""
    return [name.removesuffix(EDGES) for name in members if name.endswith(EDGES)]


def read_tu(members: Members, prefix: str, limits: GraphLimits) -> Iterator[Sample]:
    """Yield the graphs of a TUDataset set (Morris et al., 2020), keyed ``graph 1`` and so on.

    Node labels become one-hot features, as wide as the set's largest label plus 1; without node labels there are
    none. Continuous node attributes are not read: the published configurations do not use them. A graph's label is
    in its metadata.

    Args:
        members: The set's files.
        prefix: Name of the set.
        limits: What is accepted.

    Raises:
        InvalidInput: A file is missing, or files contradict each other; the text names file and line.
    """
    if prefix + INDICATOR not in members:
        raise InvalidInput(
            f"{prefix}{INDICATOR} is missing; a set has {prefix}{EDGES} and {prefix}{INDICATOR}, and beside them may "
            f"have {prefix}_graph_labels.txt and {prefix}_node_labels.txt",
            code="incomplete",
        )
    indicator = _whole(members, prefix + INDICATOR, 1)[:, 0]
    edges = _whole(members, prefix + EDGES, 2).T - 1
    counts = _graph_sizes(indicator, f"{prefix}{INDICATOR}")
    if len(counts) > limits.max_graphs:
        raise TooLarge(f"the set has {len(counts):,} graphs; at most {limits.max_graphs:,} are read")
    _check_edges(edges, indicator, f"{prefix}{EDGES}")
    labels = _labels(members, f"{prefix}_graph_labels.txt", len(counts))
    x = _one_hot(members, f"{prefix}_node_labels.txt", len(indicator), limits)
    starts = np.concatenate([[0], np.cumsum(counts)])
    owner = indicator[edges[0]] - 1 if edges.size else np.zeros(0, np.int64)
    order = np.argsort(owner, kind="stable")
    cuts = np.searchsorted(owner[order], np.arange(len(counts) + 1))
    for graph, (start, stop) in enumerate(pairwise(starts.tolist())):
        own = edges[:, order[cuts[graph] : cuts[graph + 1]]] - start
        facts = {} if labels is None else {"label": labels[graph]}
        features = None if x is None else _expand(x[start:stop], int(x.max()) + 1)
        yield build_sample(limits, own, features, nodes=stop - start, key=f"graph {graph + 1}", metadata=facts)


def read_s2v(text: str, name: str, limits: GraphLimits) -> Iterator[Sample]:
    """Yield the graphs of an S2V file, keyed ``graph 1`` and so on.

    The first line has the number of graphs; each graph has a line ``nodes label``, then for each node a line
    ``tag degree neighbour neighbour ...`` with neighbours counted from 0. Tags become one-hot features.

    Raises:
        InvalidInput: The file ends early or a line does not have that form; the text gives the line.
    """
    lines = text.splitlines()
    rows = [_s2v_row(line, number, name) for number, line in enumerate(lines, start=1) if line.strip()]
    if not rows or len(rows[0]) != 1 or not 0 < rows[0][0] <= limits.max_graphs:
        raise InvalidInput(f"{name}: the first line gives the number of graphs, at least 1", code="bad_form")
    graphs: list[tuple[np.ndarray, np.ndarray, str]] = []
    at = 1
    for graph in range(rows[0][0]):
        if at >= len(rows) or len(rows[at]) != 2 or at + rows[at][0] >= len(rows) or rows[at][0] < 1:
            raise InvalidInput(
                f"{name}: graph {graph + 1} of {rows[0][0]} is cut off or has no nodes", code="truncated"
            )
        nodes, graph_label = rows[at]
        block = rows[at + 1 : at + 1 + nodes]
        for number, row in enumerate(block):
            # Further columns, continuous attributes, are not read.
            if len(row) < 2 or row[0] < 0 or not 0 <= row[1] <= len(row) - 2:
                raise InvalidInput(
                    f"{name}: graph {graph + 1}, node {number} has no line 'tag degree neighbours'", code="bad_form"
                )
        pairs = [(n, other) for n, row in enumerate(block) for other in row[2 : 2 + row[1]]]
        edges = np.array(pairs, np.int64).reshape(-1, 2).T
        graphs.append((edges, np.array([row[0] for row in block]), str(graph_label)))
        at += 1 + nodes
    width = max(int(tags.max()) for _, tags, _ in graphs) + 1
    limits.check_features(width, 1)
    for number, (edges, tags, label) in enumerate(graphs, start=1):
        key = f"graph {number}"
        yield build_sample(limits, edges, _expand(tags, width), key=key, metadata={"label": label})


def _s2v_row(line: str, number: int, name: str) -> list[int]:
    try:
        return [int(cell) for cell in line.split()]
    except ValueError:
        raise InvalidInput(f"{name}, line {number} holds something that is no whole number", code="bad_form") from None


def _whole(members: Members, name: str, columns: int | None) -> np.ndarray:
    return whole_rows(decode(members[name](), name), name, columns)


def _graph_sizes(indicator: np.ndarray, name: str) -> np.ndarray:
    """Return how many nodes each graph has."""
    if not len(indicator):
        raise InvalidInput(f"{name} is empty; it has a line for each node", code="no_nodes")
    if indicator[0] != 1:
        raise InvalidInput(f"{name} begins with graph {indicator[0]}; graphs are counted from 1", code="bad_ids")
    steps = np.diff(indicator)
    wrong = np.flatnonzero((steps < 0) | (steps > 1))
    if len(wrong):
        line = wrong[0] + 2
        raise InvalidInput(
            f"{name}, line {line}: graph {indicator[line - 1]} after graph {indicator[line - 2]}; the nodes of a graph "
            "stand together, and no graph is left out",
            code="bad_ids",
        )
    return np.bincount(indicator)[1:]


def _check_edges(edges: np.ndarray, indicator: np.ndarray, name: str) -> None:
    """Raise InvalidInput on edges (from 0 on) out of range or from one graph to another."""
    if not edges.size:
        return
    wrong = np.flatnonzero(((edges < 0) | (edges >= len(indicator))).any(0))
    if len(wrong):
        raise InvalidInput(
            f"{name}, edge {wrong[0] + 1} names a node that is not there; the set's nodes are 1 to {len(indicator)}",
            code="no_such_node",
        )
    crossing = np.flatnonzero(indicator[edges[0]] != indicator[edges[1]])
    if len(crossing):
        raise InvalidInput(f"{name}, edge {crossing[0] + 1} joins nodes of two graphs", code="bad_ids")


def _labels(members: Members, name: str, graphs: int) -> list[str] | None:
    if name not in members:
        return None
    labels = decode(members[name](), name).split()
    if len(labels) != graphs:
        raise InvalidInput(f"{name} has {len(labels):,} labels for {graphs:,} graphs", code="length_mismatch")
    return labels


def _one_hot(members: Members, name: str, nodes: int, limits: GraphLimits) -> np.ndarray | None:
    """Return the node labels, if there are any."""
    if name not in members:
        return None
    labels = _whole(members, name, None)
    if len(labels) != nodes:
        raise InvalidInput(f"{name} has {len(labels):,} lines for {nodes:,} nodes", code="length_mismatch")
    if labels.min() < 0:
        raise InvalidInput(f"{name} holds a negative label", code="bad_form")
    limits.check_features(int(labels[:, 0].max()) + 1, 1)
    return labels[:, 0]


def _expand(labels: np.ndarray, width: int) -> np.ndarray:
    x = np.zeros((len(labels), width), np.float32)
    x[np.arange(len(labels)), labels] = 1
    return x
