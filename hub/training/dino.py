"""DINO's optimiser, and how its settings change over a run (Caron et al. 2021, and the code published with it).

AdamW with gradients clipped tensor by tensor and a weight decay that rises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from hub.ssl.teacher import cosine_momentum

CLIP = 3.0
"""Largest norm of the gradient of one parameter tensor, DINO's setting for its ViTs."""


class DinoAdamW(torch.optim.AdamW):
    """`torch.optim.AdamW` for parameter groups that tell the run's progress; a recipe sets its own ``clip`` to 0."""

    def __init__(self, params: Iterable[dict[str, Any]], lr: float = 5e-4) -> None:
        """Create the optimiser.

        Args:
            params: Groups; the first names under ``progress`` the tensor that tells how much of the run is done, and
                those whose decay rises have ``weight_decay_start`` and ``weight_decay_end``.
            lr: Peak learning rate.
        """
        groups = [dict(group) for group in params]
        # Not a part of a group: groups are saved and read back as copies, and this must stay the task's own.
        self.progress: torch.Tensor = groups[0].pop("progress")
        super().__init__(groups, lr=lr)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Clip, set the decay of this step, and update all parameters that have a gradient."""
        for group in self.param_groups:
            if "weight_decay_end" in group:
                ends = group["weight_decay_start"], group["weight_decay_end"]
                group["weight_decay"] = half_cosine(float(self.progress), *ends)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    torch.nn.utils.clip_grad_norm_(parameter, CLIP)
        return super().step(closure)


def half_cosine(progress: float, start: float, end: float) -> float:
    """Return the value at ``progress`` (0 to 1) on a half cosine between two values from 0 to 1."""
    # Of one whole step a fraction: the curve is that of the teacher's momentum, which weight decay follows too.
    return cosine_momentum(progress, 1, start=start, end=end)  # type: ignore[arg-type]


def warmed_up(progress: float, start: float, end: float, warmup: float) -> float:
    """Return the value at ``progress`` that goes evenly from ``start`` to ``end`` and then stays.

    Args:
        progress: Share of the run that is done.
        start: At the beginning.
        end: From ``warmup`` on.
        warmup: Share of the run.
    """
    return end if progress >= warmup else start + (end - start) * progress / warmup
