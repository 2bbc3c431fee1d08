"""The filter as a figure: what went in and came out, and how wide the filter is where."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from domains.medical.filter2noise.fitting import Denoised
from domains.medical.image import MedicalImage

NAMES = ("width along columns, pixels", "width along rows, pixels", "width in value")
SEEN = (1, 99)
"""Percentiles of the image that are black and white."""


def draw_filters(original: MedicalImage, result: Denoised, path: Path, number: int | None = None) -> None:
    """Draw one slice before and after, what was removed, and the widths of each stage for each patch.

    Args:
        original: What was denoised.
        result: Of it.
        path: PNG, SVG or PDF to write.
        number: Of the slice; the middle one unless given.
    """
    before, after = original.slices()[:, 0], result.image.slices()[:, 0]
    number = len(before) // 2 if number is None else number
    stages = result.widths[number]
    figure = Figure(figsize=(10, 3.2 * (1 + len(stages))), layout="constrained")
    axes = figure.subplots(1 + len(stages), 3, squeeze=False)
    low, high = np.percentile(before[number], SEEN)
    _show(axes[0, 0], before[number], "before", low, high, "gray")
    _show(axes[0, 1], after[number], "after", low, high, "gray")
    removed = before[number] - after[number]
    most = float(np.abs(removed).max()) or 1.0
    _show(axes[0, 2], removed, "removed", -most, most, "RdBu_r")
    for stage, widths in enumerate(stages):
        for axis, name, values in zip(axes[1 + stage], NAMES, widths, strict=True):
            _show(axis, values, f"stage {stage + 1}: {name}", None, None, "viridis")
    figure.savefig(path, dpi=120, metadata={"Software": None} if path.suffix.lower() == ".png" else None)


def _show(
    axis: object, values: NDArray[np.float32], title: str, low: float | None, high: float | None, colours: str
) -> None:
    drawn = axis.imshow(values, cmap=colours, vmin=low, vmax=high)  # type: ignore[attr-defined]
    axis.set_title(title, fontsize=9)  # type: ignore[attr-defined]
    axis.set_axis_off()  # type: ignore[attr-defined]
    axis.figure.colorbar(drawn, ax=axis, shrink=0.8)  # type: ignore[attr-defined]
