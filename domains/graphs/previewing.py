"""A picture of a molecule as chemists draw it, or of another graph as points and lines."""

from __future__ import annotations

from typing import Any

import networkx
import numpy as np
from matplotlib.collections import LineCollection
from rdkit import Chem
from rdkit.Chem.Draw import rdMolDraw2D
from torch_geometric.data import Data

from hub.drawing import ACCENT, QUIET, as_svg, new_figure
from hub.modeling import TaskFile
from hub.reading import Sample

MOST_ATOMS = 200
MOST_NODES = 150
FEW_NODES = 60
"""Up to so many, nodes are laid out by their distances in the graph, which takes cubic time."""


def preview(sample: Sample, small: bool = False) -> TaskFile:
    """Return an SVG of a graph; of one with many nodes, what lies around its busiest node.

    Args:
        sample: Of the domain's reader.
        small: For a list.
    """
    graph: Data = sample.data
    smiles = getattr(graph, "smiles", None)
    molecule = Chem.MolFromSmiles(smiles) if smiles else None
    if molecule is not None and molecule.GetNumAtoms() <= MOST_ATOMS:
        return _molecule(molecule, small)
    return _graph(graph, small)


def _molecule(molecule: Chem.Mol, small: bool) -> TaskFile:
    drawer = rdMolDraw2D.MolDraw2DSVG(*((240, 140) if small else (760, 340)))
    options: Any = drawer.drawOptions()
    options.padding = 0.08
    options.fixedBondLength = 18 if small else 38
    rdMolDraw2D.PrepareAndDrawMolecule(drawer, molecule)
    drawer.FinishDrawing()
    return TaskFile(drawer.GetDrawingText().encode(), "image/svg+xml", "preview.svg")


def _graph(graph: Data, small: bool) -> TaskFile:
    nodes, edges = int(graph.num_nodes or 0), graph.edge_index.numpy()
    kept = _around_the_busiest(nodes, edges)
    inside = np.isin(edges, kept).all(axis=0)
    drawn = networkx.Graph()
    drawn.add_nodes_from(kept.tolist())
    drawn.add_edges_from(edges[:, inside].T.tolist())
    if len(kept) <= FEW_NODES and networkx.is_connected(drawn):
        layout = networkx.kamada_kawai_layout(drawn)
    else:
        layout = networkx.spring_layout(drawn, seed=0, iterations=40)
    places = {node: np.asarray(place) for node, place in layout.items()}
    figure = new_figure(*((240, 140) if small else (760, 380)))
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set_aspect("equal", adjustable="datalim")
    axes.add_collection(LineCollection([(places[a], places[b]) for a, b in drawn.edges], colors=QUIET, linewidths=0.8))
    points = np.stack([places[node] for node in drawn])
    degrees = np.array([degree for _, degree in drawn.degree])
    size = (8 if small else 30) * (1 + np.sqrt(degrees) / 2)
    axes.scatter(*points.T, s=size, color=ACCENT, edgecolors="white", linewidths=0.5, zorder=2)
    axes.autoscale_view()
    if not small:
        shown = f" ({len(kept)} around the busiest node shown)" if len(kept) < nodes else ""
        axes.set_title(f"{nodes:,} nodes, {edges.shape[1]:,} directed edges{shown}", loc="left")
    return as_svg(figure)


def _around_the_busiest(nodes: int, edges: np.ndarray) -> np.ndarray:
    """Return the nodes to draw: all, or the nearest ones to the node of the highest degree."""
    if nodes <= MOST_NODES:
        return np.arange(nodes)
    centre = int(np.bincount(edges.ravel(), minlength=nodes).argmax())
    kept = np.zeros(nodes, bool)
    kept[centre] = True
    while True:
        touching = np.concatenate([edges[1][kept[edges[0]]], edges[0][kept[edges[1]]]])
        fresh = np.unique(touching[~kept[touching]])
        room = MOST_NODES - int(kept.sum())
        kept[fresh[:room]] = True
        if not fresh.size or fresh.size >= room:
            return np.flatnonzero(kept)
