"""Small labelled sets of the toy domain: sequences of numbers around a level that decides the label."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

QUICK = {"epochs": 30, "patience": 30, "learning_rate": 0.02, "head_learning_rate": 0.05, "dropout": 0.0}


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


class Sets:
    """Writes a manifest with its one native file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.random = np.random.default_rng(0)

    def sequence(self, level: float, length: int | None = None) -> list[float]:
        length = length or int(self.random.integers(3, 9))
        return [float(v) for v in level + 0.2 * self.random.normal(size=length)]

    def write(self, rows: Sequence[dict[str, Any]], name: str = "set") -> Path:
        """Each row has ``values`` and ``label``, and what else a manifest has."""
        lines = [f"k{i}: " + " ".join(f"{v:.5f}" for v in row["values"]) for i, row in enumerate(rows)]
        (self.folder / f"{name}.num").write_text("\n".join(lines))
        columns = ["file", "label", "group", "split", "item"]
        path = self.folder / f"{name}.csv"
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, columns, restval="", extrasaction="ignore")
            writer.writeheader()
            for i, row in enumerate(rows):
                writer.writerow({"file": f"{name}.num", "item": f"k{i}", **row})
        return path

    def levels(self, count: int = 90, **more: Any) -> Path:
        """Three classes by level, in six groups that each hold all of them."""
        names = {"low": -1.0, "mid": 0.0, "high": 1.0}
        rows = [
            {"values": self.sequence(level), "label": label, "group": f"g{i % 6}", **more}
            for i in range(count // 3)
            for label, level in names.items()
        ]
        return self.write(rows)


@pytest.fixture(scope="session")
def sets_in(toy: Any) -> type[Sets]:
    return Sets


@pytest.fixture
def sets(tmp_path: Path, sets_in: type[Sets]) -> Sets:
    return sets_in(tmp_path)


@pytest.fixture(scope="session")
def quick() -> dict[str, Any]:
    """Options with which a toy problem is learnt in a second."""
    return dict(QUICK)
