"""Second-order graph matching between two views of the same images (LVM-Med, Eq. 2 to 6 and Algorithm 1).

The solver is a black box; its gradient is estimated by implicit maximum likelihood (Niepert et al. 2021). This is
`hub.ssl.graph_matching` for the graphs of a whole batch at once, whose problems several processes can share.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from domains.medical.lvm_med.configuration import LVMMedConfig
from domains.medical.lvm_med.graphs import MessagePassing, edges_of, neighbours
from domains.medical.lvm_med.local import local_terms
from domains.medical.lvm_med.solver import Problem, solve_all
from hub.ssl import hamming_loss
from hub.ssl.precision import in_full_precision

RELEASED_MARGIN = 1.0
RELEASED_EDGES = 0.5


class View(NamedTuple):
    """One view of some images.

    Attributes:
        nodes: ``(images, features)`` projections of the pooled maps.
        cells: ``(images, cells, channels)`` of the encoder's map.
        places: ``(images, cells, 2)`` where each cell's centre lies in its whole image.
    """

    nodes: Tensor
    cells: Tensor
    places: Tensor

    def graphs(self, images: slice, count: int) -> View:
        """Return some images as ``count`` graphs of one size, with a leading axis for them."""
        return View(*(part[images].unflatten(0, (count, -1)) for part in self))


class Scores(NamedTuple):
    """What is to be maximised; a leading axis for graphs.

    Attributes:
        vertices: ``(graphs, nodes, nodes)``, larger is more alike.
        edges: ``(graphs, edges, edges)``.
        edges_s: ``(graphs, 2, edges)`` int64.
        edges_t: ``(graphs, 2, edges)`` int64.
    """

    vertices: Tensor
    edges: Tensor
    edges_s: Tensor
    edges_t: Tensor


class Matched(NamedTuple):
    """Result of matching some graphs.

    Attributes:
        loss: Mean over graphs of the Hamming distance to the true matching, twice the number of wrong images. Its
            gradient is the estimate, as the distance itself has none.
        wrong: ``(graphs,)`` share of the images that were matched to another.
        assignment: ``(graphs, nodes)`` int64, the node of t for each node of s.
    """

    loss: Tensor
    wrong: Tensor
    assignment: Tensor


class GraphMatching(nn.Module):
    """Builds graphs over the images of a batch, passes messages, scores and matches."""

    def __init__(self, config: LVMMedConfig) -> None:
        """Create the message passing that both views share."""
        super().__init__()
        self.config = config
        self.message_passing = MessagePassing(config.projection_size, config.message_passing)

    def forward(self, view_s: View, view_t: View, generator: torch.Generator) -> Matched:
        """Match two views of the same images.

        The images are taken in their order, ``graph_nodes`` to a graph. What is left over makes a smaller graph.

        Args:
            view_s: First view.
            view_t: Second view.
            generator: Of the noise and of the solver's restarts (CPU).

        Raises:
            ValueError: There are fewer than two images, so that nothing can be matched wrongly.
        """
        images, size = len(view_s.nodes), self.config.graph_nodes
        if images < 2:
            raise ValueError("graph matching needs a batch of at least 2 images")
        whole = images // size
        parts = [(slice(0, whole * size), whole)] if whole else []
        if images - whole * size >= 2:
            parts.append((slice(whole * size, images), 1))
        found = [
            match(self.scores(view_s.graphs(rows, count), view_t.graphs(rows, count)), self.config, generator)
            for rows, count in parts
        ]
        total = sum(count for _, count in parts)
        loss = torch.stack([m.loss * count for m, (_, count) in zip(found, parts, strict=True)]).sum() / total
        return Matched(loss, torch.cat([m.wrong for m in found]), found[0].assignment)

    @in_full_precision
    def scores(self, view_s: View, view_t: View) -> Scores:
        """Return the scores of some graphs of one size; the views have a leading axis for graphs."""
        config = self.config
        count = min(config.graph_neighbours, view_s.nodes.shape[1] - 1)
        nearest_s, nearest_t = (neighbours(v.nodes, count) for v in (view_s, view_t))
        nodes_s = self.message_passing(view_s.nodes, nearest_s)
        nodes_t = self.message_passing(view_t.nodes, nearest_t)
        local = None
        if config.local and config.alpha < 1:
            by_place, by_features = config.local_matches
            local = local_terms(view_s.cells, view_t.cells, view_s.places, view_t.places, by_place, by_features)
        if not config.second_order:
            # Graphs without edges: a linear assignment problem.
            nearest_s, nearest_t = nearest_s[..., :0], nearest_t[..., :0]
        edges_s, edges_t = edges_of(nearest_s), edges_of(nearest_t)
        affinity = released_affinity if config.variant == "released" else cosine
        vertices = affinity(nodes_s, nodes_t)
        edges = affinity(along(nodes_s, edges_s), along(nodes_t, edges_t))
        if config.variant == "released":
            vertices = vertices - RELEASED_MARGIN * torch.eye(vertices.shape[-1], device=vertices.device)
            edges = RELEASED_EDGES * edges
        elif local is not None:
            vertices = config.alpha * vertices + (1 - config.alpha) * local
        return Scores(vertices, edges, edges_s, edges_t)


def cosine(left: Tensor, right: Tensor) -> Tensor:
    """Return the cosine of each row of one to each of the other, ``(..., rows, others)`` (Eq. 3 and 4)."""
    return F.normalize(left, dim=-1) @ F.normalize(right, dim=-1).transpose(-1, -2)


def released_affinity(left: Tensor, right: Tensor) -> Tensor:
    """Return ``softplus(inner product) - 0.5`` of each row of one with each of the other, as the released code."""
    return F.softplus(left @ right.transpose(-1, -2)) - 0.5


def along(nodes: Tensor, edges: Tensor) -> Tensor:
    """Return the difference of the two nodes of each edge: ``(graphs, edges, features)``."""
    starts, ends = (edges[:, k, :, None].expand(-1, -1, nodes.shape[-1]) for k in (0, 1))
    return nodes.gather(1, starts) - nodes.gather(1, ends)


@in_full_precision
def match(scores: Scores, config: LVMMedConfig, generator: torch.Generator) -> Matched:
    """Match graphs of one size; node i of one view belongs to node i of the other.

    Args:
        scores: With gradients.
        config: ``noise_scale``, ``strength``, ``backward`` and the solver's options are used.
        generator: Of noise and restarts (CPU).
    """
    vertices, edges, edges_s, edges_t = scores
    graphs, nodes = vertices.shape[:2]
    with torch.no_grad():
        noisy_vertices = vertices + config.noise_scale * gumbel_like(vertices, generator)
        noisy_edges = edges + config.noise_scale * gumbel_like(edges, generator)
        truth = torch.eye(nodes, device=vertices.device).expand(graphs, -1, -1)
        # Both solves of a graph start from the same restarts, so that they differ by the scores alone.
        seeds = torch.randint(2**31, (graphs,), generator=generator).tolist()
        against = config.strength * (1 - 2 * truth)
        wanted = [noisy_vertices] + ([noisy_vertices - against] if config.backward == "solve" else [])
        problems = [
            Problem(*parts)
            for part in wanted
            for parts in zip(part.cpu(), noisy_edges.cpu(), edges_s.cpu(), edges_t.cpu(), seeds, strict=True)
        ]
        solved = solve_all(problems, config.solver_restarts, config.solver_processes).to(vertices.device)
        found = F.one_hot(solved, nodes).to(vertices)
        matching = found[:graphs]
        target = found[graphs:] if config.backward == "solve" else truth
        pairs = _carried(matching, edges_s, edges_t) - _carried(target, edges_s, edges_t)
        hamming = hamming_loss(matching, truth) / graphs
        wrong = 1 - (matching * truth).sum((1, 2)) / nodes
    surrogate = ((matching - target) * vertices).sum() + (pairs * edges).sum()
    surrogate = surrogate / (config.strength * graphs)
    # The value of the Hamming loss with the gradient of the surrogate.
    return Matched(hamming + surrogate - surrogate.detach(), wrong, solved[:graphs])


def gumbel_like(scores: Tensor, generator: torch.Generator) -> Tensor:
    """Return Gumbel(0, 1) noise, drawn on the CPU so that it is the same on every device."""
    uniform = torch.rand(scores.shape, generator=generator, dtype=torch.float64)
    # The smallest draw is 0, whose Gumbel value would be minus infinity.
    return -torch.log(-torch.log(uniform.clamp(min=1e-12))).to(scores)


def _carried(matching: Tensor, edges_s: Tensor, edges_t: Tensor) -> Tensor:
    """Return the products v_ia v_jb, ``(graphs, edges_s, edges_t)``: 1 where an edge is carried onto an edge."""

    def ends(k: int) -> Tensor:
        rows = matching.gather(1, edges_s[:, k, :, None].expand(-1, -1, matching.shape[2]))
        return rows.gather(2, edges_t[:, k, None].expand(-1, rows.shape[1], -1))

    return ends(0) * ends(1)
