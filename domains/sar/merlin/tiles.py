"""Cutting an image to overlapping tiles, and the weights with which they are put together again."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.sar.merlin.configuration import MULTIPLE


def tile_side(length: int, patch: int) -> int:
    """Return a tile's length along an axis: ``patch``, or less for a shorter image, a multiple of 32."""
    return min(patch, -(-length // MULTIPLE) * MULTIPLE)


def tile_offsets(length: int, patch: int, stride: int) -> list[int]:
    """Return where tiles start along an axis: every ``stride``, the last one flush with the end."""
    offsets = list(range(0, length - patch, stride))
    if not offsets or offsets[-1] + patch < length:
        offsets.append(max(length - patch, 0))
    return offsets


def blending_weights(patch: int, overlap: int, *, taper: bool) -> Tensor:
    """Return a tile's weight along an axis, ``(patch,)``: one, or a ramp over the overlap at both ends."""
    if not taper or overlap == 0:
        return torch.ones(patch)
    places = torch.arange(patch) + 0.5
    return (torch.minimum(places, patch - places) / overlap).clamp(max=1)


def reflected(image: Tensor, rows: int, columns: int) -> Tensor:
    """Return an image continued by its mirror image at the bottom and right, ``(channels, rows, columns)``."""
    below, right = rows - image.shape[-2], columns - image.shape[-1]
    return F.pad(image, (0, right, 0, below), mode="reflect") if below > 0 or right > 0 else image
