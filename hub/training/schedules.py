"""Learning-rate schedules as factors of the peak, counted from step 1."""

from __future__ import annotations

import math
from collections.abc import Callable

SCHEDULES = ("linear", "cosine", "constant", "infinite", "hold", "anneal")
COOLDOWN = 0.4
"""Share of an infinite run at whose end the cool-down has reached the constant rate."""
CONSTANT = 0.5
"""Constant rate of an infinite run, as a factor of its peak."""
FINAL = 0.1
"""Rate that annealing ends at, as a factor of the peak."""


def phase(name: str, taken: int, total: int, warmup: float) -> str:
    """Return where in its schedule a run is after ``taken`` steps.

    ``warm-up``, then ``decay`` (linear, cosine), ``constant``, or for ``infinite`` first ``cool-down``; ``anneal`` is
    one phase of its own.

    Args:
        name: As for `schedule_factor`.
        taken: Optimiser steps taken.
        total: Of the whole run.
        warmup: Share of them spent rising linearly.
    """
    progress = min(taken / total, 1.0)
    if name in ("anneal", "hold"):
        return "anneal" if name == "anneal" else "constant"
    if progress < warmup:
        return "warm-up"
    if name == "infinite" and progress < max(COOLDOWN, warmup):
        return "cool-down"
    return "constant" if name in ("infinite", "constant") else "decay"


def schedule_factor(name: str, total: int, warmup: float) -> Callable[[int], float]:
    """Return the factor of the peak learning rate for each optimiser step.

    Args:
        name: After a linear warm-up, ``linear`` or ``cosine`` fall to zero at the last step, ``constant`` stays, and
            ``infinite`` cools down to half the peak and stays there, so that a run can go on with further data
            without warming up anew. ``hold`` does that, at its constant rate. ``anneal`` ends such a run: from its
            constant rate down to a tenth of the peak.
        total: Optimiser steps of the whole run.
        warmup: Share of them spent rising linearly.

    Returns:
        A function of the number of steps already taken, as ``torch.optim.lr_scheduler.LambdaLR`` wants it. The
        first step is counted as 1, so that it is not wasted on a learning rate of zero.
    """

    def factor(taken: int) -> float:
        progress = min((taken + 1) / total, 1.0)
        if name == "anneal":
            return infinite_factor(progress, 0.0, 0.0, 0.0, 1.0)
        if name == "hold":
            return CONSTANT
        if name == "infinite":
            return infinite_factor(progress, warmup, max(COOLDOWN, warmup), 1.0, 1.0)
        if progress < warmup:
            return progress / warmup
        if name == "constant":
            return 1.0
        left = (1 - progress) / (1 - warmup) if warmup < 1 else 1.0
        return left if name == "linear" else 0.5 * (1 - math.cos(math.pi * left))

    return factor


def infinite_factor(
    step: float,
    warmup: float,
    cooldown: float,
    anneal: float,
    end: float,
    constant: float = CONSTANT,
    final: float = FINAL,
) -> float:
    """Return the infinite schedule's factor of the peak (arXiv:2503.02844, section 3).

    Args:
        step: Where in the run, in the unit of the next four.
        warmup: Linear rise until here.
        cooldown: Cosine fall to ``constant`` until here.
        anneal: Constant until here.
        end: Exponential fall to ``final`` until here.
        constant: Factor of the constant phase.
        final: Factor at the end.
    """
    if step < warmup:
        return step / warmup
    if step < cooldown:
        return constant + (1 - constant) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (cooldown - warmup)))
    if step <= anneal:
        return constant
    return constant * (final / constant) ** ((step - anneal) / (end - anneal))
