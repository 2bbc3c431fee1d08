"""Graphs as objects: the plain JSON form, networkx' node-link JSON, and GraphML."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import networkx
import numpy as np

from domains.graphs.formats.numbers import as_whole
from domains.graphs.limits import GraphLimits, build_sample
from hub.errors import InvalidInput
from hub.reading import Sample

FORM = 'a graph is {"edge_index": [[sources], [targets]], "x": [[features of node 0], ...]}'
FIELDS = {"edge_index", "x", "edge_attr"}


def read_json(text: str, limits: GraphLimits) -> Iterator[Sample]:
    """Yield the graphs of a JSON file: one in the plain form or in networkx' node-link form, or a list of them.

    Raises:
        InvalidInput: It is no JSON, or not of such a form.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidInput("this is no JSON: it is cut off or damaged", code="bad_json") from None
    if not isinstance(value, list):
        yield parse_graph(value, limits)
        return
    samples = [_guarded(item, limits, f"graph {number}") for number, item in enumerate(value, start=1)]
    if not samples:
        raise InvalidInput("the list holds no graph", code="empty")
    if samples[0].error is not None and all(sample.error for sample in samples):
        raise samples[0].error
    yield from samples


def _guarded(value: Any, limits: GraphLimits, key: str) -> Sample:
    """Return a graph of a list, or a sample that says what is wrong with it."""
    try:
        return parse_graph(value, limits, key)
    except InvalidInput as error:
        error.message = f"{key}: {error.message}"
        return Sample(data=None, key=key, error=error)


def parse_graph(value: Any, limits: GraphLimits, key: str = "") -> Sample:
    """Return the graph of a plain value.

    Args:
        value: ``{"edge_index", "x", "edge_attr"?}``, or networkx' ``{"nodes", "edges" or "links"}``.
        limits: What is accepted.
        key: Of the sample.

    Raises:
        InvalidInput: It does not have that form; the text says what is wrong.
    """
    if not isinstance(value, Mapping):
        raise InvalidInput(f"this is no graph: {FORM}", code="bad_form")
    if "nodes" in value and ("links" in value or "edges" in value):
        return _node_link(value, limits, key)
    missing, unknown = FIELDS - {"edge_attr"} - value.keys(), len(value.keys() - FIELDS)
    if missing or unknown:
        problems = [f"'{name}' is missing" for name in sorted(missing)]
        problems += [f"{unknown} unknown fields"] if unknown else []
        raise InvalidInput(f"{'; '.join(problems)}: {FORM}", code="bad_form")
    x = _matrix(value["x"], "x")
    edges = _matrix(value["edge_index"], "edge_index")
    if edges.shape[0] != 2:
        raise InvalidInput(f"'edge_index' has {edges.shape[0]} rows; give two, sources and targets", code="bad_form")
    attributes = None if value.get("edge_attr") is None else _matrix(value["edge_attr"], "edge_attr")
    return build_sample(limits, as_whole(edges.T, "'edge_index'").T, x, edge_attr=attributes, key=key)


def read_graphml(text: str, limits: GraphLimits) -> Sample:
    """Return the graph of a GraphML file; its numeric node attributes are the features, in the order of their names.

    Raises:
        InvalidInput: It is no GraphML, or declares XML entities, which can expand without end.
    """
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise InvalidInput("the file declares a document type or entities; plain GraphML has none", code="unsafe_xml")
    if "<graphml" not in text[:4096]:
        raise InvalidInput("this XML file is no GraphML", code="bad_form")
    try:
        graph = networkx.parse_graphml(text)
    except Exception:  # the parser raises its own, ElementTree's, and key and value errors of a damaged file
        raise InvalidInput("the GraphML file is damaged", code="damaged") from None
    return _from_networkx(graph, limits, "")


def _node_link(value: Mapping[str, Any], limits: GraphLimits, key: str) -> Sample:
    try:
        graph = networkx.node_link_graph(dict(value), edges="links" if "links" in value else "edges")
    except Exception:  # of whatever kind: the value is not what the function expects
        raise InvalidInput("this is no node-link graph as networkx writes it", code="bad_form") from None
    return _from_networkx(graph, limits, key)


def _from_networkx(graph: Any, limits: GraphLimits, key: str) -> Sample:
    limits.check_nodes(graph.number_of_nodes())
    limits.check_edges(graph.number_of_edges())
    number = {node: place for place, node in enumerate(graph.nodes)}
    # Parallel edges of a multigraph become one.
    edges = np.array([(number[edge[0]], number[edge[1]]) for edge in graph.edges], np.int64).reshape(-1, 2).T
    attributes = [data for _, data in graph.nodes(data=True)]
    names = sorted(n for n in set(attributes[0]) if all(_is_number(data.get(n)) for data in attributes))
    x = np.array([[data[n] for n in names] for data in attributes], np.float64)
    return build_sample(limits, edges, x.reshape(len(attributes), len(names)), key=key)


def _matrix(value: Any, name: str) -> np.ndarray:
    """Return rows of numbers as float64, ``(rows, columns)``."""
    if hasattr(value, "detach"):  # a torch tensor
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        if value.ndim != 2 or value.dtype.kind not in "biuf":
            raise InvalidInput(f"'{name}' must be a matrix of numbers", code="bad_form")
        return value.astype(np.float64)
    if not isinstance(value, list | tuple) or not all(isinstance(row, list | tuple) for row in value):
        raise InvalidInput(f"'{name}' must be a list of lists of numbers", code="bad_form")
    widths = {len(row) for row in value}
    if len(widths) > 1:
        first = len(value[0])
        odd = next(i for i, row in enumerate(value) if len(row) != first)
        raise InvalidInput(
            f"'{name}' is ragged: row {odd} has {len(value[odd])} numbers, row 0 has {first}", code="bad_form"
        )
    if not all(_is_number(cell) for row in value for cell in row):
        raise InvalidInput(f"'{name}' holds something that is no number", code="bad_form")
    try:
        return np.array(value, np.float64).reshape(len(value), widths.pop() if widths else 0)
    except OverflowError:
        raise InvalidInput(f"'{name}' holds a number too large", code="bad_form") from None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
