"""Batches by cost: the one rule by which the embedder, the trainer and the server group samples."""

from __future__ import annotations

from collections.abc import Sequence

WORTH_A_BATCH = 1 / 32
"""Padding, as a share of the budget, that costs as much as one more forward: 1/16 to 1/75 were measured."""


def batches_by_cost(
    costs: Sequence[int], budget: int, max_size: int | None = None, max_padding: float | None = None
) -> list[list[int]]:
    """Group samples of similar cost so that each batch, padded to its longest, stays within a budget.

    Args:
        costs: Cost of each sample, at least 1.
        budget: Largest padded cost (longest times count) of a batch. A sample above it gets a batch of its own.
        max_size: Largest number of samples in a batch, or ``None`` for no limit.
        max_padding: Largest share of a batch's padded cost that may be padding, unless it is so little that one more
            forward would take longer; ``None`` for no limit.

    Returns:
        Index lists, cheapest samples first; together they hold every index once.
    """
    if budget < 1:
        raise ValueError(f"budget={budget}: a batch must be allowed a cost of at least 1")
    batches: list[list[int]] = []
    real = 0
    for index in sorted(range(len(costs)), key=lambda i: costs[i]):
        current = batches[-1] if batches else None
        real += costs[index]
        if current is not None:
            # In ascending order the newest sample is the longest, so it sets the padded length.
            padded = costs[index] * (len(current) + 1)
            if (
                padded <= budget
                and (max_size is None or len(current) < max_size)
                and (max_padding is None or padded - real <= max(max_padding * padded, WORTH_A_BATCH * budget))
            ):
                current.append(index)
                continue
        batches.append([index])
        real = costs[index]
    return batches
