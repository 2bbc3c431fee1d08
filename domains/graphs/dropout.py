"""Dropout whose random bits are drawn eight bytes at a time on a CPU, where torch draws one number an element."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

STEPS = 1 << 16


def keep_mask(shape: tuple[int, ...], probability: float, like: Tensor) -> Tensor:
    """Return a random mask of what dropout keeps, scaled: 0, or ``1 / (1 - probability)``.

    On a CPU the probability is rounded to a multiple of 2**-16; that is 0.199997 for 0.2.

    Args:
        shape: Of the mask.
        probability: Of dropping an element, from torch's default generator.
        like: A tensor of the type and device wanted.
    """
    if like.device.type != "cpu":
        return F.dropout(like.new_ones(shape), probability)
    count = 1
    for size in shape:
        count *= size
    bits = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)
    dropped = round(probability * STEPS)
    kept = bits.view(torch.int16)[:count].view(shape) >= dropped - STEPS // 2
    return kept.to(like.dtype).mul_(STEPS / (STEPS - dropped))


def dropout(states: Tensor, probability: float, training: bool) -> Tensor:
    """Set elements to zero at random and scale the others up, in training.

    Args:
        states: Any shape.
        probability: Of dropping an element, below 1.
        training: Whether to.
    """
    if not training or probability == 0:
        return states
    return states * keep_mask(tuple(states.shape), probability, states)
