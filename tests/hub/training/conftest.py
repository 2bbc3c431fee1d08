from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hub.training.recipe import Recipe, load_recipe


@pytest.fixture(scope="session")
def recipe(toy) -> Recipe:
    return load_recipe("sequences/tiny")


@pytest.fixture(scope="session")
def points() -> Callable[[Path], list[dict[str, float]]]:
    """The points of a run's curve."""
    return lambda run: json.loads((run / "training_log.json").read_text())


@pytest.fixture(scope="session")
def many_files(toy, tmp_path_factory) -> Path:
    """Forty short sequences in eight files."""
    folder = tmp_path_factory.mktemp("many")
    for number in range(8):
        lines = [f"s{row}: " + " ".join(str((number * 5 + row + k) % 7 - 3) for k in range(5)) for row in range(5)]
        (folder / f"f{number}.num").write_text("\n".join(lines))
    return folder
