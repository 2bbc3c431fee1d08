"""The arithmetic of the measurements: percentiles, spread over rounds, and when requests of an open loop are due."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

PERCENTILES = (50, 95, 99)


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the nearest-rank percentile: the smallest value that so many percent of all do not exceed.

    Args:
        values: In any order; ``nan`` comes back when there is none.
        percent: Above 0, at most 100.
    """
    if not values:
        return math.nan
    return sorted(values)[max(1, math.ceil(len(values) * percent / 100)) - 1]


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return those that are reported, by name: p50, p95, p99."""
    return {f"p{p}": percentile(values, p) for p in PERCENTILES}


def spread(values: Iterable[float]) -> dict[str, float]:
    """Return median, lowest and highest of what the rounds gave."""
    values = list(values)
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def ratio_of_medians(values: Sequence[float], peer: Sequence[float]) -> dict[str, float]:
    """Return the ratio of two contenders' medians, and the lowest and highest ratio within a round.

    Args:
        values: One for each round.
        peer: Of the same rounds.
    """
    within = [v / p for v, p in zip(values, peer, strict=True)]
    ratio = statistics.median(values) / statistics.median(peer)
    return {"median": ratio, "lowest": min(within), "highest": max(within)}


def arrivals(rate: float, seconds: float, seed: int = 0) -> list[float]:
    """Return when the requests of an open loop are due: a Poisson process, from 0.

    Arrivals do not wait for answers, so a slow service meets as many as a fast one. A request's time counts from when
    it was due, not from when a busy client got round to it.

    Args:
        rate: Requests a second, on average.
        seconds: Length of the loop.
        seed: Of the gaps.
    """
    noise = random.Random(seed)
    due: list[float] = []
    at = noise.expovariate(rate)
    while at < seconds:
        due.append(at)
        at += noise.expovariate(rate)
    return due


def growth(samples: Sequence[tuple[float, float]], begin: float) -> float:
    """Return by what share a quantity grew from ``begin`` on, along the line of least squares.

    One sample more or less, or a moment's peak, does not decide.

    Args:
        samples: (seconds, value).
        begin: Samples before it are left out.
    """
    late = [(at, value) for at, value in samples if at >= begin]
    line = statistics.linear_regression(*zip(*late, strict=True))
    first, last = (line.intercept + line.slope * late[i][0] for i in (0, -1))
    return last / first - 1


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as text in columns, numbers to the right."""
    if not rows:
        return ""
    names = list(rows[0])
    cells = [names, *([_shown(row.get(name, "")) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    numeric = [isinstance(rows[0][name], int | float) for name in names]
    return "\n".join(
        "  ".join(c.rjust(w) if n else c.ljust(w) for c, w, n in zip(line, widths, numeric, strict=True)).rstrip()
        for line in cells
    )


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return str(value)
