"""Samples, baseline and a command of the toy domain."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hub.reading import Sample, Source


def write_samples(folder: Path) -> list[Path]:
    """Write two files: three rising sequences, and three falling ones."""
    paths = []
    for name in ("rising", "falling"):
        lines = []
        for number, length in enumerate((5, 12, 40)):
            values = np.linspace(0, 1, length)[:: 1 if name == "rising" else -1]
            lines.append(f"{name}{number}: " + " ".join(f"{v:.4f}" for v in values))
        path = folder / f"{name}.num"
        path.write_text("\n".join(lines))
        paths.append(path)
    return paths


def mean_and_length(sample: Sample) -> np.ndarray:
    """Return the simple features."""
    return np.array([sample.data.mean(), len(sample.data)], np.float32)


def count_numbers(file: Path) -> None:
    """Count the sequences of a file."""
    from toy_domain.reading import NumberReader

    print(sum(1 for _ in NumberReader().read(Source.from_path(file))))
