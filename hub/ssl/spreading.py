"""Regularisers that spread features over the space: KoLeo and SIGReg (LeJEPA)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from hub.ssl._checks import check_batch, check_features, check_fraction, check_positive
from hub.ssl.distributed import (
    all_reduce_sum,
    from_first_process,
    gather_rows,
    global_row_index,
    mean_share,
    own_columns,
)
from hub.ssl.precision import in_full_precision

KOLEO_EPS = 1e-8


@in_full_precision
def koleo(features: Tensor) -> Tensor:
    """Mean negative log distance of each unit vector to its nearest neighbour in the batch.

    Sablayrolles et al. 2019, section 4.1 (Kozachenko-Leonenko entropy estimate); used at weight
    0.1 beside DINO-style losses.

    Args:
        features: `(batch, dim)`; any scale.

    Returns:
        Scalar, may be negative; two equal rows cost about 18 each.

    Raises:
        ValueError: if the global batch holds one sample.
    """
    check_features(features=features)
    unit = F.normalize(features, dim=1)
    everyone, offset = gather_rows(unit)
    check_batch(len(everyone), "KoLeo")
    own = own_columns(len(unit), len(everyone), offset, unit.device)
    nearest = (unit @ everyone.T).masked_fill(own, float("-inf")).argmax(dim=1)
    distance = F.pairwise_distance(unit, everyone[nearest], eps=KOLEO_EPS)
    return mean_share(-torch.log(distance + KOLEO_EPS))


@in_full_precision
def sigreg(
    features: Tensor,
    *,
    generator: torch.Generator,
    projections: int = 1024,
    knots: int = 17,
    limit: float = 3.0,
) -> Tensor:
    """Distance of random one-dimensional projections from the standard normal distribution.

    Balestriero and LeCun 2025 (LeJEPA), sketched isotropic Gaussian regularisation: the
    Epps-Pulley statistic `N * integral |phi(t) - exp(-t^2/2)|^2 exp(-t^2/2) dt` of the empirical
    characteristic function, by the trapezoidal rule on `[0, limit]` and doubled for the negative
    half, mean over projections.

    Args:
        features: `(batch, dim)`, unscaled.
        generator: source of the projections, on the device of `features`. Processes use the
            draw of process 0.
        projections: number of random unit vectors.
        knots: points of the integration grid.
        limit: end of the integration grid.

    Returns:
        Scalar. It grows with the batch for a fixed distance from normality.

    Raises:
        ValueError: if the features are no matrix or the grid has fewer than two points.
    """
    check_features(features=features)
    check_positive(projections=projections, limit=limit)
    if knots < 2:
        raise ValueError(f"knots must be at least 2, got {knots}")
    dim, device, dtype = features.shape[1], features.device, features.dtype
    total = global_row_index(len(features), device)[1]
    directions = torch.randn(dim, projections, generator=generator, device=device, dtype=dtype)
    directions = F.normalize(from_first_process(directions), dim=0)

    t = torch.linspace(0, limit, knots, device=device, dtype=dtype)
    normal = torch.exp(-t.square() / 2)
    weight = 2 * normal * limit / (knots - 1)
    weight[[0, -1]] /= 2

    angles = (features @ directions)[..., None] * t  # (batch, projections, knots)
    real = all_reduce_sum(angles.cos().sum(dim=0)) / total
    imaginary = all_reduce_sum(angles.sin().sum(dim=0)) / total
    error = (real - normal).square() + imaginary.square()
    return total * (error @ weight).mean()


@in_full_precision
def lejepa(
    views: Tensor,
    *,
    global_views: int,
    generator: torch.Generator,
    regularisation: float = 0.05,
    projections: int = 1024,
) -> Tensor:
    """LeJEPA: every view predicts the mean of the global views, with SIGReg against collapse.

    Balestriero and LeCun 2025. No teacher, no stop-gradient, one weight.

    Args:
        views: `(views, batch, dim)` embeddings, the global views first.
        global_views: number of global views.
        generator: source of the projections, on the device of `views`.
        regularisation: weight of SIGReg; the prediction term has the rest.
        projections: random unit vectors for each view.

    Returns:
        Scalar.

    Raises:
        ValueError: if the shape or the number of global views does not fit.
    """
    if views.dim() != 3 or not 1 <= global_views <= len(views):
        raise ValueError(
            f"views must have shape (views, batch, dim) with 1 <= global_views <= views, "
            f"got {tuple(views.shape)} and global_views {global_views}"
        )
    check_fraction(regularisation=regularisation)
    centre = views[:global_views].mean(dim=0)
    prediction = mean_share((views - centre).square())
    spread = torch.stack([sigreg(view, generator=generator, projections=projections) for view in views]).mean()
    return regularisation * spread + (1 - regularisation) * prediction
