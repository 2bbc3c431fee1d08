"""Several objectives on one encoder: weighted sums and multiple-gradient descent."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from scipy.optimize import nnls
from torch import Tensor

from hub.ssl.distributed import all_reduce_sum, world_size


class WeightedLoss(NamedTuple):
    """A sum of losses and its parts.

    Attributes:
        total: scalar to run backward from.
        terms: each *unweighted* loss by name, detached, for the log.
    """

    total: Tensor
    terms: dict[str, Tensor]


def weighted_sum(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> WeightedLoss:
    """Weighted sum of named losses.

    Args:
        losses: scalars by name.
        weights: one weight for each name; a loss of weight 0 is logged but not trained on.

    Returns:
        The total and the terms.

    Raises:
        ValueError: if the names differ or there is none.
    """
    if not losses or losses.keys() != weights.keys():
        raise ValueError(f"losses and weights must have the same names, got {sorted(losses)} and {sorted(weights)}")
    kept = [weights[name] * loss for name, loss in losses.items() if weights[name] != 0]
    if not kept:
        raise ValueError("all weights are 0: nothing would be trained")
    return WeightedLoss(torch.stack(kept).sum(), {name: loss.detach() for name, loss in losses.items()})


def multiple_gradient_weights(
    losses: Mapping[str, Tensor], parameters: Iterable[Tensor], *, normalise: bool = True
) -> dict[str, float]:
    """Weights with which the losses' gradients on shared parameters oppose each other least.

    Ju et al. 2023 (ParetoGNN), Eq. 6, after Desideri 2012: the weights minimise the norm of the
    weighted sum of gradients, whose negative descends on every loss at once or is zero. One
    backward pass a loss; the graphs are kept for the weighted backward pass that follows.

    Args:
        losses: scalars by name, with graphs.
        parameters: the shared parameters (the encoder's, not the heads').
        normalise: scale every gradient to unit length first, so that a task with large
            gradients doesn't get the smallest weight for it.

    Returns:
        Weights by name, not negative, sum 1; equal on all processes.

    Raises:
        ValueError: if there is no loss or no shared parameter that requires gradient.
    """
    shared = [parameter for parameter in parameters if parameter.requires_grad]
    if not losses or not shared:
        raise ValueError("need at least one loss and one shared parameter that requires grad")
    rows = []
    for loss in losses.values():
        # A loss need not reach every shared parameter (an unused layer counts as zero).
        gradients = torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True)
        rows.append(
            torch.cat(
                [
                    torch.zeros_like(parameter).flatten() if grad is None else grad.flatten()
                    for parameter, grad in zip(shared, gradients, strict=True)
                ]
            ).float()
        )
    stacked = all_reduce_sum(torch.stack(rows)) / world_size()
    if normalise:
        stacked = F.normalize(stacked, dim=1)
    weights = min_norm_weights(stacked)
    return dict(zip(losses, weights.tolist(), strict=True))


@torch.no_grad()
def min_norm_weights(gradients: Tensor) -> Tensor:
    """The point of smallest norm in the convex hull of vectors.

    Sener and Koltun 2018, Eq. 3, solved exactly instead of by their Frank-Wolfe iteration, which
    slows down near the solution: `min |G u|^2 + (1 - sum u)^2` over `u >= 0` has the same
    direction, whatever the length of the minimum, and is a non-negative least squares problem as
    small as the number of tasks.

    Args:
        gradients: `(tasks, parameters)`.

    Returns:
        `(tasks,)` float64 weights on the CPU, not negative, sum 1.

    Raises:
        ValueError: if the gradients are no matrix, or not finite.
    """
    if gradients.dim() != 2 or len(gradients) == 0:
        raise ValueError(f"gradients must be (tasks, parameters), got {tuple(gradients.shape)}")
    wide = gradients.double()
    gram = (wide @ wide.T).cpu()
    if not bool(gram.isfinite().all()):
        raise ValueError("gradients must be finite")
    # Gradients of any size: only their proportions matter, but the two squares must compare.
    scale = gram.diagonal().mean().clamp(min=torch.finfo(gram.dtype).tiny)
    eigenvalues, vectors = torch.linalg.eigh(gram / scale)
    root = eigenvalues.clamp(min=0).sqrt()[:, None] * vectors.T
    system = torch.cat([root, torch.ones(1, len(gram), dtype=gram.dtype)])
    goal = torch.zeros(len(system), dtype=gram.dtype)
    goal[-1] = 1.0
    weights = torch.from_numpy(nnls(system.numpy(), goal.numpy())[0])
    return weights / weights.sum()
