"""The loss of each task; labels that are not known take no part in it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hub.finetuning.targets import UNKNOWN, align
from hub.finetuning.task import TOKEN_TASKS


def weighted_cross_entropy(logits: Tensor, classes: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean cross-entropy, each row weighted by its class.

    Args:
        logits: ``(rows, labels)``.
        classes: ``(rows,)`` int64, `UNKNOWN` where a row has no part in it.
        weights: ``(labels,)``, or ``None`` for equal ones.

    Returns:
        ``sum(w * loss) / sum(w)`` over the rows with a class, a scalar; 0 where no row has one.
    """
    known = classes != UNKNOWN
    total = F.cross_entropy(logits, classes, weight=weights, ignore_index=UNKNOWN, reduction="sum")
    weight = known.sum() if weights is None else (weights[classes.clamp(min=0)] * known).sum()
    return total / weight.clamp(min=torch.finfo(torch.float32).tiny)


def masked_binary_cross_entropy(logits: Tensor, present: Tensor, positive_weights: Tensor | None = None) -> Tensor:
    """Mean binary cross-entropy over the labels that are known.

    Args:
        logits: ``(rows, labels)``.
        present: ``(rows, labels)``: 1, 0, or NaN where not known.
        positive_weights: ``(labels,)`` factor on the term of a 1, or ``None``.
    """
    known = ~present.isnan()
    terms = F.binary_cross_entropy_with_logits(
        logits, present.nan_to_num(0.0), pos_weight=positive_weights, reduction="none"
    )
    return (terms * known).sum() / known.sum().clamp(min=1)


def masked_squared_error(outputs: Tensor, numbers: Tensor) -> Tensor:
    """Mean squared error over the numbers that are known (not NaN), same shapes."""
    known = ~numbers.isnan()
    return ((outputs - numbers.nan_to_num(0.0)).square() * known).sum() / known.sum().clamp(min=1)


class TaskLoss:
    """Outputs of a head and targets to a loss, for any task.

    Attributes:
        task: See `hub.finetuning.task.HeadSpec`.
        weights: Class weights ``(labels,)``, or ``None``.
        centre: Mean of each number, ``(labels,)``, or ``None`` where targets are classes.
        scale: Its standard deviation.
    """

    def __init__(
        self, task: str, weights: Tensor | None = None, centre: Tensor | None = None, scale: Tensor | None = None
    ) -> None:
        """Keep what the loss depends on."""
        self.task = task
        self.weights = weights
        self.centre = centre
        self.scale = scale

    def __call__(self, outputs: Tensor, mask: Tensor, targets: Tensor, steps: Tensor) -> Tensor:
        """Return the loss of a batch.

        Args:
            outputs: ``(batch, labels)`` or ``(batch, tokens, labels)``.
            mask: ``(batch, tokens)`` bool, true for real tokens; read by tasks with an output a token.
            targets: See `hub.finetuning.targets.Targets.batch`.
            steps: See there.
        """
        targets, steps = targets.to(outputs.device), steps.to(outputs.device)
        weights = None if self.weights is None else self.weights.to(outputs.device)
        if self.task in TOKEN_TASKS:
            # Real tokens only, as rows: ``(tokens, labels)``.
            targets, outputs = align(targets, steps, mask)[mask], outputs[mask]
        if self.task in ("classification", "frames"):
            return weighted_cross_entropy(outputs, targets, weights)
        if self.task == "multilabel":
            return masked_binary_cross_entropy(outputs, targets, weights)
        assert self.centre is not None and self.scale is not None
        standard = (targets - self.centre.to(outputs.device)) / self.scale.to(outputs.device)
        return masked_squared_error(outputs, standard)
