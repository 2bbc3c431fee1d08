"""Pictures of an evaluation: a 2-D map of the embeddings, and who is taken for whom."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hub.evaluation.summary import natural_order

Floats = NDArray[np.float64]

MOST_COLOURS = 20
MOST_POINTS = 5000
LONGEST_NAME = 60


def pca_map(features: ArrayLike) -> tuple[Floats, Floats]:
    """Project standardised features on their two main directions.

    Args:
        features: ``(rows, dimension)``.

    Returns:
        ``(rows, 2)`` coordinates, with zeros where there is no second direction; and the two shares of the variance.
    """
    values = _standardised(features)
    left, singular, directions = np.linalg.svd(values, full_matrices=False)
    # A direction has no sign: the largest weight is made positive, so that the same data give the same map.
    signs = np.sign(directions[np.arange(len(directions)), np.abs(directions).argmax(1)])
    points, shares = np.zeros((len(values), 2)), np.zeros(2)
    count = min(2, len(singular))
    points[:, :count] = (left * singular * signs)[:, :count]
    power = singular**2
    shares[:count] = power[:count] / (power.sum() or 1.0)
    return points, shares


def draw_map(path: Path, features: Mapping[str, ArrayLike], labels: NDArray[np.str_], title: str) -> None:
    """Draw each contender's embeddings side by side, coloured by label: PCA, and below it UMAP where it is installed.

    Labels beyond the 20 most frequent share a grey; of more than 5000 rows a seeded sample is drawn.

    Args:
        path: PNG file to write.
        features: Name to ``(rows, dimension)``.
        labels: ``(rows,)``.
        title: Of the figure.
    """
    from matplotlib.figure import Figure

    shown = np.arange(len(labels))
    if len(shown) > MOST_POINTS:
        shown = np.random.default_rng(0).choice(len(shown), MOST_POINTS, replace=False)
    with_umap = importlib.util.find_spec("umap") is not None
    figure = Figure(figsize=(3.8 * len(features) + 1.2, 3.7 * (1 + with_umap) + 0.3), layout="constrained")
    axes = figure.subplots(1 + with_umap, len(features), squeeze=False)
    handles: list[Any] = []
    for column, (name, matrix) in enumerate(features.items()):
        chosen = np.asarray(matrix, np.float64)[shown]
        points, shares = pca_map(chosen)
        handles = _scatter(axes[0, column], points, labels[shown])
        axes[0, column].set_title(name.replace("_", " "))
        axes[0, column].set_xlabel(f"PCA 1 ({shares[0]:.0%} of the variance)")
        axes[0, column].set_ylabel(f"PCA 2 ({shares[1]:.0%})")
        if with_umap:
            _scatter(axes[1, column], _umap(chosen), labels[shown])
            axes[1, column].set_xlabel("UMAP 1")
            axes[1, column].set_ylabel("UMAP 2")
    names = [handle.get_label() for handle in handles]
    figure.legend(handles, names, loc="outside right upper", frameon=False, fontsize=8, title="label", markerscale=2)
    figure.suptitle(_plain(title))
    figure.savefig(path, dpi=110)


def draw_confusion(path: Path, labels: Sequence[str], counts: NDArray[np.int64], title: str) -> None:
    """Draw how often rows of each label were given each label; shades are shares of a row.

    Args:
        path: PNG file to write.
        labels: Of rows and columns.
        counts: ``(labels, labels)``: truth down, prediction across.
        title: Of the figure.
    """
    from matplotlib.figure import Figure

    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(12.0, 3.2 + 0.42 * len(labels))
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(labels) <= 40:
        names = [_plain(label) for label in labels]
        axis.set_xticks(range(len(labels)), names, rotation=90 if max(map(len, names)) > 2 else 0)
        axis.set_yticks(range(len(labels)), names)
    if len(labels) <= 20:
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axis.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=8, color=colour)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    axis.set_title(_plain(title))
    figure.colorbar(image, ax=axis, shrink=0.8, label="share of the true label")
    figure.savefig(path, dpi=110)


def _plain(text: str) -> str:
    """Shorten a name, and keep matplotlib from reading a formula into dollars or hiding what starts with a bar."""
    text = text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 3]}..."
    return (" " + text if text.startswith("_") else text).replace("$", r"\$")


def _scatter(axis: Any, points: Floats, labels: NDArray[np.str_]) -> list[Any]:
    from matplotlib import colormaps

    names, counts = np.unique(labels, return_counts=True)
    frequent = names[np.argsort(-counts, kind="stable")[:MOST_COLOURS]].tolist()
    colours = colormaps["tab10" if len(frequent) <= 10 else "tab20"]
    rest = ~np.isin(labels, frequent)
    handles = []
    if rest.any():
        others = f"{len(names) - len(frequent)} others"
        handles.append(axis.scatter(*points[rest].T, s=8, color="0.8", linewidths=0, label=others))
    for number, name in enumerate(natural_order(frequent)):
        own = points[labels == name]
        dots = {"s": 10, "color": colours(number), "alpha": 0.75, "linewidths": 0, "label": _plain(name)}
        handles.append(axis.scatter(*own.T, **dots))
    axis.set_xticks([])
    axis.set_yticks([])
    return handles


def _umap(features: Floats) -> Floats:
    from umap import UMAP

    return np.asarray(UMAP(n_components=2, random_state=0).fit_transform(_standardised(features)))


def _standardised(features: ArrayLike) -> Floats:
    from sklearn.preprocessing import StandardScaler

    return StandardScaler().fit_transform(np.asarray(features, np.float64))
