"""How DINO's settings change over a run, as functions of the share of it that is done."""

from __future__ import annotations

from hub.ssl.teacher import cosine_momentum


def half_cosine(progress: float, start: float, end: float) -> float:
    """Return the value at ``progress`` (0 to 1) on a half cosine between two values from 0 to 1."""
    # Of one whole step a fraction: the curve is that of the teacher's momentum, which weight decay follows too.
    return cosine_momentum(progress, 1, start=start, end=end)  # type: ignore[arg-type]


def warmed_up(progress: float, start: float, end: float, warmup: float) -> float:
    """Return the value at ``progress`` that rises evenly from ``start`` to ``end`` and then stays.

    Args:
        progress: Share of the run that is done.
        start: At the beginning.
        end: From ``warmup`` on.
        warmup: Share of the run.
    """
    return end if progress >= warmup else start + (end - start) * progress / warmup
