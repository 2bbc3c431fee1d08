"""Small molecule files to try things on, written out as text: well-known substances, in three formats.

Every model of the domain reads them. A graph in the other formats needs node features that fit the model;
`write_graphs` writes some.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import networkx
import numpy as np
from rdkit import Chem

DRUGS = {
    "aspirin": "CC(=O)Oc1ccccc1C(=O)O",
    "caffeine": "CN1C=NC2=C1C(=O)N(C(=O)N2C)C",
    "ibuprofen": "CC(C)Cc1ccc(cc1)C(C)C(=O)O",
    "nicotine": "CN1CCC[C@H]1c1cccnc1",
    "paracetamol": "CC(=O)Nc1ccc(O)cc1",
}
AMINO_ACIDS = {
    "tryptophan": "N[C@@H](Cc1c[nH]c2ccccc12)C(=O)O",
    "histidine": "N[C@@H](Cc1c[nH]cn1)C(=O)O",
    "proline": "OC(=O)[C@@H]1CCCN1",
}
SOLVENTS = {"toluene": "Cc1ccccc1", "hexane": "CCCCCC", "tetrahydrofuran": "C1CCOC1"}


def write_samples(folder: Path) -> list[Path]:
    """Write a SMILES file, a CSV table and an SDF file.

    Args:
        folder: An existing folder.
    """
    smiles, table, structures = (folder / name for name in ("drugs.smi", "amino-acids.csv", "solvents.sdf"))
    smiles.write_text("".join(f"{text} {name}\n" for name, text in DRUGS.items()))
    table.write_text("name,smiles\n" + "".join(f"{name},{text}\n" for name, text in AMINO_ACIDS.items()))
    blocks = []
    for name, text in SOLVENTS.items():
        molecule = Chem.MolFromSmiles(text)
        molecule.SetProp("_Name", name)
        blocks.append(Chem.MolToMolBlock(molecule) + "$$$$\n")
    structures.write_text("".join(blocks))
    return [smiles, table, structures]


def write_graphs(folder: Path, graphs: int = 12, seed: int = 0) -> list[Path]:
    """Write synthetic graphs of two classes in the other formats: rings with chords, and trees, with 3 node labels.

    Args:
        folder: An existing folder.
        graphs: In the TUDataset set.
        seed: Of the graphs.

    Returns:
        ``SHAPES.zip`` (a TUDataset set), ``shape.json`` (the plain form), ``shape.graphml`` and ``shape.edges``.
    """
    random = np.random.default_rng(seed)
    made = [_shape(number % 2, random) for number in range(graphs)]
    indicator: list[str] = []
    edges: list[str] = []
    labels: list[str] = []
    for number, (graph, tags) in enumerate(made, start=1):
        start = len(indicator) + 1
        edges += [f"{a + start}, {b + start}" for u, v in graph.edges for a, b in ((u, v), (v, u))]
        indicator += [str(number)] * len(graph)
        labels += [str(tag) for tag in tags]
    files = {
        "A": edges,
        "graph_indicator": indicator,
        "graph_labels": [str(number % 2) for number in range(graphs)],
        "node_labels": labels,
    }
    archive = folder / "SHAPES.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        for name, lines in files.items():
            target.writestr(f"SHAPES/SHAPES_{name}.txt", "\n".join(lines) + "\n")
    graph, tags = made[0]
    x = np.eye(3)[tags].tolist()
    plain, graphml, listed = (folder / name for name in ("shape.json", "shape.graphml", "shape.edges"))
    plain.write_text(json.dumps({"edge_index": np.array(graph.edges).T.tolist(), "x": x}))
    for node, row in enumerate(x):
        graph.nodes[node].update({f"feature{i}": value for i, value in enumerate(row)})
    networkx.write_graphml(graph, graphml)
    listed.write_text("".join(f"{u} {v}\n" for u, v in graph.edges))
    return [archive, plain, graphml, listed]


def _shape(kind: int, random: np.random.Generator) -> tuple[networkx.Graph, np.ndarray]:
    nodes = int(random.integers(8, 16))
    seed = int(random.integers(1 << 30))
    if kind:
        graph = networkx.random_labeled_tree(nodes, seed=seed)
    else:
        graph = networkx.newman_watts_strogatz_graph(nodes, 2, 0.3, seed=seed)
    return networkx.Graph(graph.edges), random.integers(0, 3, nodes)
