from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

GOLDEN = Path(__file__).resolve().parents[3].parent / "shared/golden/ssl_losses"


@pytest.fixture(scope="session")
def golden() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Recorded tensors and scalars of public implementations, where they lie beside this checkout."""
    if not GOLDEN.is_dir():
        pytest.skip("no golden values beside this checkout")
    from safetensors.numpy import load_file

    return load_file(GOLDEN / "io.safetensors"), json.loads((GOLDEN / "config.json").read_text())["scalars"]


@pytest.fixture(scope="session")
def labelled_set(toy, tmp_path_factory) -> Path:
    """Rising, falling and level sequences of six groups, with noise, in one file a group."""
    folder = tmp_path_factory.mktemp("user-secret-folder")
    generator = np.random.default_rng(0)
    lines = ["file,label,group,item"]
    for group in range(6):
        sequences = []
        for number in range(9):
            label = ("rising", "falling", "level")[number % 3]
            slope = {"rising": 1.0, "falling": -1.0, "level": 0.0}[label]
            values = slope * np.linspace(-1, 1, 8 + number) + generator.normal(scale=1.5, size=8 + number) + slope
            sequences.append(f"s{number}: " + " ".join(f"{v:.5f}" for v in values))
            lines.append(f"take{group}.num,{label},speaker{group},s{number}")
        (folder / f"take{group}.num").write_text("\n".join(sequences))
    manifest = folder / "trends.csv"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest
