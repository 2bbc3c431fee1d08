"""Contenders side by side: measured in turn within each round, reported as ratios of medians with their spread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """Seconds of each round for each contender."""

    title: str
    seconds: dict[str, list[float]]

    def report(self) -> str:
        """Return a table: median, and ratio to the first contender as median (lowest to highest round)."""
        peer = next(iter(self.seconds))
        lines = [f"{self.title} ({len(self.seconds[peer])} rounds, ratios to '{peer}')"]
        for name, values in self.seconds.items():
            ratios = [v / p for v, p in zip(values, self.seconds[peer], strict=True)]
            lines.append(
                f"  {name:<34} {statistics.median(values) * 1000:9.2f} ms   "
                f"x{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            )
        return "\n".join(lines)


def side_by_side(
    title: str, contenders: Mapping[str, Callable[[], object]], rounds: int = 7, repeats: int = 1
) -> Result:
    """Time each contender in turn, round after round, after one round to warm up.

    Args:
        title: Of the comparison.
        contenders: Name to what is timed; the first is the peer that ratios refer to.
        rounds: Rounds that count.
        repeats: Calls in one measurement; the time of one call is reported.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, run in contenders.items():
            started = time.perf_counter()
            for _ in range(repeats):
                run()
            if number:
                seconds[name].append((time.perf_counter() - started) / repeats)
    return Result(title, seconds)
