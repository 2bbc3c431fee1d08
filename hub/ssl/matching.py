"""Graph matching as a pretext task: gradients through a black-box solver (LVM-Med)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hub.ssl._checks import check_positive, check_same_shape
from hub.ssl.matching_solver import solve_matching
from hub.ssl.precision import in_full_precision


class MatchingLoss(NamedTuple):
    """Result of matching two views of one graph.

    Attributes:
        loss: Hamming distance to the true matching, twice the number of wrong nodes; its
            gradient is the estimate, as the distance itself has none.
        wrong_share: share of the nodes matched to another sample: the number to watch.
        assignment: `(nodes,)` int64, the node of t for each node of s.
    """

    loss: Tensor
    wrong_share: Tensor
    assignment: Tensor


@torch.no_grad()
@in_full_precision
def knn_edges(z: Tensor, neighbours: int) -> Tensor:
    """Directed edges from every node to its nearest neighbours in Euclidean distance.

    Args:
        z: `(nodes, dim)`.
        neighbours: edges of each node, without itself.

    Returns:
        `(2, nodes * neighbours)` int64, centre over neighbour, nearest first.

    Raises:
        ValueError: if there are not that many other nodes.
    """
    check_positive(neighbours=neighbours)
    if len(z) <= neighbours:
        raise ValueError(f"{neighbours} neighbours need more than {len(z)} nodes")
    distance = torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist")
    distance.fill_diagonal_(float("inf"))
    nearest = distance.topk(neighbours, dim=1, largest=False).indices
    centre = torch.arange(len(z), device=z.device).repeat_interleave(neighbours)
    return torch.stack([centre, nearest.flatten()])


@in_full_precision
def vertex_affinity(nodes_s: Tensor, nodes_t: Tensor) -> Tensor:
    """Cosine of every node of one view to every node of the other.

    Nguyen et al. 2023 (LVM-Med), the global part of Eq. 3.

    Args:
        nodes_s: `(nodes, dim)` after message passing.
        nodes_t: `(nodes, dim)`.

    Returns:
        `(nodes, nodes)`.
    """
    return F.normalize(nodes_s, dim=1) @ F.normalize(nodes_t, dim=1).T


@in_full_precision
def edge_affinity(nodes_s: Tensor, nodes_t: Tensor, edges_s: Tensor, edges_t: Tensor) -> Tensor:
    """Cosine of every edge of one view to every edge of the other; an edge is a difference.

    Nguyen et al. 2023 (LVM-Med), Eq. 4.

    Args:
        nodes_s: `(nodes, dim)` after message passing.
        nodes_t: `(nodes, dim)`.
        edges_s: `(2, edges_s)` int64.
        edges_t: `(2, edges_t)` int64.

    Returns:
        `(edges_s, edges_t)`.
    """
    along_s = nodes_s[edges_s[0]] - nodes_s[edges_s[1]]
    along_t = nodes_t[edges_t[0]] - nodes_t[edges_t[1]]
    return F.normalize(along_s, dim=1) @ F.normalize(along_t, dim=1).T


@in_full_precision
def graph_matching(
    vertex_scores: Tensor,
    edge_scores: Tensor,
    edges_s: Tensor,
    edges_t: Tensor,
    *,
    generator: torch.Generator,
    strength: float = 80.0,
    noise_scale: float = 1.0,
    solve_target: bool = False,
    restarts: int = 0,
) -> MatchingLoss:
    """Match two views of the same samples; node i of one belongs to node i of the other.

    Nguyen et al. 2023 (LVM-Med), Eq. 5 and 6 and Algorithm 1: implicit maximum likelihood
    (Niepert et al. 2021). The scores are perturbed by Gumbel noise and matched; the gradient is
    `(v - v_target) / strength` for vertices and the same with products `v_ia v_jb` for edges,
    where the target maximises the scores moved against the loss by `strength`. With the paper's
    80 the move outweighs every score, the target is the true matching, and the second solve is
    skipped unless `solve_target`.

    Args:
        vertex_scores: `(nodes, nodes)`, larger is more alike.
        edge_scores: `(edges_s, edges_t)`.
        edges_s: `(2, edges_s)` int64.
        edges_t: `(2, edges_t)` int64.
        generator: source of noise and restarts (CPU).
        strength: lambda of the perturbation.
        noise_scale: of the Gumbel noise. At the paper's 1 it drowns the cosines: even perfect
            embeddings match wrongly in half of 16 nodes. 0.1 does not.
        solve_target: solve for the target, for a small `strength`.
        restarts: random restarts of the solver.

    Returns:
        Loss, share of wrong nodes and the matching of this graph. Average over graphs.

    Raises:
        ValueError: if the shapes do not fit, or there are fewer than two nodes.
    """
    check_positive(strength=strength)
    nodes = len(vertex_scores)
    if nodes < 2:
        raise ValueError(f"matching needs a graph of at least 2 nodes, got {nodes}")

    def solve(vertex: Tensor) -> Tensor:
        found = solve_matching(vertex, noisy_edges, edges_s, edges_t, restarts=restarts, generator=generator)
        return F.one_hot(found, nodes).to(vertex)

    with torch.no_grad():
        noisy_vertices = vertex_scores + noise_scale * _gumbel_like(vertex_scores, generator)
        noisy_edges = edge_scores + noise_scale * _gumbel_like(edge_scores, generator)
        truth = torch.eye(nodes, dtype=vertex_scores.dtype, device=vertex_scores.device)
        match = solve(noisy_vertices)
        target = truth
        if solve_target:
            target = solve(noisy_vertices - strength * (1 - 2 * truth))
        vertex_gradient = (match - target) / strength
        pairs = _edge_pairs(match, edges_s, edges_t) - _edge_pairs(target, edges_s, edges_t)
        edge_gradient = pairs / strength
        hamming = hamming_loss(match, truth)

    surrogate = (vertex_gradient * vertex_scores).sum() + (edge_gradient * edge_scores).sum()
    return MatchingLoss(
        # The value of the Hamming loss with the gradient of the surrogate.
        loss=hamming + surrogate - surrogate.detach(),
        wrong_share=hamming / (2 * nodes),
        assignment=match.argmax(dim=1),
    )


def hamming_loss(match: Tensor, truth: Tensor) -> Tensor:
    """Number of entries in which two permutation matrices differ.

    Nguyen et al. 2023 (LVM-Med), Eq. 6.

    Args:
        match: `(nodes, nodes)`.
        truth: `(nodes, nodes)`.

    Returns:
        Scalar.

    Raises:
        ValueError: if the shapes differ.
    """
    check_same_shape(match=match, truth=truth)
    return (match * (1 - truth) + truth * (1 - match)).sum()


def _edge_pairs(match: Tensor, edges_s: Tensor, edges_t: Tensor) -> Tensor:
    """`(edges_s, edges_t)` products v_ia v_jb: 1 where an edge is carried onto an edge."""
    start = match[edges_s[0]][:, edges_t[0]]
    return start * match[edges_s[1]][:, edges_t[1]]


def _gumbel_like(scores: Tensor, generator: torch.Generator) -> Tensor:
    uniform = torch.rand(scores.shape, generator=generator, dtype=torch.float64)
    # The smallest draw is 0, whose Gumbel value would be minus infinity.
    return -torch.log(-torch.log(uniform.clamp(min=1e-12))).to(scores)
