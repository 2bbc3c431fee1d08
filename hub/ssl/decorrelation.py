"""Redundancy reduction: Barlow Twins, Mixed Barlow Twins and VICReg.

All statistics are those of the global batch: the processes exchange means, variances and one
`dim x dim` matrix, never the features.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from hub.ssl._checks import check_batch, check_features, check_fraction
from hub.ssl.distributed import all_reduce_sum, global_row_index, mean_share
from hub.ssl.precision import in_full_precision

BATCH_NORM_EPS = 1e-5
# Only there to keep a constant feature from giving 0 / 0; too small to be seen otherwise.
UNBIASED_EPS = 1e-12
VARIANCE_EPS = 1e-4


@in_full_precision
def barlow_twins(z0: Tensor, z1: Tensor, *, redundancy_weight: float = 0.005, unbiased: bool = False) -> Tensor:
    """Cross-correlation of two views pushed to the identity.

    Zbontar et al. 2021, Eq. 1.

    Args:
        z0: `(batch, dim)` projections of the first view; any scale.
        z1: `(batch, dim)` projections of the second view.
        redundancy_weight: of the squared off-diagonal entries (lambda).
        unbiased: standardise by the unbiased deviation, as Mixed Barlow Twins does, instead of
            batch-norm style. The diagonal then tends to `(N - 1) / N`, never to 1.

    Returns:
        Scalar. A collapsed encoder (constant features) scores `dim`.

    Raises:
        ValueError: if the shapes differ or the global batch holds one sample.
    """
    check_features(z0=z0, z1=z1)
    total = _global_batch(z0, "Barlow Twins")
    standard0 = _standardise(z0, total, unbiased=unbiased)
    standard1 = _standardise(z1, total, unbiased=unbiased)
    correlation = all_reduce_sum(standard0.T @ standard1) / total
    diagonal = correlation.diagonal()
    on_diagonal = (diagonal - 1).square().sum()
    off_diagonal = correlation.square().sum() - diagonal.square().sum()
    return on_diagonal + redundancy_weight * off_diagonal


@in_full_precision
def mixed_barlow_twins(
    z0: Tensor,
    z1: Tensor,
    z_mixed: Tensor,
    permutation: Tensor,
    *,
    alpha: float,
    redundancy_weight: float = 1 / 128,
    scale: float = 4.0,
    second_target: Literal["cross", "auto"] = "cross",
) -> Tensor:
    """Regularisation of Barlow Twins by inputs mixed between samples.

    Bandara et al. 2023 (Guarding Barlow Twins Against Overfitting with Mixed Samples), Eq. 3 to
    5. The mixed input is `alpha * x0 + (1 - alpha) * x1[permutation]`; its correlations with
    either view should be the same mix of correlations. Add this to `barlow_twins(...,
    unbiased=True)`. The targets carry gradient.

    Args:
        z0: `(batch, dim)` projections of the first view, L2-normalised in the small-image recipe.
        z1: `(batch, dim)` projections of the second view.
        z_mixed: `(batch, dim)` projections of the mixed input.
        permutation: `(batch,)` int64, row i was mixed with row `permutation[i]` of the second
            view, within this process.
        alpha: share of the first view, drawn from Beta(1, 1) once a batch.
        redundancy_weight: the lambda of Barlow Twins.
        scale: strength of the regularisation.
        second_target: correlate the first share with `z0` ("cross", the paper) or with `z1`
            ("auto", the authors' ImageNet script, needed to repeat its numbers).

    Returns:
        Scalar `scale * redundancy_weight * (|C_m0 - G_0|^2 + |C_m1 - G_1|^2)`.

    Raises:
        ValueError: if the shapes differ or the global batch holds one sample.
    """
    check_features(z0=z0, z1=z1, z_mixed=z_mixed)
    check_fraction(alpha=alpha)
    total = _global_batch(z0, "Mixed Barlow Twins")
    first = _standardise(z0, total, unbiased=True)
    second = _standardise(z1, total, unbiased=True)
    mixed = _standardise(z_mixed, total, unbiased=True)
    partner = second[permutation]

    source = first if second_target == "cross" else second
    mix0 = mixed - alpha * first - (1 - alpha) * partner
    mix1 = mixed - alpha * source - (1 - alpha) * partner
    # Both sides of each difference correlate with the same view: |(m - a z - (1-a) z')^T v|^2.
    error0 = all_reduce_sum(mix0.T @ first) / total
    error1 = all_reduce_sum(mix1.T @ second) / total
    return scale * redundancy_weight * (error0.square().sum() + error1.square().sum())


@in_full_precision
def vicreg(
    z0: Tensor,
    z1: Tensor,
    *,
    invariance_weight: float = 25.0,
    variance_weight: float = 25.0,
    covariance_weight: float = 1.0,
) -> Tensor:
    """Variance-invariance-covariance regularisation of two views.

    Bardes et al. 2022, Eq. 6, with the variance term halved as in the official code (half the
    sum over the views).

    Args:
        z0: `(batch, dim)` projections of the first view, unscaled.
        z1: `(batch, dim)` projections of the second view.
        invariance_weight: of the mean squared difference.
        variance_weight: of the hinge on the deviations.
        covariance_weight: of the squared covariances.

    Returns:
        Scalar. A collapsed encoder scores `0.99 * variance_weight`.

    Raises:
        ValueError: if the shapes differ or the global batch holds one sample.
    """
    check_features(z0=z0, z1=z1)
    invariance = mean_share((z0 - z1).square())
    variance = (variance_hinge(z0) + variance_hinge(z1)) / 2
    covariance = covariance_penalty(z0) + covariance_penalty(z1)
    return invariance_weight * invariance + variance_weight * variance + covariance_weight * covariance


@in_full_precision
def variance_hinge(z: Tensor) -> Tensor:
    """Mean over dimensions of `relu(1 - sqrt(variance + 1e-4))`, unbiased variance.

    Bardes et al. 2022, Eq. 1.

    Args:
        z: `(batch, dim)`.

    Returns:
        Scalar; 0.99 for constant features.

    Raises:
        ValueError: if the global batch holds one sample.
    """
    total = _global_batch(z, "a variance")
    variance = all_reduce_sum(_centre(z, total).square().sum(dim=0)) / (total - 1)
    return F.relu(1 - (variance + VARIANCE_EPS).sqrt()).mean()


@in_full_precision
def covariance_penalty(z: Tensor) -> Tensor:
    """Sum of squared covariances between dimensions, divided by their number.

    Bardes et al. 2022, Eq. 4.

    Args:
        z: `(batch, dim)`.

    Returns:
        Scalar; 0 for constant features.

    Raises:
        ValueError: if the global batch holds one sample.
    """
    total = _global_batch(z, "a covariance")
    centred = _centre(z, total)
    covariance = all_reduce_sum(centred.T @ centred) / (total - 1)
    off_diagonal = covariance.square().sum() - covariance.diagonal().square().sum()
    return off_diagonal / z.shape[1]


def _global_batch(z: Tensor, purpose: str) -> int:
    check_features(z=z)
    total = global_row_index(z.shape[0], z.device)[1]
    check_batch(total, purpose)
    return total


def _centre(z: Tensor, total: int) -> Tensor:
    return z - all_reduce_sum(z.sum(dim=0)) / total


def _standardise(z: Tensor, total: int, *, unbiased: bool) -> Tensor:
    centred = _centre(z, total)
    squares = all_reduce_sum(centred.square().sum(dim=0))
    if unbiased:
        return centred / torch.sqrt(squares / (total - 1) + UNBIASED_EPS)
    return centred / torch.sqrt(squares / total + BATCH_NORM_EPS)
