"""Pretraining batches of D-SLA: each graph with its perturbed copies."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from domains.graphs.dsla.configuration import DslaConfig
from domains.graphs.dsla.perturbation import BondPerturbation, Candidate, LinkPerturbation, Perturbation
from domains.graphs.dsla.processing import DslaProcessor
from domains.graphs.molecules.processing import join
from hub.errors import InvalidRecipe
from hub.reading import Sample
from hub.training.collation import Collator, Randomness


class DslaCollator(Collator):
    """Graphs to candidates: the original first, then its perturbed copies."""

    processor: DslaProcessor
    config: DslaConfig

    def __init__(
        self,
        processor: DslaProcessor,
        config: DslaConfig,
        mask_share: float = 0.8,
        edge_share: float = 0.2,
        hops: int = 3,
    ) -> None:
        """Set how graphs are perturbed.

        Args:
            processor: Says whether nodes are atoms or known by their degree.
            config: Says how many candidates there are.
            mask_share: Share of the perturbed region's nodes to mask.
            edge_share: Share of its edges to exchange in the first copy; copy i exchanges i times as many.
            hops: Reach of the region around a random atom. 0 for the whole of a graph known by its degrees.

        Raises:
            InvalidRecipe: A value cannot be, or the model's tables do not fit the processor's features.
        """
        super().__init__(processor, config)
        for name, value in (("mask_share", mask_share), ("edge_share", edge_share)):
            if not 0 <= value <= 1:
                raise InvalidRecipe(f"pretext.{name} is {value}; it is a share, from 0 to 1")
        by_degree = processor.node_features == "degree"
        if by_degree != (config.edge_types == 0) or by_degree != (hops == 0) or (by_degree and config.strong):
            raise InvalidRecipe(
                "graphs known by their degrees go with processor.node_features 'degree', model.edge_types 0, "
                "model.strong false and pretext.hops 0; molecules with none of these"
            )
        if by_degree and config.node_types != processor.max_degree + 2:
            raise InvalidRecipe(
                f"model.node_types is {config.node_types}; degrees 0 to {processor.max_degree} and the mask need "
                f"{processor.max_degree + 2}"
            )
        self.perturbation: Perturbation = (
            LinkPerturbation(config, config.perturbed, mask_share, edge_share)
            if by_degree
            else BondPerturbation(config, config.perturbed, config.strong, mask_share, edge_share, hops)
        )

    def cost(self, sample: Sample) -> int:
        """Return the nodes of all candidates; 0 for a graph that has no edge to exchange."""
        if not self.perturbation.usable(self.processor.prepare(sample)):
            return 0
        return self.processor.cost(sample) * (1 + self.config.perturbed + self.config.strong)

    def view(self, sample: Sample, generator: torch.Generator) -> list[Candidate]:
        """Return the candidates of one graph."""
        return self.perturbation.candidates(self.processor.prepare(sample), generator)

    def collate(self, views: Sequence[list[Candidate]], randomness: Randomness) -> dict[str, Tensor]:
        """Put all candidates of a batch side by side.

        Returns:
            What `join` returns, and ``distances`` ``(graphs, candidates)`` int64.
        """
        joined = join([candidate.graph for view in views for candidate in view])
        return {**joined, "distances": torch.tensor([[candidate.distance for candidate in view] for view in views])}
