"""Online clustering: SwAV with Sinkhorn codes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hub.ssl._checks import check_positive
from hub.ssl.distributed import all_reduce_max, all_reduce_sum, mean_share
from hub.ssl.precision import in_full_precision


class Prototypes(nn.Module):
    """Unit prototypes; the output is the cosine of each feature to each of them.

    Call `normalise()` before every step: the optimiser moves the rows off the sphere.

    Attributes:
        weight: `(prototypes, dim)`.
    """

    def __init__(self, dim: int, prototypes: int, *, generator: torch.Generator) -> None:
        """Draw unit prototypes.

        Args:
            dim: width of the features.
            prototypes: their number.
            generator: source of the initial rows.

        Raises:
            ValueError: if a number is not positive.
        """
        super().__init__()
        check_positive(dim=dim, prototypes=prototypes)
        noise = torch.randn(prototypes, dim, generator=generator, device=generator.device)
        self.weight = nn.Parameter(F.normalize(noise, dim=1))

    @torch.no_grad()
    def normalise(self) -> None:
        """Put every prototype back on the unit sphere."""
        self.weight.copy_(F.normalize(self.weight, dim=1))

    @in_full_precision
    def forward(self, features: Tensor) -> Tensor:
        """Score features against prototypes.

        Args:
            features: `(batch, dim)`; any scale.

        Returns:
            `(batch, prototypes)` scores in [-1, 1].
        """
        return F.linear(F.normalize(features, dim=1), self.weight.to(features.dtype))


@torch.no_grad()
@in_full_precision
def sinkhorn(scores: Tensor, *, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    """Soft assignment of the global batch to prototypes, all prototypes used about equally.

    Caron et al. 2020 (SwAV), Eq. 3 and section 3.1. The sample marginals are exact, as that step
    comes last; the prototype marginals are approached.

    Args:
        scores: `(batch, prototypes)` of this process.
        epsilon: entropy weight; smaller is closer to hard assignment.
        iterations: rounds of scaling rows and columns.

    Returns:
        `(batch, prototypes)` codes of this process's samples, rows sum to 1, without gradient.

    Raises:
        ValueError: if the scores are no matrix or a parameter is not positive.
    """
    if scores.dim() != 2:
        raise ValueError(f"scores must have shape (batch, prototypes), got {tuple(scores.shape)}")
    check_positive(epsilon=epsilon, iterations=iterations)
    # Any common factor cancels in the scaling; without it exp(1 / 0.05) spends the range.
    codes = torch.exp((scores - all_reduce_max(scores.max())) / epsilon)
    for _ in range(iterations):
        codes = codes / all_reduce_sum(codes.sum(dim=0)) / codes.shape[1]
        codes = codes / codes.sum(dim=1, keepdim=True)
    return codes


@in_full_precision
def swav(
    high: Tensor,
    low: Tensor,
    queue: Tensor | None = None,
    *,
    temperature: float = 0.1,
    epsilon: float = 0.05,
    iterations: int = 3,
) -> Tensor:
    """Predict the code of each high-resolution view from every other view.

    Caron et al. 2020 (SwAV), Eq. 2 and 6.

    Args:
        high: `(high_views, batch, prototypes)` scores of the views that also make codes.
        low: `(low_views, batch, prototypes)` scores of the small crops; `low_views` may be 0.
        queue: `(high_views, stored, prototypes)` scores of stored features, which only help to
            make the codes.
        temperature: of the predictions.
        epsilon: entropy weight of the codes.
        iterations: of Sinkhorn.

    Returns:
        Scalar, mean over batch, views and codes. With uniform scores it is `log(prototypes)`.

    Raises:
        ValueError: if the shapes do not fit or there is only one view.
    """
    if high.dim() != 3 or low.dim() != 3 or high.shape[1:] != low.shape[1:]:
        raise ValueError(
            "high and low must have shapes (views, batch, prototypes) with equal batch and "
            f"prototypes, got {tuple(high.shape)} and {tuple(low.shape)}"
        )
    if queue is not None and (len(queue) != len(high) or queue.shape[2] != high.shape[2]):
        raise ValueError(f"queue must have shape ({len(high)}, stored, {high.shape[2]}), got {tuple(queue.shape)}")
    check_positive(temperature=temperature)
    views = torch.cat([high, low])
    if len(high) == 0 or len(views) < 2:
        raise ValueError("SwAV needs at least 2 views, one of them of high resolution")
    log_prob = F.log_softmax(views / temperature, dim=2)
    losses = []
    for number, scores in enumerate(high.detach()):
        pool = scores if queue is None else torch.cat([scores, queue[number]])
        code = sinkhorn(pool, epsilon=epsilon, iterations=iterations)[: len(scores)]
        cross_entropy = -(code * log_prob).sum(dim=2)  # (views, batch)
        losses.append((cross_entropy.sum(dim=0) - cross_entropy[number]) / (len(views) - 1))
    return mean_share(torch.stack(losses))
