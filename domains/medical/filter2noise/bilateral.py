"""A bilateral filter whose three widths differ from pixel to pixel, differentiable in image and widths."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def bilateral_filter(image: Tensor, widths: Tensor, radius: int) -> Tensor:
    """Mean of each pixel's neighbours, weighted by nearness in place and in value.

    The weight of neighbour q at (dy, dx) from p is ``exp(-dx^2 / 2 sx^2 - dy^2 / 2 sy^2 - (I_q - I_p)^2 / 2 sr^2)``,
    all three widths being those of p (Filter2Noise, Sun et al. 2025, the filter of section "Attention-Guided Bilateral
    Filter"). Beyond the border the image goes on as its mirror image.

    Args:
        image: ``(batch, rows, columns)``, larger than ``radius`` on both sides.
        widths: ``(batch, 3, rows, columns)``, positive: ``sx`` along columns and ``sy`` along rows, pixels; ``sr``, in
            the units of the image.
        radius: Neighbours up to so many pixels away on each axis are seen.

    Returns:
        ``(batch, rows, columns)``.
    """
    padded = F.pad(image[:, None], (radius,) * 4, mode="reflect")[:, 0]
    precisions = 0.5 / widths.square()
    return _Bilateral.apply(image, padded, precisions[:, 0], precisions[:, 1], precisions[:, 2], radius)


class _Bilateral(torch.autograd.Function):
    """The filter, one neighbour after the other: memory does not grow with the window, in neither direction.

    With weights w, their sum D and result O, the gradient g of O reaches neighbour q's exponent as
    ``s_q = g w_q (I_q - O) / D``; all other gradients are sums of it.
    """

    @staticmethod
    def forward(ctx: Any, image: Tensor, padded: Tensor, a: Tensor, b: Tensor, c: Tensor, radius: int) -> Tensor:
        total, weights = torch.zeros_like(image), torch.zeros_like(image)
        for dy, dx, neighbour in _neighbours(padded, image.shape, radius):
            weight = _weight(neighbour - image, a, b, c, dy, dx)
            weights += weight
            total.addcmul_(weight, neighbour)
        result = total.div_(weights)
        ctx.radius = radius
        ctx.save_for_backward(image, padded, a, b, c, result, weights)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        image, padded, a, b, c, result, weights = ctx.saved_tensors
        wants_image = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        share = gradient / weights
        to_image, to_a, to_b, to_c = (torch.zeros_like(image) for _ in range(4))
        to_padded = torch.zeros_like(padded) if wants_image else None
        rows, columns = image.shape[1:]
        for dy, dx, neighbour in _neighbours(padded, image.shape, ctx.radius):
            difference = neighbour - image
            weight = _weight(difference, a, b, c, dy, dx).mul_(share)
            s = (neighbour - result).mul_(weight)
            if dx:
                to_a.sub_(s, alpha=dx * dx)
            if dy:
                to_b.sub_(s, alpha=dy * dy)
            slope = difference * s
            to_c.addcmul_(slope, difference, value=-1)
            if to_padded is not None:
                slope.mul_(c).mul_(2)
                to_image += slope
                top, left = dy + ctx.radius, dx + ctx.radius
                to_padded[:, top : top + rows, left : left + columns] += weight.sub_(slope)
        return to_image if wants_image else None, to_padded, to_a, to_b, to_c, None


def _neighbours(padded: Tensor, shape: torch.Size, radius: int) -> Iterator[tuple[int, int, Tensor]]:
    _, rows, columns = shape
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            top, left = dy + radius, dx + radius
            yield dy, dx, padded[:, top : top + rows, left : left + columns]


def _weight(difference: Tensor, a: Tensor, b: Tensor, c: Tensor, dy: int, dx: int) -> Tensor:
    exponent = difference.square().mul_(c)
    if dx:
        exponent.add_(a, alpha=dx * dx)
    if dy:
        exponent.add_(b, alpha=dy * dy)
    return exponent.neg_().exp_()
