"""What Filter2Noise learns from: two halves of one noisy image, its scales, and its edges."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

EDGE_WEIGHT = 30.0
"""Weight of the edge term (lambda). The paper recommends 350 to start from, for edges whose scale it does not give;
with those here 350 keeps the noise (docs/filter2noise.md)."""
EDGE_KERNEL = 7
EDGE_WIDTHS = (9.0, 10.0)
"""Widths of the two Gaussians whose difference shows edges; the paper does not give the wide one."""

_PAIRS = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
"""The pairs of a 2 x 2 block, its pixels counted row by row."""


def diagonal_halves(image: Tensor) -> tuple[Tensor, Tensor]:
    """Means of the two diagonals of each 2 x 2 block: two images of half the size, white noise being independent.

    As in ZS-N2N (Mansour and Heckel, CVPR 2023, section 3.1).

    Args:
        image: ``(batch, rows, columns)``; a last odd row or column is left out.

    Returns:
        Main and other diagonal, each ``(batch, rows // 2, columns // 2)``.
    """
    a, b, c, d = _corners(image)
    return (a + d) / 2, (b + c) / 2


def local_shuffle(image: Tensor) -> Tensor:
    """Swap, in each 2 x 2 block, the two pixels that differ least (Euclidean Local Shuffle).

    Correlated noise is then no longer the same in the two halves' neighbours, while what is exchanged is alike.

    Args:
        image: ``(batch, rows, columns)``; a last odd row or column is left out.
    """
    pixels = torch.stack(_corners(image))
    nearest = torch.stack([(pixels[p] - pixels[q]).abs() for p, q in _PAIRS]).argmin(0)
    orders = torch.tensor([_swapped(p, q) for p, q in _PAIRS], device=image.device)
    a, b, c, d = pixels.gather(0, orders[nearest].movedim(-1, 0))
    return torch.stack([torch.stack([a, b], -1), torch.stack([c, d], -1)], -3).flatten(-2).flatten(1, 2)


def edges(image: Tensor) -> Tensor:
    """Difference of two Gaussian smoothings, ``(batch, rows - 6, columns - 6)``."""
    offset = torch.arange(EDGE_KERNEL, dtype=image.dtype, device=image.device) - EDGE_KERNEL // 2
    squares = offset[:, None].square() + offset.square()
    narrow, wide = (torch.exp(-squares / (2 * width * width)) for width in EDGE_WIDTHS)
    kernel = narrow / narrow.sum() - wide / wide.sum()
    return F.conv2d(image[:, None], kernel[None, None])[:, 0]


def objective(
    denoise: Callable[[Tensor], Tensor], image: Tensor, edge_weight: float = EDGE_WEIGHT
) -> tuple[Tensor, Tensor]:
    """Return the loss of a noisy image: reconstruction, and edges with their weight.

    Reconstruction is a third each of: what either half says of the other once denoised (Noise2Noise), how much the two
    denoised halves differ, and how much they differ from the halves of the whole image denoised.

    Args:
        denoise: The filter, ``(batch, rows, columns)`` to the same.
        image: Scaled to about 0 to 1.
        edge_weight: The paper's lambda: small smooths more, large keeps more.

    Returns:
        The loss, and the whole image denoised.
    """
    halves = diagonal_halves(local_shuffle(image))
    first, second = denoise(torch.cat(halves)).chunk(2)
    whole = denoise(image)
    noise2noise = (F.l1_loss(first, halves[1]) + F.l1_loss(second, halves[0])) / 2
    agreement = F.l1_loss(first, second)
    scales = sum(F.l1_loss(a, b) for a, b in zip((first, second), diagonal_halves(whole), strict=True)) / 2
    edge = F.l1_loss(edges(whole).abs(), edges(image).abs())
    return (noise2noise + agreement + scales) / 3 + edge_weight * edge, whole


def _corners(image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, columns = (side // 2 * 2 for side in image.shape[1:])
    even, odd = image[:, 0:rows:2], image[:, 1:rows:2]
    return even[..., 0:columns:2], even[..., 1:columns:2], odd[..., 0:columns:2], odd[..., 1:columns:2]


def _swapped(p: int, q: int) -> list[int]:
    order = [0, 1, 2, 3]
    order[p], order[q] = q, p
    return order
