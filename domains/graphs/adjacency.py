"""Message passing over the edges of a batch: the one place where node states meet edges.

Edges are sorted by target once, and every sum over incoming edges is a product with a sparse matrix, forward and
backward. Gathering the states of both ends of each edge, as a general message-passing layer does, takes several times
as long on a CPU.
"""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch_geometric.utils import softmax

with warnings.catch_warnings():
    # Said once a process, of a part of torch that has been in use for years.
    warnings.simplefilter("ignore")
    torch.sparse.check_sparse_tensor_invariants.disable()
    torch.sparse_csr_tensor(torch.tensor([0, 0]), torch.zeros(0, dtype=torch.int64), torch.zeros(0), (1, 1))


class Adjacency:
    """Edges of a batch of graphs, sorted by target.

    Attributes:
        source: ``(edges,)`` int64, node that an edge leaves.
        target: ``(edges,)`` int64, ascending, node that it enters.
        pointers: ``(targets + 1,)`` int64; the edges into target i are ``pointers[i]`` to ``pointers[i + 1]``.
        sources: Number of nodes that edges may leave.
        targets: Number of nodes that edges may enter.
    """

    def __init__(self, edges: Tensor, sources: int, targets: int | None = None) -> None:
        """Sort the edges.

        Args:
            edges: ``(edges, 2)`` int64, source and target of each; both directions, and self loops where the layer
                wants them. An edge given twice counts twice.
            sources: Number of nodes.
            targets: Number of nodes that edges enter where it is another set of nodes.
        """
        self.sources = sources
        self.targets = sources if targets is None else targets
        order = edges[:, 1].argsort(stable=True)
        self.source, self.target = edges[order].unbind(1)
        counts = torch.bincount(self.target, minlength=self.targets)
        self.pointers = torch.cat([counts.new_zeros(1), counts.cumsum(0)])

    @cached_property
    def _by_source(self) -> tuple[Tensor, Tensor, Tensor]:
        """Edge order, pointers and targets of the transposed matrix."""
        order = self.source.argsort(stable=True)
        counts = torch.bincount(self.source, minlength=self.sources)
        return order, torch.cat([counts.new_zeros(1), counts.cumsum(0)]), self.target[order]

    @property
    def degrees(self) -> Tensor:
        """Incoming edges of each target, ``(targets,)`` int64."""
        return self.pointers.diff()

    @property
    def out_degrees(self) -> Tensor:
        """Outgoing edges of each source, ``(sources,)`` int64."""
        return torch.bincount(self.source, minlength=self.sources)

    def into(self, rows: Tensor) -> Adjacency:
        """Return the edges into some targets alone, renumbered in their order.

        Args:
            rows: ``(rows,)`` int64, distinct targets.
        """
        number = self.target.new_full((self.targets,), -1)
        number[rows] = torch.arange(len(rows), device=rows.device)
        target = number[self.target]
        kept = target >= 0
        return Adjacency(torch.stack([self.source[kept], target[kept]], dim=1), self.sources, len(rows))

    def softmax(self, scores: Tensor) -> Tensor:
        """Normalise the scores of each target's incoming edges to sum 1, ``(edges, heads)``."""
        return softmax(scores, index=self.target, num_nodes=self.targets)

    def aggregate(self, states: Tensor, weights: Tensor | None = None) -> Tensor:
        """Sum the states that reach each target.

        Args:
            states: ``(sources, features)``.
            weights: ``(edges,)``, of each edge; all 1 where not given.

        Returns:
            ``(targets, features)``.
        """
        if weights is None:
            weights = states.new_ones(len(self.source))
        return _Aggregate.apply(states, weights, self)


class _Aggregate(torch.autograd.Function):
    """The product of the weighted adjacency matrix with the states, with gradients of both."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weights: Tensor, adjacency: Adjacency) -> Tensor:
        ctx.adjacency = adjacency
        ctx.save_for_backward(states, weights)
        return _product(adjacency.pointers, adjacency.source, weights, adjacency.sources, states)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # type: ignore[override]
        states, weights = ctx.saved_tensors
        adjacency: Adjacency = ctx.adjacency
        to_states = to_weights = None
        if ctx.needs_input_grad[0]:
            order, pointers, target = adjacency._by_source
            to_states = _product(pointers, target, weights[order], adjacency.targets, gradient)
        if ctx.needs_input_grad[1]:
            # The products of states and gradients at the edges alone.
            pattern = _csr(
                adjacency.pointers, adjacency.source, torch.zeros_like(weights), (len(gradient), len(states))
            )
            product = torch.sparse.sampled_addmm(pattern, gradient.contiguous(), states.t(), beta=0.0)
            to_weights = product.values()
        return to_states, to_weights, None


def _csr(pointers: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    return torch.sparse_csr_tensor(pointers, columns, values, shape, check_invariants=False)


def _product(pointers: Tensor, columns: Tensor, values: Tensor, width: int, dense: Tensor) -> Tensor:
    # Under autocast the two may differ; the sums are made in the wider type.
    dtype = torch.promote_types(values.dtype, dense.dtype)
    if dtype in (torch.float16, torch.bfloat16):
        dtype = torch.float32
    matrix = _csr(pointers, columns, values.to(dtype), (len(pointers) - 1, width))
    return (matrix @ dense.to(dtype)).to(dense.dtype)


def sparse_linear(entries: Tensor, values: Tensor, rows: int, weight: Tensor) -> Tensor:
    """Apply a linear map without bias to sparse features.

    Args:
        entries: ``(entries, 2)`` int64, row and column of each entry that is not zero.
        values: ``(entries,)``; they get no gradient.
        rows: Number of rows.
        weight: ``(outputs, columns)``.

    Returns:
        ``(rows, outputs)``.
    """
    # A feature matrix is an adjacency from features to nodes.
    adjacency = Adjacency(entries.flip(1), sources=weight.shape[1], targets=rows)
    order = entries[:, 0].argsort(stable=True)
    return adjacency.aggregate(weight.t().contiguous(), values[order])
