"""Reconstruction losses on masked places, and the patches of an image."""

import torch
import torch.nn.functional as F
from torch import Tensor

from hub.ssl._checks import check_positive, check_same_shape
from hub.ssl.distributed import mean_share
from hub.ssl.precision import in_full_precision

PATCH_VARIANCE_EPS = 1e-6


@in_full_precision
def masked_l1(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute error over masked cells.

    The sum over all cells of all processes is divided by their number, so that long samples
    weigh more, as in TERA (Liu et al. 2021, Eq. 1).

    Args:
        prediction: any shape.
        target: the same shape.
        mask: bool or 0/1, broadcastable to that shape from the left: `(batch, frames)` selects
            whole frames, the full shape single cells.

    Returns:
        Scalar.

    Raises:
        ValueError: if the shapes do not fit or no process has a masked cell.
    """
    error = (prediction - _target(prediction, target)).abs()
    return mean_share(error, _cells(mask, error))


@in_full_precision
def masked_mse(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error over masked cells.

    Args:
        prediction: any shape.
        target: the same shape.
        mask: bool or 0/1, broadcastable to that shape from the left: `(batch, frames)` selects
            whole frames, the full shape single cells.

    Returns:
        Scalar.

    Raises:
        ValueError: if the shapes do not fit or no process has a masked cell.
    """
    error = (prediction - _target(prediction, target)).square()
    return mean_share(error, _cells(mask, error))


@in_full_precision
def masked_patch_mse(prediction: Tensor, patches: Tensor, mask: Tensor, *, normalise: bool = True) -> Tensor:
    """Mean squared error of masked image patches.

    He et al. 2022 (MAE), section 3: with `normalise`, every target patch is standardised by its
    own mean and (unbiased) variance.

    Args:
        prediction: `(batch, patches, pixels)`.
        patches: `(batch, patches, pixels)` from `patchify`.
        mask: `(batch, patches)`, 1 or true where masked.
        normalise: standardise the targets.

    Returns:
        Scalar.

    Raises:
        ValueError: if the shapes do not fit or no process has a masked cell.
    """
    if normalise:
        variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
        patches = (patches - mean) / (variance + PATCH_VARIANCE_EPS).sqrt()
    return masked_mse(prediction, patches, mask)


@in_full_precision
def scaled_cosine_error(prediction: Tensor, target: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Mean of `(1 - cos)^gamma`: easy nodes are scaled down.

    Hou et al. 2022 (GraphMAE), Eq. 2, over the rows given: pass masked nodes only. An all-zero
    row has cosine 0 and contributes 1. Not to be confused with similarity contrastive
    estimation, which shares the abbreviation SCE.

    Args:
        prediction: `(nodes, dim)`.
        target: `(nodes, dim)`.
        gamma: at least 1.

    Returns:
        Scalar in `[0, 2^gamma]`.

    Raises:
        ValueError: if the shapes differ, gamma is below 1, or no process has a row.
    """
    if gamma < 1:
        raise ValueError(f"gamma must be at least 1, got {gamma}")
    target = _target(prediction, target)
    cosine = (F.normalize(prediction, dim=-1) * F.normalize(target, dim=-1)).sum(dim=-1)
    # Rounding may put the cosine of equal vectors above 1, where a fractional power is NaN.
    return mean_share((1 - cosine).clamp(min=0).pow(gamma))


def patchify(images: Tensor, patch: int) -> Tensor:
    """Cut images into patches, row by row; pixels in the order (row, column, channel).

    Args:
        images: `(batch, channels, height, width)`.
        patch: side in pixels.

    Returns:
        `(batch, patches, patch * patch * channels)`.

    Raises:
        ValueError: if the sides are not multiples of `patch`.
    """
    check_positive(patch=patch)
    if images.dim() != 4 or images.shape[2] % patch or images.shape[3] % patch:
        raise ValueError(
            f"images must have shape (batch, channels, height, width) with sides that are "
            f"multiples of {patch}, got {tuple(images.shape)}"
        )
    tiles = images.unfold(2, patch, patch).unfold(3, patch, patch)  # (n, c, rows, columns, p, q)
    return tiles.permute(0, 2, 3, 4, 5, 1).flatten(start_dim=3).flatten(start_dim=1, end_dim=2)


def unpatchify(patches: Tensor, patch: int, height: int, width: int) -> Tensor:
    """Put patches back together; the inverse of `patchify`.

    Args:
        patches: `(batch, patches, patch * patch * channels)`.
        patch: side in pixels.
        height: of the image in pixels.
        width: of the image in pixels.

    Returns:
        `(batch, channels, height, width)`.

    Raises:
        ValueError: if the number of patches does not fit the size.
    """
    check_positive(patch=patch)
    rows, columns = height // patch, width // patch
    if patches.shape[1] != rows * columns or patches.shape[2] % patch**2:
        raise ValueError(
            f"a {height} x {width} image has {rows * columns} patches of {patch**2} pixels times "
            f"channels, got {tuple(patches.shape)}"
        )
    tiles = patches.reshape(len(patches), rows, columns, patch, patch, -1)
    return tiles.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), -1, height, width)


def _target(prediction: Tensor, target: Tensor) -> Tensor:
    check_same_shape(prediction=prediction, target=target)
    return target


def _cells(mask: Tensor, cells: Tensor) -> Tensor:
    if mask.shape != cells.shape[: mask.dim()]:
        raise ValueError(f"mask {tuple(mask.shape)} must match the first axes of {tuple(cells.shape)}")
    return mask.reshape(mask.shape + (1,) * (cells.dim() - mask.dim()))
