"""Perturbed copies of a graph with a known edit distance (D-SLA, section 3.1 and appendix B).

Every copy, the original included, has freshly masked nodes; what tells copies apart are their edges. All draws come
from one generator.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch_geometric.utils import k_hop_subgraph

from domains.graphs.molecules.configuration import ChemGNNConfig
from domains.graphs.molecules.masking import hide_nodes
from domains.graphs.molecules.processing import Graph

BOND_TYPE_SHARES = torch.tensor([0.375, 0.296, 0.011, 0.318])
"""How often a bond added to a molecule is single, double, triple or aromatic."""
BOND_DIRECTION_SHARES = torch.tensor(
    [[0.8723, 0.0867, 0.0410], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.9893, 0.0092, 0.0015]]
)
"""For each of these types, how often it has no direction, points up or points down."""
STRONG = 4
"""Strength of the strongly perturbed copy."""


class Candidate(NamedTuple):
    """A copy of a graph, and the edits that made it."""

    graph: Graph
    distance: int


class Perturbation(Protocol):
    """A way of making candidates."""

    def usable(self, graph: Graph) -> bool:
        """Tell whether there is anything to perturb."""

    def candidates(self, graph: Graph, generator: torch.Generator) -> list[Candidate]:
        """Return the original, its perturbed copies, and the strongly perturbed one where there is one."""


def choose(count: int, of: int, generator: torch.Generator) -> Tensor:
    """Return ``count`` different numbers below ``of``, ``(count,)`` int64."""
    return torch.randperm(of, generator=generator)[:count]


class BondPerturbation:
    """Exchanges bonds of a molecule within some hops of a random atom."""

    def __init__(self, config: ChemGNNConfig, copies: int, strong: bool, mask: float, share: float, hops: int) -> None:
        """Set how strongly.

        Args:
            config: Names the mask.
            copies: Perturbed copies, at strengths 1 to this number.
            strong: One more copy at strength `STRONG`, perturbed all over the molecule.
            mask: Share of the region's atoms to mask.
            share: Share of the region's bonds to exchange at strength 1.
            hops: Reach of the region around an atom.
        """
        self.config, self.copies, self.strong = config, copies, strong
        self.mask, self.share, self.hops = mask, share, hops

    def usable(self, graph: Graph) -> bool:
        """Tell whether the molecule has a bond; the published code fails on one without."""
        return len(graph.edges) > 0

    def candidates(self, graph: Graph, generator: torch.Generator) -> list[Candidate]:
        """Return the original, its perturbed copies, and the strongly perturbed one where there is one."""
        # An atom without bonds (an ion of a salt) has no region to perturb: the published code fails on it.
        bonded = graph.edges.unique()
        centre = int(bonded[torch.randint(len(bonded), (), generator=generator)])
        region, _, _, inside = k_hop_subgraph(centre, self.hops, graph.edges.t(), num_nodes=len(graph.x))
        found = [Candidate(self._masked(graph, region, generator), 0)]
        found += [self._exchanged(graph, region, inside, i, generator) for i in range(1, self.copies + 1)]
        if self.strong:
            everything = torch.ones(len(graph.edges), dtype=torch.bool)
            found.append(self._exchanged(graph, torch.arange(len(graph.x)), everything, STRONG, generator))
        return found

    def _masked(self, graph: Graph, region: Tensor, generator: torch.Generator) -> Graph:
        chosen = region[choose(int(self.mask * len(region)), len(region), generator)]
        return graph._replace(x=hide_nodes(graph.x, chosen, self.config))

    def _exchanged(
        self, graph: Graph, region: Tensor, inside: Tensor, strength: int, generator: torch.Generator
    ) -> Candidate:
        """Remove bonds of a region and add as many between its atoms, which may bring a removed one back."""
        graph = self._masked(graph, region, generator)
        assert graph.edge_attr is not None
        bonds = inside[::2].nonzero()[:, 0]  # a bond's two directions are neighbours, and both inside or not
        count = min(max(1, int(len(bonds) * self.share * strength)), len(bonds))
        kept = torch.ones(len(inside) // 2, dtype=torch.bool)
        kept[bonds[choose(count, len(bonds), generator)]] = False
        kept = kept.repeat_interleave(2)
        edges = graph.edges[kept]
        taken = torch.zeros(len(graph.x), len(graph.x), dtype=torch.bool)
        taken[edges[:, 0], edges[:, 1]] = True
        # The removed bonds alone leave as many places free as are filled.
        free = torch.tril(~taken[region][:, region], -1).nonzero()
        ends = region[free[choose(count, len(free), generator)]]
        kinds = torch.multinomial(BOND_TYPE_SHARES, count, replacement=True, generator=generator)
        directions = torch.multinomial(BOND_DIRECTION_SHARES[kinds], 1, generator=generator)[:, 0]
        added = torch.stack([ends, ends.flip(1)], dim=1).view(-1, 2)
        attributes = torch.stack([kinds, directions], dim=1).repeat_interleave(2, dim=0)
        graph = graph._replace(
            edges=torch.cat([edges, added]), edge_attr=torch.cat([graph.edge_attr[kept], attributes])
        )
        return Candidate(graph, count)


class LinkPerturbation:
    """Exchanges directed edges all over a graph without edge features: the paper's variant for social networks."""

    def __init__(self, config: ChemGNNConfig, copies: int, mask: float, share: float) -> None:
        """Set how strongly.

        Args:
            config: Names the mask.
            copies: Perturbed copies, at strengths 1 to this number.
            mask: Share of the nodes to mask.
            share: Share of the directed edges to exchange at strength 1.
        """
        self.config, self.copies, self.mask, self.share = config, copies, mask, share

    def usable(self, graph: Graph) -> bool:
        """Tell whether the graph has an edge and is no clique, in which none can be added."""
        nodes = len(graph.x)
        return 0 < len(graph.edges) < nodes * (nodes - 1)

    def candidates(self, graph: Graph, generator: torch.Generator) -> list[Candidate]:
        """Return the original and its perturbed copies."""
        return [self._exchanged(graph, strength, generator) for strength in range(self.copies + 1)]

    def _exchanged(self, graph: Graph, strength: int, generator: torch.Generator) -> Candidate:
        nodes, present = len(graph.x), len(graph.edges)
        x = hide_nodes(graph.x, choose(int(self.mask * nodes), nodes, generator), self.config)
        free = torch.ones(nodes, nodes, dtype=torch.bool).fill_diagonal_(False)
        free[graph.edges[:, 0], graph.edges[:, 1]] = False
        places = free.nonzero()
        count = min(max(1, int(present * self.share)) * strength, len(places), present)
        kept = graph.edges[choose(present - count, present, generator)]
        added = places[choose(count, len(places), generator)]
        # A removal and an addition are an edit each.
        return Candidate(Graph(x, torch.cat([kept, added]), None), 2 * count)
