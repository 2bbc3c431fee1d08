"""The optimiser that the published TERA checkpoints were trained with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import Optimizer


class TeraAdamW(Optimizer):
    """Adam with weight decay inside the bias-corrected update.

    With m and v the moving averages of gradient and squared gradient at step t::

        w <- w - lr * sqrt(1 - b2^t) / (1 - b1^t) * (m / (sqrt(v) + eps) + weight_decay * w)

    It differs from `torch.optim.AdamW` in two ways: the correction multiplies the decay too, so that the
    first steps decay at another rate, and ``eps`` is added to the uncorrected root.
    """

    def __init__(
        self,
        params: Iterable[torch.Tensor] | Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        """Create the optimiser.

        Args:
            params: Parameters or groups.
            lr: Learning rate.
            betas: Decay of the moving averages.
            eps: Added to the root of the squared average.
            weight_decay: Share of the weight added to each update; a group may set its own.
        """
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = 0
                    state["exp_avg"] = torch.zeros_like(parameter)
                    state["exp_avg_sq"] = torch.zeros_like(parameter)
                state["step"] += 1
                average, square = state["exp_avg"], state["exp_avg_sq"]
                average.lerp_(parameter.grad, 1 - beta1)
                square.mul_(beta2).addcmul_(parameter.grad, parameter.grad, value=1 - beta2)
                update = average / square.sqrt().add_(group["eps"])
                update.add_(parameter, alpha=group["weight_decay"])
                correction = math.sqrt(1 - beta2 ** state["step"]) / (1 - beta1 ** state["step"])
                parameter.sub_(update, alpha=group["lr"] * correction)
        return loss
