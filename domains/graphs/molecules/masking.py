"""Hiding atoms of a molecule, as GraphMAE and attribute masking do."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from domains.graphs.molecules.configuration import ChemGNNConfig
from domains.graphs.molecules.processing import Graph, MoleculeProcessor, join
from hub.errors import InvalidRecipe
from hub.reading import Sample
from hub.ssl.masking import IGNORED
from hub.training.collation import Collator, Randomness


def hide_nodes(x: Tensor, chosen: Tensor, config: ChemGNNConfig) -> Tensor:
    """Return the features with the chosen nodes set to the mask's type, and to tag 0.

    Args:
        x: ``(nodes, features)`` int64.
        chosen: ``(hidden,)`` int64, node numbers.
        config: Names the mask.
    """
    hidden = x.clone()
    hidden[chosen] = 0
    hidden[chosen, 0] = config.masked_node
    return hidden


class AtomMaskingCollator(Collator):
    """Molecules to a batch in which ``int(rate * atoms + 1)`` atoms of each are hidden; bonds stay as they are."""

    processor: MoleculeProcessor
    config: ChemGNNConfig

    def __init__(self, processor: MoleculeProcessor, config: ChemGNNConfig, mask_rate: float = 0.25) -> None:
        """Set the share of atoms.

        Args:
            processor: Of the system.
            config: Names the mask.
            mask_rate: Share of each molecule's atoms to hide, below 1; at least one is.

        Raises:
            InvalidRecipe: The share is none.
        """
        super().__init__(processor, config)
        if not 0 <= mask_rate < 1:
            raise InvalidRecipe(f"pretext.mask_rate is {mask_rate}; it lies from 0 to below 1")
        self.mask_rate = mask_rate

    def view(self, sample: Sample, generator: torch.Generator) -> Graph:
        """Return the molecule's graph; what is hidden is drawn in `collate`."""
        return self.processor.prepare(sample)

    def collate(self, views: Sequence[Graph], randomness: Randomness) -> dict[str, Tensor]:
        """Hide atoms of each molecule.

        Returns:
            What `join` returns, but without ``batch``, which no loss on atoms needs; and ``labels`` ``(atoms,)`` int64:
            the type of each hidden atom, -100 elsewhere.
        """
        hidden, labels = [], []
        for graph, generator in zip(views, randomness.samples, strict=True):
            nodes = len(graph.x)
            chosen = torch.randperm(nodes, generator=generator)[: int(self.mask_rate * nodes + 1)]
            label = torch.full((nodes,), IGNORED)
            label[chosen] = graph.x[chosen, 0]
            hidden.append(graph._replace(x=hide_nodes(graph.x, chosen, self.config)))
            labels.append(label)
        joined = join(hidden)
        del joined["batch"]
        return {**joined, "labels": torch.cat(labels)}
