"""Labels of a manifest to tensors, for each task.

The ``label`` column holds a class name (``classification``); ``1``, ``0`` or nothing for each label, separated by ``;``
(``multilabel``); numbers separated by ``;`` (``regression``); or a sequence of class names (``frames``) or numbers
(``dense``) at even steps over the sample, separated by ``;``. Between separators, nothing means: not known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hub.errors import InvalidManifest
from hub.finetuning.task import NUMBER_TASKS, TOKEN_TASKS
from hub.manifest import Row

SEPARATOR = ";"
UNKNOWN = -100
"""Class number of a token whose label is not known; PyTorch's own choice for what a loss leaves out."""


@dataclass(frozen=True)
class Targets:
    """What a head is to learn.

    Attributes:
        task: See `hub.finetuning.task.HeadSpec`.
        labels: Names of the outputs, in their order.
        values: For each row: ``()`` int64 (classification), ``(labels,)`` float32 (multilabel, regression),
            ``(steps,)`` int64 (frames) or ``(steps, 1)`` float32 (dense). NaN, or `UNKNOWN` for class numbers, where
            not known.
    """

    task: str
    labels: tuple[str, ...]
    values: tuple[Tensor, ...]

    @classmethod
    def from_rows(cls, rows: Sequence[Row], task: str, labels: Sequence[str] = ()) -> Targets:
        """Read the label column.

        Args:
            rows: Of a manifest.
            task: What to read them as.
            labels: Names of the outputs in their order. By default the class names found (by number where all are
                numbers), or numbers counted from 0.

        Raises:
            InvalidManifest: A label does not fit; the text names row and label.
        """
        cells = [[part.strip() for part in row.label.split(SEPARATOR)] for row in rows]
        if task == "classification":
            cells = [[row.label] for row in rows]
        if task in ("classification", "frames"):
            names = tuple(labels) or _sorted({part for parts in cells for part in parts if part})
            numbers = [
                _classes(parts, names, row, i) for i, (parts, row) in enumerate(zip(cells, rows, strict=True), 1)
            ]
            if task == "classification":
                return cls(task, names, tuple(n[0] for n in numbers))
            return cls(task, names, tuple(numbers))
        values = [_numbers(parts, task, row, i) for i, (parts, row) in enumerate(zip(cells, rows, strict=True), 1)]
        if task == "dense":
            return cls(task, tuple(labels) or ("value",), tuple(v[:, None] for v in values))
        names = tuple(labels) or tuple(map(str, range(len(values[0]))))
        for number, (row, value) in enumerate(zip(rows, values, strict=True), 1):
            if len(value) != len(names):
                raise InvalidManifest(
                    f"row {number} ({row.file.name}): {len(value)} values separated by {SEPARATOR!r}, "
                    f"where {len(names)} are expected ({', '.join(names[:8])})"
                )
        return cls(task, names, tuple(values))

    def batch(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the targets of some rows padded to the longest, and how many steps each has, ``(rows,)``."""
        chosen = [self.values[row] for row in rows]
        if self.task not in TOKEN_TASKS:
            return torch.stack(chosen), torch.ones(len(chosen), dtype=torch.long)
        padding = math.nan if self.task in NUMBER_TASKS else UNKNOWN
        padded = torch.nn.utils.rnn.pad_sequence(chosen, batch_first=True, padding_value=padding)
        return padded, torch.tensor([len(value) for value in chosen])

    def classes_of(self, rows: Sequence[int]) -> set[int]:
        """Return the class numbers that occur in some rows (none for numbers)."""
        if self.task in NUMBER_TASKS:
            return set()
        if self.task == "multilabel":
            return {n for row in rows for n in self.values[row].eq(1).nonzero()[:, 0].tolist()}
        return {int(n) for row in rows for n in self.values[row].reshape(-1).tolist() if n != UNKNOWN}

    def stratum(self, row: int) -> int | None:
        """Return the number by which parts of the set should be alike: the class, where a row has one."""
        return int(self.values[row]) if self.task == "classification" else None

    def weights(self, rows: Sequence[int]) -> Tensor:
        """Return the balanced weight of each class by its frequency in some rows, ``(labels,)``.

        A class weighs total / (classes * count), so that all of them weigh the same together; a label of a multi-label
        task weighs its positives by negatives / positives.
        """
        if self.task == "multilabel":
            table = torch.stack([self.values[row] for row in rows])
            return (table.eq(0).sum(0) / table.eq(1).sum(0).clamp(min=1)).clamp(min=1e-3)
        classes = torch.cat([self.values[row].reshape(-1) for row in rows])
        counts = torch.bincount(classes[classes != UNKNOWN], minlength=len(self.labels))
        return counts.sum() / (len(self.labels) * counts.clamp(min=1))

    def moments(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of each number over some rows, ``(labels,)`` each."""
        table = torch.cat([self.values[row].reshape(-1, len(self.labels)) for row in rows]).double()
        centre = table.nanmean(0)
        scale = (table - centre).square().nanmean(0).sqrt()
        usable = scale.isfinite() & (scale > 0)
        return centre.nan_to_num(0.0).float(), torch.where(usable, scale, torch.ones_like(scale)).float()


def align(targets: Tensor, steps: Tensor, mask: Tensor) -> Tensor:
    """Spread label sequences over the tokens of their samples.

    Token t of T takes entry ``floor((t + 1/2) * steps / T)``: a sequence of as many entries as tokens stays as it is.

    Args:
        targets: ``(batch, steps, ...)``, padded.
        steps: ``(batch,)``, how many entries of each are real.
        mask: ``(batch, tokens)`` bool, true for real tokens.

    Returns:
        ``(batch, tokens, ...)``; what stands at padding means nothing.
    """
    rank = (mask.long().cumsum(1) - 1).clamp(min=0)
    count = mask.sum(1, keepdim=True).clamp(min=1)
    index = ((2 * rank + 1) * steps[:, None]) // (2 * count)
    rows = torch.arange(len(targets), device=targets.device)[:, None]
    return targets[rows, index.clamp(max=targets.shape[1] - 1)]


def _sorted(names: set[str]) -> tuple[str, ...]:
    numeric = all(name.lstrip("-").isdigit() for name in names)
    return tuple(sorted(names, key=int) if numeric else sorted(names))


def _classes(parts: Sequence[str], names: Sequence[str], row: Row, number: int) -> Tensor:
    unknown = [part for part in parts if part and part not in names]
    if unknown:
        raise InvalidManifest(f"row {number} ({row.file.name}): label {unknown[0]!r} is none of {', '.join(names)}")
    values = torch.tensor([names.index(part) if part else UNKNOWN for part in parts])
    if (values == UNKNOWN).all():
        raise InvalidManifest(f"row {number} ({row.file.name}): no label is given")
    return values


def _numbers(parts: Sequence[str], task: str, row: Row, number: int) -> Tensor:
    values = []
    for part in parts:
        try:
            value = float(part) if part else math.nan
        except ValueError:
            value = math.inf
        if math.isinf(value) or (task == "multilabel" and part not in ("", "0", "1")) or (part and math.isnan(value)):
            wanted = "0, 1 or nothing" if task == "multilabel" else "a finite number or nothing"
            raise InvalidManifest(f"row {number} ({row.file.name}): {part!r}, where {wanted} is expected")
        values.append(value)
    if all(map(math.isnan, values)):
        raise InvalidManifest(f"row {number} ({row.file.name}): no label is given")
    return torch.tensor(values, dtype=torch.float32)
