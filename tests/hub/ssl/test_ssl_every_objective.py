"""What holds for every objective: permutation of the batch, gradients, autocast."""

from __future__ import annotations

from typing import Any

import torch


def leaves(case: Any, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    return [inputs[name].clone().requires_grad_() for name in case.trained]


def test_value_does_not_depend_on_the_order_of_the_batch(objective: Any, generator: torch.Generator) -> None:
    inputs = objective.inputs()
    order = torch.randperm(8, generator=generator)
    expected = objective.loss(inputs)
    torch.testing.assert_close(objective.loss(objective.take(inputs, order)), expected, rtol=1e-9, atol=1e-9)


def test_gradient_matches_finite_differences(smooth_objective: Any) -> None:
    inputs = smooth_objective.inputs(seed=1)

    def function(*values: torch.Tensor) -> torch.Tensor:
        return smooth_objective.loss(inputs | dict(zip(smooth_objective.trained, values, strict=True)))

    assert torch.autograd.gradcheck(function, leaves(smooth_objective, inputs), eps=1e-6, atol=1e-6)


def test_computes_in_float32_under_bfloat16_autocast(objective: Any) -> None:
    inputs = objective.inputs(seed=2)

    def cast(dtype: torch.dtype) -> dict[str, torch.Tensor]:
        return {n: v.to(dtype) if v.is_floating_point() else v for n, v in inputs.items()}

    half = cast(torch.bfloat16)
    values = [half[name].requires_grad_() for name in objective.trained]
    with torch.autocast("cpu", torch.bfloat16):
        loss = objective.loss(half)
    gradients = torch.autograd.grad(loss, values)
    assert loss.isfinite() and all(gradient.isfinite().all() for gradient in gradients)
    assert loss.dtype in (torch.float32, torch.float64)
    # Exactly the float32 value of the rounded inputs: nothing inside ran in half precision.
    rounded = {n: v.detach().float() if v.is_floating_point() else v for n, v in half.items()}
    torch.testing.assert_close(loss.detach(), objective.loss(rounded), rtol=1e-6, atol=1e-6)
    # And near the value of the inputs themselves.
    torch.testing.assert_close(loss.detach().float(), objective.loss(cast(torch.float32)).float(), rtol=0.05, atol=0.05)
