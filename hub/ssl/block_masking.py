"""Rectangles of an image grid, hidden or exchanged between images (GMML, SiT)."""

from typing import NamedTuple

import torch
from torch import Tensor

from hub.ssl._checks import check_fraction, check_positive

FILLS = ("zeros", "noise", "elsewhere")


class BlockCorruption(NamedTuple):
    """Images with corrupted rectangles.

    Attributes:
        images: `(batch, channels, height, width)`.
        mask: `(batch, height / patch, width / patch)` bool, true where a cell was corrupted.
    """

    images: Tensor
    mask: Tensor


def block_mask(
    batch: int,
    height: int,
    width: int,
    *,
    coverage: float,
    generator: torch.Generator,
    largest_side: float = 0.3,
) -> Tensor:
    """Cover a grid by random rectangles until at least a given share is masked.

    Atito et al. 2021 (SiT; group masked model learning), section 3.1: each side is uniform
    between one cell and `largest_side` of the grid. Rectangles may overlap.

    Args:
        batch: number of masks.
        height: rows of the grid.
        width: columns of the grid.
        coverage: least share of masked cells; the last rectangle may overshoot.
        generator: source of the draws; the mask lies on its device.
        largest_side: longest side of a rectangle as a share of the grid's.

    Returns:
        `(batch, height, width)` bool, true where masked.

    Raises:
        ValueError: if a number is out of range.
    """
    check_positive(batch=batch, height=height, width=width, largest_side=largest_side)
    check_fraction(coverage=coverage, largest_side=largest_side)
    mask = torch.zeros(batch, height, width, dtype=torch.bool, device=generator.device)
    for grid in mask:
        while int(grid.sum()) < coverage * height * width:
            top, bottom, left, right = _rectangle(height, width, largest_side, generator)
            grid[top:bottom, left:right] = True
    return mask


def corrupt_blocks(
    images: Tensor,
    *,
    patch: int,
    generator: torch.Generator,
    drop_coverage: float = 0.5,
    replace_coverage: float = 0.3,
    largest_side: float = 0.3,
) -> BlockCorruption:
    """Corrupt rectangles of a batch of images for group masked model learning.

    Atito et al. 2021, section 3.1. Rectangles are dropped until `drop_coverage` is reached, each
    filled by one of zeros, noise or another place of the image; with one chance in four, as one
    more kind beside these three, a rectangle takes the *same place of another image* of the
    batch instead, until these cover `replace_coverage`. All draws come from the generator,
    unlike the authors' code, which reseeds the global one for every sample.

    Args:
        images: `(batch, channels, height, width)`.
        patch: side of a grid cell in pixels; rectangles are aligned to it.
        generator: source of the draws, on the device of `images`.
        drop_coverage: least share of corrupted cells.
        replace_coverage: largest share of cells taken from another image.
        largest_side: longest side of a rectangle as a share of the grid's.

    Returns:
        The corrupted images and the grid of what was touched: score these cells only.

    Raises:
        ValueError: if the sides are not multiples of `patch`, or a number is out of range.
    """
    batch, _, height, width = images.shape
    if height % patch or width % patch:
        raise ValueError(f"image sides {height} x {width} must be multiples of patch {patch}")
    check_positive(largest_side=largest_side)
    check_fraction(drop_coverage=drop_coverage, replace_coverage=replace_coverage, largest_side=largest_side)
    rows, columns = height // patch, width // patch
    corrupted = images.clone()
    mask = torch.zeros(batch, rows, columns, dtype=torch.bool, device=images.device)
    for number in range(batch):
        replaced = 0
        while int(mask[number].sum()) < drop_coverage * rows * columns:
            top, bottom, left, right = _rectangle(rows, columns, largest_side, generator)
            area = (bottom - top) * (right - left)
            mask[number, top:bottom, left:right] = True
            place = (slice(top * patch, bottom * patch), slice(left * patch, right * patch))
            other = _integer(0, len(FILLS) + 1, generator) == len(FILLS)
            if other and batch > 1 and replaced + area <= replace_coverage * rows * columns:
                replaced += area
                donor = (number + _integer(1, batch, generator)) % batch
                content = images[donor][:, place[0], place[1]]
            else:
                content = _fill(images[number], place, generator)
            corrupted[number][:, place[0], place[1]] = content
    return BlockCorruption(corrupted, mask)


def _fill(image: Tensor, place: tuple[slice, slice], generator: torch.Generator) -> Tensor:
    """Content for a rectangle of an image: zeros, noise, or a rectangle from elsewhere in it."""
    window = image[:, place[0], place[1]]
    kind = FILLS[_integer(0, len(FILLS), generator)]
    if kind == "zeros":
        return torch.zeros_like(window)
    if kind == "noise":
        return torch.randn(window.shape, generator=generator, device=image.device, dtype=image.dtype)
    _, high, wide = window.shape
    top = _integer(0, image.shape[1] - high + 1, generator)
    left = _integer(0, image.shape[2] - wide + 1, generator)
    return image[:, top : top + high, left : left + wide]


def _rectangle(height: int, width: int, largest_side: float, generator: torch.Generator) -> tuple[int, int, int, int]:
    high = _integer(1, max(1, int(largest_side * height)) + 1, generator)
    wide = _integer(1, max(1, int(largest_side * width)) + 1, generator)
    top = _integer(0, height - high + 1, generator)
    left = _integer(0, width - wide + 1, generator)
    return top, top + high, left, left + wide


def _integer(low: int, high: int, generator: torch.Generator) -> int:
    """Uniform integer, `low <= n < high`."""
    return int(torch.randint(low, high, (), generator=generator, device=generator.device))
