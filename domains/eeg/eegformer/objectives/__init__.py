"""Objectives that may train the encoder in the place of quantised reconstruction; a recipe names one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor, nn

if TYPE_CHECKING:
    from domains.eeg.eegformer.modeling import EEGFormerModel


class Rows(NamedTuple):
    """One batch, as an objective sees it.

    Attributes:
        values: Tokens of all rows, ``(rows, tokens, values)``.
        mask: ``(rows, tokens)`` bool, true for real tokens.
        states: What the encoder made of them, class token first where there is one.
        real: ``(batch, most_rows)`` bool: which rows each sample has, in the order of ``values``.
        views: Further tensors of the batch, ``(batch, ...)``.
    """

    values: Tensor
    mask: Tensor
    states: Tensor
    real: Tensor
    views: Mapping[str, Tensor]


class Objective(nn.Module):
    """Heads and loss of an objective: ``forward(model, rows) -> (loss, metrics)``."""

    def update_teacher(self, model: EEGFormerModel, progress: float) -> None:
        """Move a teacher after an optimiser step; without one, nothing."""

    def start_teacher(self, model: EEGFormerModel) -> None:
        """Make a teacher equal to the student; without one, nothing."""


def by_sample(vectors: Tensor, real: Tensor) -> Tensor:
    """Return the mean of each sample's rows.

    Args:
        vectors: ``(rows, width)``.
        real: ``(batch, most_rows)`` bool.

    Returns:
        ``(batch, width)``.
    """
    whole = vectors.new_zeros(*real.shape, vectors.shape[-1])
    whole[real] = vectors
    return whole.sum(1) / real.sum(1, keepdim=True)
