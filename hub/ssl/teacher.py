"""The exponential moving average (EMA) teacher and its momentum over the steps of a run."""

import copy
import math
from typing import Any

import torch
from torch import nn

from hub.ssl._checks import check_fraction, check_positive


class EMATeacher(nn.Module):
    """A copy of a network that follows it by an exponential moving average.

    Only *parameters* are averaged. Buffers, such as the running statistics of a batch norm, stay
    the teacher's own: it runs in train mode and keeps them itself (Grill et al. 2020, appendix J,
    and the usual code). The teacher is an ordinary module: its state is saved and restored with
    the training state.
    """

    def __init__(self, student: nn.Module) -> None:
        """Copy the student, buffers included, and freeze the copy.

        Args:
            student: the network to follow; unwrap `DistributedDataParallel` before.
        """
        super().__init__()
        self.model = copy.deepcopy(student)
        self.model.requires_grad_(False)

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the teacher without gradient."""
        return self.model(*args, **kwargs)

    @torch.no_grad()
    def update(self, student: nn.Module, momentum: float) -> None:
        """Move each parameter to `momentum * teacher + (1 - momentum) * student`.

        Call it once after each optimiser step that was really taken.

        Args:
            student: a network with the parameters that the teacher was copied from.
            momentum: 1 keeps the teacher, 0 copies the student.

        Raises:
            ValueError: if the momentum is outside [0, 1] or the parameters do not correspond.
        """
        check_fraction(momentum=momentum)
        own = dict(self.model.named_parameters())
        followed = dict(student.named_parameters())
        if own.keys() != followed.keys():
            differing = sorted(own.keys() ^ followed.keys())
            raise ValueError(f"student and teacher must have the same parameters, only one has {differing[:5]}")
        for name, parameter in own.items():
            parameter.lerp_(followed[name].to(parameter.dtype), 1 - momentum)


def cosine_momentum(step: int, total_steps: int, *, start: float = 0.996, end: float = 1.0) -> float:
    """Momentum that rises from `start` at step 0 to `end` at step `total_steps` by a half cosine.

    Grill et al. 2020 (BYOL), section 3.2: `1 - (1 - start) (cos(pi k / K) + 1) / 2`. Libraries
    that want the end value *at* the last of K steps pass `K - 1`.

    Args:
        step: number of optimiser steps taken.
        total_steps: steps of the run (K).
        start: momentum at step 0.
        end: momentum at the end.

    Returns:
        The momentum.

    Raises:
        ValueError: if the step lies outside the run or a momentum outside [0, 1].
    """
    _check_step(step, total_steps, start, end)
    return end - (end - start) * (math.cos(math.pi * step / total_steps) + 1) / 2


def linear_momentum(step: int, total_steps: int, *, start: float = 0.996, end: float = 1.0) -> float:
    """Momentum that rises evenly from `start` at step 0 to `end` at step `total_steps` (JEPA).

    Args:
        step: number of optimiser steps taken.
        total_steps: steps of the run.
        start: momentum at step 0.
        end: momentum at the end.

    Returns:
        The momentum.

    Raises:
        ValueError: if the step lies outside the run or a momentum outside [0, 1].
    """
    _check_step(step, total_steps, start, end)
    return start + (end - start) * step / total_steps


def _check_step(step: int, total_steps: int, start: float, end: float) -> None:
    check_positive(total_steps=total_steps)
    check_fraction(start=start, end=end)
    if not 0 <= step <= total_steps:
        raise ValueError(f"step must be between 0 and total_steps {total_steps}, got {step}")
