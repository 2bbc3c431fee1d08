"""The matching problems of a batch, solved one after another or by several processes at once."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from hub.ssl import solve_matching


class Problem(NamedTuple):
    """One graph against another, on the CPU and without gradients; see `hub.ssl.solve_matching`.

    Attributes:
        vertices: ``(nodes, nodes)`` scores.
        edges: ``(edges_s, edges_t)`` scores.
        edges_s: ``(2, edges_s)``.
        edges_t: ``(2, edges_t)``.
        seed: Of the solver's restarts.
    """

    vertices: Tensor
    edges: Tensor
    edges_s: Tensor
    edges_t: Tensor
    seed: int


def solve_all(problems: Sequence[Problem], restarts: int = 0, processes: int = 0) -> Tensor:
    """Match the nodes of each pair of graphs, all of one size.

    A graph of 16 takes about a millisecond (Frank-Wolfe over linear assignment, barycentre start, exact line search,
    exchange of pairs). Several processes pay where a step holds hundreds of graphs and there are cores to spare.

    Args:
        problems: At least one.
        restarts: Further random starts for each.
        processes: That share the problems; they are started at the first call and stay. 0 for none.

    Returns:
        ``(problems, nodes)`` int64, the node of t for each node of s. The same whatever the number of processes.
    """
    if processes:
        share = -(-len(problems) // processes)
        # As numpy arrays: tensors would each open a file descriptor of shared memory.
        plain = [(*(part.numpy() for part in p[:4]), p.seed, restarts) for p in problems]
        return torch.stack([torch.from_numpy(a) for a in _pool(processes).map(_solve_arrays, plain, chunksize=share)])
    return torch.stack([_solve(problem, restarts) for problem in problems])


def _solve(problem: Problem, restarts: int) -> Tensor:
    *parts, seed = problem
    return solve_matching(*parts, restarts=restarts, generator=torch.Generator().manual_seed(seed))


def _solve_arrays(arguments: tuple) -> object:  # type: ignore[type-arg]
    vertices, edges, edges_s, edges_t, seed, restarts = arguments
    torch.set_num_threads(1)
    parts = [torch.from_numpy(part) for part in (vertices, edges, edges_s, edges_t)]
    return _solve(Problem(parts[0], parts[1], parts[2], parts[3], seed), restarts).numpy()


@cache
def _pool(processes: int) -> ProcessPoolExecutor:
    # Not forked: the parent holds threads of its own and perhaps a GPU.
    return ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"))
