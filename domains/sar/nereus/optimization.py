"""DINO's optimiser: AdamW with gradients clipped tensor by tensor and a weight decay that rises over the run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from domains.sar.nereus.schedules import half_cosine

CLIP = 3.0
"""Largest norm of the gradient of one parameter tensor, DINO's setting for its ViTs."""


class DinoAdamW(torch.optim.AdamW):
    """`torch.optim.AdamW` for the parameter groups of `NereusForPreTraining`; a recipe sets its own ``clip`` to 0."""

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
