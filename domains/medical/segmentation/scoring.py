"""How well masks agree: Dice and the 95th percentile of the Hausdorff distance, by class, case by case."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from monai.metrics import compute_hausdorff_distance
from numpy.typing import NDArray
from torch.nn import functional as F

PERCENTILE = 95.0


@dataclass
class Scores:
    """Scores of many cases, gathered one by one.

    A class that is in neither mask of a case has no score there; one that is in only one of the two has a Dice of 0 and
    no distance.
    """

    classes: Sequence[str]
    dice: list[NDArray[np.float64]] = field(default_factory=list)
    distances: list[NDArray[np.float64]] = field(default_factory=list)

    def add(self, given: NDArray[np.int64], truth: NDArray[np.int64], spacing: tuple[float, float, float]) -> None:
        """Score a case.

        Args:
            given: ``(slices, rows, columns)`` class numbers.
            truth: The same, as they should be.
            spacing: Millimetres between slices, rows and columns.
        """
        one_hot = [_one_hot(labels, len(self.classes)) for labels in (given, truth)]
        sizes = [o.flatten(1).sum(1).double() for o in one_hot]
        both = (one_hot[0] & one_hot[1]).flatten(1).sum(1).double()
        self.dice.append((2 * both / (sizes[0] + sizes[1]))[1:].numpy())  # 0 / 0 is NaN: in neither
        flat = given.shape[0] == 1
        first, second = (o[None, :, 0] if flat else o[None] for o in one_hot)
        sides = list(spacing[1:] if flat else spacing)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of classes that are absent, which is seen to below
            found = compute_hausdorff_distance(first, second, percentile=PERCENTILE, spacing=sides)[0].double()
        present = (sizes[0] > 0) & (sizes[1] > 0)
        self.distances.append(torch.where(present[1:], found, torch.nan).numpy())

    def summary(self) -> dict[str, dict[str, float]]:
        """Return ``dice`` and ``hd95`` (millimetres), means over the cases by class, and ``mean`` over the classes."""
        answer: dict[str, dict[str, float]] = {}
        for name, table in (("dice", self.dice), ("hd95", self.distances)):
            values = np.stack(table)
            means = {
                c: float(np.nanmean(column))
                for c, column in zip(self.classes[1:], values.T, strict=True)
                if not np.isnan(column).all()
            }
            answer[name] = {**means, **({"mean": float(np.mean(list(means.values())))} if means else {})}
        return answer


def _one_hot(labels: NDArray[np.int64], classes: int) -> torch.Tensor:
    return F.one_hot(torch.from_numpy(np.ascontiguousarray(labels)), classes).movedim(-1, 0).bool()
