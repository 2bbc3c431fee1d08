"""Batches by cost: the one rule by which the embedder, the trainer and the server group samples."""

from __future__ import annotations

from collections.abc import Sequence


def batches_by_cost(costs: Sequence[int], budget: int, max_size: int | None = None) -> list[list[int]]:
    """Group samples of similar cost so that each batch, padded to its longest, stays within a budget.

    Args:
        costs: Cost of each sample, at least 1.
        budget: Largest padded cost (longest times count) of a batch. A sample above it gets a batch of its own.
        max_size: Largest number of samples in a batch, or ``None`` for no limit.

    Returns:
        Index lists, cheapest samples first; together they hold every index once.
    """
    if budget < 1:
        raise ValueError(f"budget={budget}: a batch must be allowed a cost of at least 1")
    batches: list[list[int]] = []
    for index in sorted(range(len(costs)), key=lambda i: costs[i]):
        current = batches[-1] if batches else None
        # In ascending order the newest sample is the longest, so it sets the padded length.
        if (
            current is not None
            and costs[index] * (len(current) + 1) <= budget
            and (max_size is None or len(current) < max_size)
        ):
            current.append(index)
        else:
            batches.append([index])
    return batches
