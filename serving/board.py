"""The actor that holds what each replica's series were when it published them last.

In a module of its own, which imports next to nothing: the actor's process would otherwise import what the models need,
for seconds, and keep it in memory.
"""

from __future__ import annotations

import time
from typing import Any

FORGET_SECONDS = 20.0
"""What a replica published is left out after this time: it has gone."""


class Board:
    """What each replica published last."""

    def __init__(self) -> None:
        """Start empty."""
        self._published: dict[str, tuple[float, Any]] = {}

    def publish(self, replica: str, series: Any) -> None:
        """Keep a replica's series."""
        self._published[replica] = (time.monotonic(), series)

    def published(self) -> dict[str, Any]:
        """Return the series of all replicas that are still there, by the replica's id."""
        oldest = time.monotonic() - FORGET_SECONDS
        self._published = {name: found for name, found in self._published.items() if found[0] > oldest}
        return {name: series for name, (_, series) in self._published.items()}
