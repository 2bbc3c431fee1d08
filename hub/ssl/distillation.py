"""Self-distillation without negatives: BYOL and SimSiam."""

import torch.nn.functional as F
from torch import Tensor

from hub.ssl._checks import check_same_shape
from hub.ssl.distributed import mean_share
from hub.ssl.precision import in_full_precision


@in_full_precision
def negative_cosine(x: Tensor, y: Tensor) -> Tensor:
    """Mean negative cosine similarity of paired vectors; gradient reaches both.

    Args:
        x: `(..., dim)`; any scale.
        y: `(..., dim)`.

    Returns:
        Scalar in [-1, 1].

    Raises:
        ValueError: if the shapes differ.
    """
    check_same_shape(x=x, y=y)
    return mean_share(-F.cosine_similarity(x, y, dim=-1))


@in_full_precision
def byol(prediction0: Tensor, prediction1: Tensor, target0: Tensor, target1: Tensor) -> Tensor:
    """Squared distance of unit predictions to the other view's unit targets, both directions.

    Grill et al. 2020 (BYOL), Eq. 2: `2 - 2 cos`, summed over the directions. No gradient reaches
    the targets.

    Args:
        prediction0: `(batch, dim)` predictor output of the first view.
        prediction1: `(batch, dim)` predictor output of the second view.
        target0: `(batch, dim)` projections of the EMA teacher, first view.
        target1: `(batch, dim)` the same, second view.

    Returns:
        Scalar in [0, 8]. A collapsed encoder scores 0: the loss alone does not forbid it.

    Raises:
        ValueError: if the shapes differ.
    """
    forth = negative_cosine(prediction0, target1.detach())
    back = negative_cosine(prediction1, target0.detach())
    return (2 + 2 * forth) + (2 + 2 * back)


@in_full_precision
def simsiam(prediction0: Tensor, prediction1: Tensor, z0: Tensor, z1: Tensor) -> Tensor:
    """Negative cosine to the stop-gradient projection of the other view, mean of directions.

    Chen and He 2021 (SimSiam), Eq. 3.

    Args:
        prediction0: `(batch, dim)` predictor output of the first view.
        prediction1: `(batch, dim)` predictor output of the second view.
        z0: `(batch, dim)` projections of the first view.
        z1: `(batch, dim)` projections of the second view.

    Returns:
        Scalar in [-1, 1]. A collapsed encoder scores -1.

    Raises:
        ValueError: if the shapes differ.
    """
    forth = negative_cosine(prediction0, z1.detach())
    return (forth + negative_cosine(prediction1, z0.detach())) / 2
