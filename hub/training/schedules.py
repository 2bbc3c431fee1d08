"""Learning-rate schedules as factors of the peak, counted from step 1."""

from __future__ import annotations

import math
from collections.abc import Callable

SCHEDULES = ("linear", "cosine", "constant", "warmup-stable-decay", "infinite", "hold", "anneal")
COOLDOWN = 0.4
"""Share of an infinite run at whose end the cool-down has reached the constant rate."""
CONSTANT = 0.5
"""Constant rate of an infinite run, as a factor of its peak."""
FINAL = 0.1
"""Rate that annealing ends at, as a factor of the peak."""


def phase(name: str, taken: int, total: int, warmup: float, decay: float = 0.1) -> str:
    """Return where in its schedule a run is after ``taken`` steps.

    ``warm-up``, then ``decay`` (linear, cosine), ``constant``, or for ``infinite`` first ``cool-down``; ``anneal`` is
    one phase of its own.

    Args:
        name: As for `schedule_factor`.
        taken: Optimiser steps taken.
        total: Of the whole run.
        warmup: Share of them spent rising linearly.
        decay: Share of them spent falling, for ``warmup-stable-decay``.
    """
    progress = min(taken / total, 1.0)
    if name in ("anneal", "hold"):
        return "anneal" if name == "anneal" else "constant"
    if progress < warmup:
        return "warm-up"
    if name == "infinite" and progress < max(COOLDOWN, warmup):
        return "cool-down"
    if name == "warmup-stable-decay" and progress < 1 - decay:
        return "constant"
    return "constant" if name in ("infinite", "constant") else "decay"


def schedule_factor(
    name: str, total: int, warmup: float, decay: float = 0.1, final: float = 0.0
) -> Callable[[int], float]:
    """Return the factor of the peak learning rate for each optimiser step.

    Args:
        name: After a linear warm-up, ``linear`` and ``cosine`` fall until the last step, ``constant`` stays,
            ``warmup-stable-decay`` stays and falls as a cosine at the end, and ``infinite`` cools down to half the
            peak and stays there, so that a run can go on with further data without warming up anew. ``hold`` does
            that, at its constant rate. ``anneal`` ends such a run: from its constant rate down to a tenth of the
            peak.
        total: Optimiser steps of the whole run.
        warmup: Share of them spent rising linearly.
        decay: Share of them that ``warmup-stable-decay`` falls for.
        final: Factor of the peak at the last step, where the rate falls to it (``linear``, ``cosine``,
            ``warmup-stable-decay``).

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
        falling = min(decay, 1 - warmup) if name == "warmup-stable-decay" else 1 - warmup
        left = min((1 - progress) / falling, 1.0) if falling > 0 else 1.0
        return final + (1 - final) * (left if name == "linear" else 0.5 * (1 - math.cos(math.pi * left)))

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
