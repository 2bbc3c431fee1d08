"""The global batch of several processes, with gradients.

Convention, on which every objective of this package rests: with `W` processes each process
returns its own *share* of the loss, and the **mean of the shares is the loss of the global
batch**. Gradients follow: the collectives below sum cotangents over the processes, so that the
average that `DistributedDataParallel` takes of the parameter gradients is the gradient of the
single-process loss. On one process, or without a process group, everything here is the identity.

Processes may hold different numbers of rows (batches are cut by cost, not by count).
"""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


class GlobalRows(NamedTuple):
    """Rows of all processes, in rank order.

    Attributes:
        values: `(global_rows, ...)`.
        offset: index in `values` of the first row of this process.
    """

    values: Tensor
    offset: int


def world_size() -> int:
    """Number of processes that share the batch; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Rank of this process; 0 without a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def row_counts(local_rows: int, device: torch.device) -> list[int]:
    """Number of rows that each process holds, in rank order.

    Args:
        local_rows: rows of this process.
        device: where the exchange happens (the accelerator for NCCL).

    Returns:
        One count for each process.
    """
    if world_size() == 1:
        return [local_rows]
    mine = torch.tensor([local_rows], device=device)
    counts = [torch.empty_like(mine) for _ in range(world_size())]
    dist.all_gather(counts, mine)
    return [int(count) for count in counts]


def gather_rows(local: Tensor) -> GlobalRows:
    """Rows of all processes, differentiable with respect to the rows of each.

    Plain `all_gather` returns constants: a contrastive loss over it would lose the gradient
    through the negatives of the other processes.

    Args:
        local: `(rows, ...)`; the number of rows may differ between processes.

    Returns:
        The gathered rows and the place of this process among them.
    """
    counts = row_counts(local.shape[0], local.device)
    offset = sum(counts[: rank()])
    if world_size() == 1:
        return GlobalRows(local, offset)
    return GlobalRows(_GatherRows.apply(local, counts), offset)


def global_row_index(local_rows: int, device: torch.device) -> tuple[Tensor, int]:
    """Index of each local row in the global batch, and the size of that batch.

    Args:
        local_rows: rows of this process.
        device: device of the result.

    Returns:
        `(local_rows,)` int64 indexes, and the number of rows of all processes.
    """
    counts = row_counts(local_rows, device)
    offset = sum(counts[: rank()])
    return torch.arange(offset, offset + local_rows, device=device), sum(counts)


def own_columns(rows: int, columns: int, offset: int, device: torch.device) -> Tensor:
    """Where local rows meet themselves in a local-by-global matrix.

    Args:
        rows: rows of this process.
        columns: rows of all processes.
        offset: index of the first local row among them.
        device: device of the result.

    Returns:
        `(rows, columns)` bool, one true a row.
    """
    own = torch.arange(offset, offset + rows, device=device)
    return own[:, None] == torch.arange(columns, device=device)[None, :]


def all_reduce_sum(local: Tensor) -> Tensor:
    """Sum over the processes, differentiable with respect to the term of each.

    Args:
        local: the same shape on every process.

    Returns:
        The sum, equal on all processes.
    """
    return local if world_size() == 1 else _AllReduceSum.apply(local)


def all_reduce_max(local: Tensor) -> Tensor:
    """Largest value over the processes, element by element, without gradient."""
    largest = local.detach().clone()
    if world_size() > 1:
        dist.all_reduce(largest, dist.ReduceOp.MAX)
    return largest


def from_first_process(local: Tensor) -> Tensor:
    """The value that process 0 holds, without gradient: for draws that must agree everywhere."""
    value = local.detach().clone()
    if world_size() > 1:
        dist.broadcast(value, src=0)
    return value


def mean_share(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """This process's share of the (weighted) mean over all elements of all processes.

    Not the same as averaging local means when the processes hold different numbers of elements,
    for example of masked frames: there every *element* must weigh the same.

    Args:
        values: any shape.
        weights: non-negative, broadcastable to `values`; 1 for every element if left out. Where
            a weight is 0 the value is not looked at, so it may be infinite.

    Returns:
        Scalar; its mean over the processes is the mean over all elements.

    Raises:
        ValueError: if all processes together hold no element with a positive weight.
    """
    if weights is None:
        if world_size() == 1 and values.numel():
            return values.mean()  # without waiting for the device to tell the count
        weights = values.new_ones(())
    weights = weights.detach().to(values.dtype).expand_as(values)
    local_sum = (values.masked_fill(weights == 0, 0.0) * weights).sum()
    total = all_reduce_sum(weights.sum())
    if total == 0:
        raise ValueError(
            "mean over nothing: no process selects an element; "
            "pass at least one element (or one masked position) in the global batch"
        )
    return local_sum * (world_size() / total)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        # Collectives need equal shapes: pad to the longest, cut after.
        padded = local.new_zeros(max(counts), *local.shape[1:])
        padded[: local.shape[0]] = local
        gathered = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(gathered, padded)
        return torch.cat([rows[:count] for rows, count in zip(gathered, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        start = sum(ctx.counts[: rank()])
        return total[start : start + ctx.counts[rank()]], None


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        total = local.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total
