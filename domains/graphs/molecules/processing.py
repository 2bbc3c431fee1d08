"""Molecules to batches of one long graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from rdkit import Chem
from torch import Tensor
from torch_geometric.data import Data

from hub.doubts import Doubt
from hub.errors import InvalidInput
from hub.processing import Processor
from hub.reading import Reader, Sample

DRUG_ELEMENTS = frozenset({6, 7, 8, 9, 15, 16, 17, 35, 53})
"""C, N, O, F, P, S, Cl, Br and I: all that 24,445 drug-like molecules of ZINC hold."""
DRUG_ATOMS = 50
"""Heavy atoms; the largest of those molecules has 38."""


class Graph(NamedTuple):
    """One graph as the encoder takes it.

    Attributes:
        x: ``(nodes, features)`` int64.
        edges: ``(edges, 2)`` int64, source and target.
        edge_attr: ``(edges, 2)`` int64, or ``None`` where edges have no features.
    """

    x: Tensor
    edges: Tensor
    edge_attr: Tensor | None


def join(graphs: Sequence[Graph]) -> dict[str, Tensor]:
    """Put graphs side by side as one.

    Edges lie along the first axis, as nodes do, so that every tensor of the batch begins with the first graph.

    Returns:
        ``x`` ``(nodes, features)``, ``edges`` ``(edges, 2)`` numbered through the batch, ``batch`` ``(nodes,)``, and
        where edges have features ``edge_attr`` ``(edges, 2)``; all int64.
    """
    sizes = torch.tensor([len(g.x) for g in graphs])
    offsets = sizes.cumsum(0) - sizes
    batch = {
        "x": torch.cat([g.x for g in graphs]),
        "edges": torch.cat([g.edges + start for g, start in zip(graphs, offsets.tolist(), strict=True)]),
        "batch": torch.repeat_interleave(torch.arange(len(graphs)), sizes),
    }
    attributes = [g.edge_attr for g in graphs if g.edge_attr is not None]
    return {**batch, "edge_attr": torch.cat(attributes)} if attributes else batch


class MoleculeProcessor(Processor):
    """Molecules to a batch of one graph with many components; nothing is padded."""

    model_input_names: ClassVar[list[str]] = ["x", "edges", "edge_attr", "batch"]
    cost_unit = "atoms"
    batch_cost = 4_096
    joins = True

    def __init__(self, max_atoms: int = 1_000, **kwargs: Any) -> None:
        """Set the limit.

        Args:
            max_atoms: Most atoms of a molecule, hydrogens not counted.
            kwargs: Attributes that transformers keeps in a saved processor.
        """
        super().__init__(**kwargs)
        self.max_atoms = max_atoms

    def reader(self) -> Reader:
        """Return the graph domain's reader, with this processor's limit."""
        from domains.graphs.reading import GraphReader

        return GraphReader(max_atoms=self.max_atoms)

    def doubts(self, sample: Sample) -> Iterator[Doubt]:
        """Yield whether a molecule is of elements, or of a size, that drug-like libraries do not hold."""
        data: Data = sample.data
        if "smiles" not in data:
            return
        if rare := sorted(set((data.x[:, 0] + 1).tolist()) - DRUG_ELEMENTS):
            names = ", ".join(Chem.GetPeriodicTable().GetElementSymbol(number) for number in rare)
            yield Doubt(f"It holds {names}, which drug-like molecules hardly do.", "unusual_content")
        if data.num_nodes > DRUG_ATOMS:
            text = f"It has {data.num_nodes} atoms; drug-like molecules have at most some {DRUG_ATOMS}."
            yield Doubt(text, "length_out_of_range")

    def cost(self, sample: Sample) -> int:
        """Return the number of atoms."""
        return int(sample.data.num_nodes)

    def prepare(self, sample: Sample) -> Graph:
        """Return the molecule's graph.

        Raises:
            InvalidInput: The sample is a graph of another kind.
        """
        data: Data = sample.data
        if "smiles" not in data:
            raise InvalidInput(
                "this model takes molecules (a SMILES, a .smi, .csv or .sdf file), and this is another graph",
                code="not_a_molecule",
            )
        return Graph(data.x, data.edge_index.t(), data.edge_attr)

    def pad(self, features: Sequence[Graph]) -> dict[str, Tensor]:
        """Return the graphs side by side; see `join`."""
        return join(features)
