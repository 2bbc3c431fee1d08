"""Pretraining batches of ParetoGNN: what each task drops, masks, shuffles and asks for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from domains.graphs.paretognn.configuration import ParetoGNNConfig
from domains.graphs.processing import GraphFeatures, GraphProcessor
from domains.graphs.sampling import NeighbourSampler
from hub.errors import InvalidRecipe
from hub.reading import Sample
from hub.training.collation import Collator, Randomness


class ParetoGNNCollator(Collator):
    """Graphs to a flat batch with the views of all tasks, each graph's from its own generator."""

    processor: GraphProcessor
    config: ParetoGNNConfig

    def __init__(
        self,
        processor: GraphProcessor,
        config: ParetoGNNConfig,
        mask_rate: float = 0.5,
        recon_drop: float = 0.35,
        contrast_drop: float = 0.3,
        decor_drop: float = 0.2,
        link_drop: float = 0.4,
        anchors: int = 512,
        links: int = 5_120,
        fanouts: Sequence[int] = (),
        seeds: int = 0,
    ) -> None:
        """Set what is dropped.

        Args:
            processor: Makes the features.
            config: Of the model.
            mask_rate: Share of each graph's nodes to rebuild (``p_recon``).
            recon_drop: Probability of an edge to be dropped there.
            contrast_drop: Probability of an edge, and of a feature, to be dropped in a view of ``p_minsg``.
            decor_drop: The same for ``p_decor``.
            link_drop: Probability of a feature to be dropped for ``p_link``.
            anchors: Most nodes of a graph to contrast.
            links: Most edges of a graph to ask for, each with a random pair that has none.
            fanouts: Neighbours to sample at each hop; empty to train on whole graphs.
            seeds: Nodes that a sampled part of a graph starts from.

        Raises:
            InvalidRecipe: The values do not fit each other, or not the model.
        """
        super().__init__(processor, config)
        if config.input_dim != processor.width:
            raise InvalidRecipe(
                f"the processor makes {processor.width} features a node, the model reads input_dim={config.input_dim}"
            )
        rates = {"mask_rate": mask_rate, "recon_drop": recon_drop, "contrast_drop": contrast_drop}
        rates |= {"decor_drop": decor_drop, "link_drop": link_drop}
        for name, rate in rates.items():
            if not 0 <= rate < 1:
                raise InvalidRecipe(f"pretext.{name} is {rate}; it lies between 0 and 1")
        if anchors < 2 or links < 1:
            raise InvalidRecipe(f"pretext.anchors={anchors} and links={links}: at least 2 and 1")
        if bool(fanouts) != bool(seeds):
            raise InvalidRecipe("pretext.fanouts and pretext.seeds go together")
        self.mask_rate = mask_rate
        self.recon_drop = recon_drop
        self.contrast_drop = contrast_drop
        self.decor_drop = decor_drop
        self.link_drop = link_drop
        self.anchors = anchors
        self.links = links
        self.sampler = NeighbourSampler(fanouts, seeds) if fanouts else None

    def cost(self, sample: Sample) -> int:
        """Return the number of nodes; 0 for a single node, which has no other to be told from.

        Raises:
            InvalidInput: The nodes have not the features that the model reads.
        """
        self.processor.check(sample)
        nodes = self.processor.cost(sample)
        return nodes if nodes > 1 else 0

    def view(self, sample: Sample, generator: torch.Generator) -> GraphFeatures:
        """Return the features and edges of a graph, or of a sampled part of it."""
        features = self.processor.prepare(sample)
        return features if self.sampler is None else self.sampler.sample(features, generator)

    def collate(self, views: Sequence[GraphFeatures], randomness: Randomness) -> dict[str, Tensor]:
        """Put graphs one after the other and draw the views of all tasks.

        Returns:
            ``x``, ``edges`` and ``batch`` as the processor pads them, and: ``recon_masked`` ``(nodes,)`` bool and
            ``recon_edges``; ``shuffle`` ``(nodes,)``; for both views i of ``minsg`` and ``decor`` ``..i_edges`` and
            ``..i_columns`` ``(graphs, features)``, 1 where a feature is kept; ``anchors`` ``(anchors,)``;
            ``link_edges``, ``link_columns``, ``link_pairs`` ``(pairs, 2)`` and ``link_labels`` ``(pairs,)``.
        """
        parts: dict[str, list[Tensor]] = {}
        start = 0
        for view, generator in zip(views, randomness.samples, strict=True):
            for name, tensor in self._draw(view, generator).items():
                # What numbers nodes counts through the batch.
                numbers = name.endswith("_edges") or name in ("shuffle", "anchors", "link_pairs")
                parts.setdefault(name, []).append(tensor + start if numbers else tensor)
            start += len(view.x)
        return self.processor.pad(views) | {name: torch.cat(tensors) for name, tensors in parts.items()}

    def _draw(self, view: GraphFeatures, generator: torch.Generator) -> dict[str, Tensor]:
        nodes, features = view.x.shape
        drawn: dict[str, Tensor] = {}
        masked = torch.zeros(nodes, dtype=torch.bool)
        masked[torch.randperm(nodes, generator=generator)[: max(1, int(self.mask_rate * nodes))]] = True
        drawn |= {"recon_masked": masked, "recon_edges": _drop_edges(view.edges, self.recon_drop, generator)}
        drawn["shuffle"] = torch.randperm(nodes, generator=generator)
        for task, rate in (("minsg", self.contrast_drop), ("decor", self.decor_drop)):
            for i in (1, 2):
                drawn[f"{task}{i}_edges"] = _drop_edges(view.edges, rate, generator)
                drawn[f"{task}{i}_columns"] = _kept_columns(features, rate, generator)
        drawn["anchors"] = torch.randperm(nodes, generator=generator)[: self.anchors]
        drawn["link_columns"] = _kept_columns(features, self.link_drop, generator)
        return drawn | self._draw_links(view, generator)

    def _draw_links(self, view: GraphFeatures, generator: torch.Generator) -> dict[str, Tensor]:
        """Choose edges to ask for, hide them in both directions, and as many pairs of nodes without an edge."""
        nodes = len(view.x)
        low, high = view.edges.min(1).values, view.edges.max(1).values
        codes = low * nodes + high
        unique = codes[low != high].unique()
        # Half of a small graph's edges stay, or nothing would be left to tell the others by.
        count = min(self.links, (len(unique) + 1) // 2)
        asked = unique[torch.randperm(len(unique), generator=generator)[:count]]
        random = torch.randint(nodes, (2, 4 * count), generator=generator)
        candidates = random.min(0).values * nodes + random.max(0).values
        absent = candidates[(random[0] != random[1]) & ~torch.isin(candidates, unique)][:count]
        pairs = torch.cat([asked, absent])
        return {
            "link_edges": view.edges[~torch.isin(codes, asked)],
            "link_pairs": torch.stack([pairs // nodes, pairs % nodes], dim=1),
            "link_labels": torch.cat([torch.ones(len(asked)), torch.zeros(len(absent))]),
        }


def _drop_edges(edges: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Drop each directed edge with a probability; self loops stay."""
    kept = torch.rand(len(edges), generator=generator) >= rate
    return edges[kept | (edges[:, 0] == edges[:, 1])]


def _kept_columns(features: int, rate: float, generator: torch.Generator) -> Tensor:
    """Return which features are kept, ``(1, features)``, 0 or 1."""
    return (torch.rand(1, features, generator=generator) >= rate).float()
