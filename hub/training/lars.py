"""LARS: layer-wise adaptive rates for large batches (You et al. 2017, arXiv:1708.03888, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class Lars(torch.optim.Optimizer):
    """Momentum SGD whose step is scaled, layer by layer, by the ratio of weight to gradient norm.

    Parameters of a group without weight decay (biases, normalisation) take the plain step, as is usual.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 1e-3,
        eps: float = 1e-8,
    ) -> None:
        """Set the optimiser up.

        Args:
            params: Parameters or parameter groups.
            lr: Learning rate.
            momentum: Of the buffer; no dampening.
            weight_decay: Added to the gradient, and to the norm that the step is scaled by.
            trust_coefficient: Share of a layer's norm that one step may move it by, before ``lr``.
            eps: Keeps the ratio finite.
        """
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "eps": eps,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; returns what ``closure`` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient = parameter.grad
        assert gradient is not None
        decay = group["weight_decay"]
        if decay:
            weight_norm, gradient_norm = parameter.norm(), gradient.norm()
            ratio = group["trust_coefficient"] * weight_norm / (gradient_norm + decay * weight_norm + group["eps"])
            # A layer of zeros, or one without gradient, has no ratio: it takes the plain step.
            ratio = torch.where((weight_norm > 0) & (gradient_norm > 0), ratio, torch.ones_like(ratio))
            gradient = (gradient + decay * parameter) * ratio
        buffer = self.state[parameter].get("momentum_buffer")
        if buffer is None:
            buffer = self.state[parameter]["momentum_buffer"] = gradient.clone()
        else:
            buffer.mul_(group["momentum"]).add_(gradient)
        parameter.sub_(buffer, alpha=group["lr"])
