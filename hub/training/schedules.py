"""Learning-rate schedules as factors of the peak, counted from step 1."""

from __future__ import annotations

import math
from collections.abc import Callable


def schedule_factor(name: str, total: int, warmup: float) -> Callable[[int], float]:
    """Return the factor of the peak learning rate for each optimiser step.

    Args:
        name: ``linear`` or ``cosine`` (to zero at the last step), or ``constant``.
        total: Optimiser steps of the whole run.
        warmup: Share of them spent rising linearly.

    Returns:
        A function of the number of steps already taken, as ``torch.optim.lr_scheduler.LambdaLR`` wants it. The
        first step is counted as 1, so that it is not wasted on a learning rate of zero.
    """

    def factor(taken: int) -> float:
        progress = min((taken + 1) / total, 1.0)
        if progress < warmup:
            return progress / warmup
        if name == "constant":
            return 1.0
        left = (1 - progress) / (1 - warmup) if warmup < 1 else 1.0
        return left if name == "linear" else 0.5 * (1 - math.cos(math.pi * left))

    return factor
