"""Gradients of objectives that hold part of themselves fixed.

Finite differences of the value itself would see the fixed part move. So each is written down a
second time, plainly, with that part taken from the point where the gradient is asked for; its
value must agree there, and its finite differences must be the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hub import ssl

Inputs = dict[str, Tensor]


def unit(x: Tensor) -> Tensor:
    return F.normalize(x, dim=1)


def frozen_dclw(at: Inputs) -> Callable[[Inputs], Tensor]:
    n, t = len(at["z0"]), 0.3
    weight = 2 - n * torch.softmax((unit(at["z0"]) * unit(at["z1"])).sum(dim=1) / 0.5, dim=0)

    def loss(x: Inputs) -> Tensor:
        views, total = (unit(x["z0"]), unit(x["z1"])), torch.zeros((), dtype=torch.float64)
        for i in range(n):
            for own, other in (views, views[::-1]):
                negatives = [own[i] @ v[j] / t for v in (own, other) for j in range(n) if j != i]
                total = total - weight[i] * (own[i] @ other[i]) / t
                total = total + torch.stack(negatives).logsumexp(dim=0)
        return total / (2 * n)

    return loss


def frozen_individual_temperatures(at: Inputs) -> Callable[[Inputs], Tensor]:
    # The module keeps its temperatures in float32.
    n, tau, gamma = len(at["z0"]), float(torch.tensor(0.1)), 0.8

    def similarities(x: Inputs) -> tuple[Tensor, Tensor]:
        views = torch.stack([unit(x["z0"]), unit(x["z1"])])
        others = torch.stack(
            [
                torch.stack(
                    [
                        torch.stack([views[v, i] @ views[w, j] for w in (0, 1) for j in range(n) if j != i])
                        for i in range(n)
                    ]
                )
                for v in (0, 1)
            ]
        )
        return others, (views[0] * views[1]).sum(dim=1)

    fixed, _ = similarities(at)
    weight = (fixed / tau).exp()
    s = (1 - gamma) * at["s"][at["index"]] + gamma * weight.mean(dim=2)
    weight = weight / s[..., None]

    def loss(x: Inputs) -> Tensor:
        others, positive = similarities(x)
        return ((weight * others).mean(dim=2) - positive).sum(dim=0).mean()

    return loss


def frozen_groco(at: Inputs) -> Callable[[Inputs], Tensor]:
    fixed = [unit(at[name]) for name in ("z0", "z1", "z2")]
    n, k = len(fixed[0]), 3

    def loss(x: Inputs) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for number, name in enumerate(("z0", "z1", "z2")):
            for i, anchor in enumerate(unit(x[name])):
                negatives = torch.stack([anchor @ fixed[number][j] for j in range(n) if j != i])
                positives = torch.stack([anchor @ fixed[v][i] for v in range(3) if v != number])
                values = torch.cat([negatives.sort().values[-k:], positives.sort().values])
                total = total + group_order(values, k)
        return total / (3 * n)

    return loss


def group_order(values: Tensor, negatives: int) -> Tensor:
    """The sorting network comparator by comparator, and both cross-entropies."""
    n = len(values)
    places = list(values)
    mass = [list(row) for row in torch.eye(n, dtype=torch.float64)]  # mass[input][place]
    for layer in range(n):
        for a in range(layer % 2, n - 1, 2):
            keep = torch.atan(places[a + 1] - places[a]) / math.pi + 0.5
            for row in (places, *mass):
                low, high = row[a], row[a + 1]
                row[a], row[a + 1] = keep * low + (1 - keep) * high, keep * high + (1 - keep) * low
    total = torch.zeros((), dtype=torch.float64)
    for i in range(n):
        right = sum(mass[i][:negatives]) if i < negatives else sum(mass[i][negatives:])
        wrong = sum(mass[i][negatives:]) if i < negatives else sum(mass[i][:negatives])
        total = total - torch.log(right) - torch.log(1 - wrong)
    return total / (2 * n)


def frozen_swav(at: Inputs) -> Callable[[Inputs], Tensor]:
    codes = [
        ssl.sinkhorn(torch.cat([at["high"][i], at["queue"][i]]), epsilon=0.2)[: at["high"].shape[1]] for i in range(2)
    ]

    def loss(x: Inputs) -> Tensor:
        views, total = [*x["high"], *x["low"]], torch.zeros((), dtype=torch.float64)
        for i, code in enumerate(codes):
            for v, scores in enumerate(views):
                if v != i:
                    total = total - (code * (scores / 0.1).log_softmax(dim=1)).sum(dim=1).mean()
        return total / (len(codes) * (len(views) - 1))

    return loss


FROZEN = {
    "dclw": frozen_dclw,
    "individual_temperatures": frozen_individual_temperatures,
    "groco": frozen_groco,
    "swav": frozen_swav,
}


def test_gradient_is_that_of_the_value_with_the_fixed_part_fixed(stopped_objective: Any) -> None:
    objective = stopped_objective
    at = objective.inputs(seed=5)
    plain = FROZEN[objective.name](at)
    leaves = [at[name].clone().requires_grad_() for name in objective.trained]
    loss = objective.loss(at | dict(zip(objective.trained, leaves, strict=True)))
    gradients = torch.autograd.grad(loss, leaves)
    torch.testing.assert_close(loss.detach(), plain(at), rtol=1e-9, atol=1e-9)

    generator, step = torch.Generator().manual_seed(6), 1e-5
    for name, gradient in zip(objective.trained, gradients, strict=True):
        for _ in range(4):  # along random directions; every coordinate would take minutes
            direction = torch.randn(at[name].shape, generator=generator, dtype=torch.float64)
            ahead, behind = (plain(at | {name: at[name] + sign * step * direction}) for sign in (1, -1))
            slope = (ahead - behind) / (2 * step)
            torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-5, atol=1e-7)


def test_straight_through_gradient_of_the_codebook(generator: torch.Generator) -> None:
    book = ssl.Codebook(4, 3, generator=generator)
    x = torch.randn(5, 3, generator=generator).requires_grad_()
    quantized = book(x)
    coefficients = torch.randn(5, 3, generator=generator)
    (gradient,) = torch.autograd.grad((quantized.values * coefficients).sum(), [x])
    torch.testing.assert_close(gradient, coefficients)
    torch.testing.assert_close(quantized.values.detach(), book.weight[quantized.indices].detach())


def test_direct_predictor_is_a_fixed_matrix_within_a_step(generator: torch.Generator) -> None:
    module = ssl.DirectPredictor(3).double()
    module.update(torch.randn(10, 3, generator=generator, dtype=torch.float64))
    x = torch.randn(5, 3, generator=generator, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(module, (x,))
    assert not list(module.parameters())
