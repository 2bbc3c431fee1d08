"""Our service under load, beside its peers, with mixed traffic, with faults, and overloaded.

``make bench ONLY=serving`` runs a short comparison. What takes longer are commands of their own:
``python -m benchmarks.serving.load``, ``.mixed``, ``.faults`` and ``.overload``; see docs/benchmarks-serving.md.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Report:
    """A result that is text already."""

    text: str

    def report(self) -> str:
        """Return it."""
        return self.text


def run() -> list[Report]:
    """Compare all contenders that can run here, in two short rounds."""
    from benchmarks.serving.contenders import available
    from benchmarks.serving.load import Settings, measure

    return [Report(measure(Settings(available(None), clients=[1, 16], rounds=2, seconds=3))["text"])]
