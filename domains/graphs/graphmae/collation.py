"""Pretraining batches of GraphMAE: which nodes are masked, and how."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from scipy.sparse import csr_array, vstack
from torch import Tensor
from torch_geometric.data import Data

from domains.graphs.graphmae.configuration import GraphMAEConfig
from domains.graphs.processing import GraphFeatures, GraphProcessor
from domains.graphs.sampling import NeighbourSampler
from hub.errors import InvalidRecipe
from hub.reading import Sample
from hub.ssl.masking import node_mask
from hub.training.collation import Collator, Randomness

SCOPES = ("batch", "graph")
CACHED_NUMBERS = 1 << 26
"""Features (nodes times width) of prepared graphs that are kept from visit to visit."""


class Corruption(NamedTuple):
    """What happens to each node of a graph or batch; see `GraphMAEForPreTraining.forward`."""

    masked: Tensor
    token: Tensor
    source: Tensor


class GraphMAECollator(Collator):
    """Graphs to a flat batch with masked nodes."""

    processor: GraphProcessor
    config: GraphMAEConfig

    def __init__(
        self,
        processor: GraphProcessor,
        config: GraphMAEConfig,
        mask_rate: float = 0.5,
        replace_rate: float = 0.0,
        drop_edge_rate: float = 0.0,
        scope: str = "batch",
        sparse: bool = False,
        fanouts: Sequence[int] = (),
        seeds: int = 0,
    ) -> None:
        """Set the masking.

        Args:
            processor: Makes the features.
            config: Of the model.
            mask_rate: Share of the nodes to mask.
            replace_rate: Share of the masked nodes that get another node's features instead of the token.
            drop_edge_rate: Probability of each directed edge, self loops included, to be hidden from the encoder,
                which then gets a fresh self loop at every node beside those that are left.
            scope: Over what the share is taken: the ``batch``, as published, so that a small graph may be masked
                whole or not at all; or each ``graph``, so that the masks do not depend on what shares a batch.
            sparse: Hand the encoder the features that are not zero alone; faster where few are.
            fanouts: Neighbours to sample at each hop; empty to train on whole graphs. For graphs that do not fit.
            seeds: Nodes that a sampled part of a graph starts from.

        Raises:
            InvalidRecipe: The values do not fit each other, or not the model.
        """
        super().__init__(processor, config)
        if config.input_dim != processor.width:
            raise InvalidRecipe(
                f"the processor makes {processor.width} features a node, the model reads input_dim={config.input_dim}"
            )
        if scope not in SCOPES:
            raise InvalidRecipe(f"pretext.scope {scope!r} is none of {', '.join(SCOPES)}")
        for name, rate in (
            ("mask_rate", mask_rate),
            ("replace_rate", replace_rate),
            ("drop_edge_rate", drop_edge_rate),
        ):
            if not 0 <= rate < 1 or (name == "mask_rate" and rate == 0):
                raise InvalidRecipe(f"pretext.{name} is {rate}; it lies between 0 and 1")
        if sparse and (config.encoder != "gat" or config.residual):
            raise InvalidRecipe("pretext.sparse is for a gat encoder without residual paths")
        if bool(fanouts) != bool(seeds):
            raise InvalidRecipe("pretext.fanouts and pretext.seeds go together")
        self.mask_rate = mask_rate
        self.replace_rate = replace_rate
        self.drop_edge_rate = drop_edge_rate
        self.scope = scope
        self.sparse = sparse
        self.sampler = NeighbourSampler(fanouts, seeds) if fanouts else None
        self._cache: OrderedDict[int, tuple[Data, GraphFeatures]] = OrderedDict()
        self._cached_numbers = 0

    def cost(self, sample: Sample) -> int:
        """Return 1: nothing is padded, so graphs of all sizes share a batch, drawn at random as published.

        Raises:
            InvalidInput: Its nodes have not the features that the model reads.
        """
        self.processor.check(sample)
        return 1

    def view(self, sample: Sample, generator: torch.Generator) -> GraphFeatures:
        """Return the features and edges of a graph, or of a sampled part of it."""
        features = self._prepared(sample)
        return features if self.sampler is None else self.sampler.sample(features, generator)

    def _prepared(self, sample: Sample) -> GraphFeatures:
        """Prepare a graph once: it is the same on every visit."""
        key = id(sample.data)
        if key not in self._cache:
            # The graph is kept with its features, so that its identity stays its own.
            features = self.processor.prepare(sample)
            if self.sparse and self.sampler is None:
                features = features._replace(entries=csr_array(features.x.numpy()))
            self._cache[key] = (sample.data, features)
            self._cached_numbers += features.x.numel()
            while self._cached_numbers > CACHED_NUMBERS and len(self._cache) > 1:
                _, (_, old) = self._cache.popitem(last=False)
                self._cached_numbers -= old.x.numel()
        return self._cache[key][1]

    def collate(self, views: Sequence[GraphFeatures], randomness: Randomness) -> dict[str, Tensor]:
        """Put graphs one after the other and mask nodes; see `GraphMAEForPreTraining.forward` for the tensors."""
        batch = self.processor.pad(views)
        own = randomness.samples
        if self.scope == "batch":
            corruption = self._corrupt(len(batch["x"]), randomness.shared)
        else:
            parts = [self._corrupt(len(v.x), g) for v, g in zip(views, own, strict=True)]
            start = 0
            for part in parts:
                part.source.add_(start)
                start += len(part.source)
            corruption = Corruption(*map(torch.cat, zip(*parts, strict=True)))
        batch |= corruption._asdict()
        if self.drop_edge_rate:
            kept = torch.cat(
                [torch.rand(len(v.edges), generator=g) >= self.drop_edge_rate for v, g in zip(views, own, strict=True)]
            )
            loops = torch.arange(len(batch["x"]))
            batch["encoder_edges"] = torch.cat([batch["edges"][kept], torch.stack([loops, loops], dim=1)])
        if self.sparse:
            entries = [csr_array(v.x.numpy()) if v.entries is None else v.entries for v in views]
            batch["entries"], batch["values"] = _corrupt_entries(vstack(entries, format="csr"), corruption)
        return batch

    def _corrupt(self, nodes: int, generator: torch.Generator) -> Corruption:
        # A graph so small that the share rounds to no node has one masked; the margin is for the rounding of 1 / n.
        rate = max(self.mask_rate, (1 + 1e-9) / nodes)
        drawn = node_mask(nodes, min(rate, 1.0), generator=generator, replace_rate=self.replace_rate)
        masked, token = torch.zeros(2, nodes, dtype=torch.bool)
        masked[drawn.masked] = True
        token[drawn.token] = True
        source = torch.arange(nodes)
        source[drawn.noise] = drawn.source
        return Corruption(masked, token, source)


def _corrupt_entries(matrix: csr_array, corruption: Corruption) -> tuple[Tensor, Tensor]:
    """Return node and feature of the corrupted features' entries that are not zero, and their values."""
    entries = matrix[corruption.source.numpy()].tocoo()
    nodes, columns = torch.from_numpy(entries.row).long(), torch.from_numpy(entries.col).long()
    kept = ~corruption.token[nodes]
    return torch.stack([nodes[kept], columns[kept]], dim=1), torch.from_numpy(entries.data)[kept]
