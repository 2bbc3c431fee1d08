"""DirectPred: a linear predictor set from the spectrum of its input, without gradient."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hub.ssl._checks import check_fraction, check_positive
from hub.ssl.distributed import all_reduce_sum, global_row_index
from hub.ssl.precision import in_full_precision

# Beyond this width single precision loses the small eigenvalues.
WIDEST_SINGLE_PRECISION = 512


class DirectPredictor(nn.Module):
    """Linear predictor `x -> W x` whose weight follows the correlation of its inputs.

    Tian et al. 2021 (DirectPred), section 4: with `F = U diag(s) U^T` the moving average of
    `f f^T`, the predictor is `W = U diag(p) U^T`, `p = max(sqrt(s / max s) + eps, floor)`. It
    takes the place of BYOL's predictor; nothing in it is trained.

    Attributes:
        correlation: `(dim, dim)` moving average F.
        weight: `(dim, dim)`, the identity until the first update.
        updates: number of updates so far.
    """

    correlation: Tensor
    weight: Tensor
    updates: Tensor

    def __init__(self, dim: int, *, rho: float = 0.3, eps: float = 0.01, floor: float = 1e-4) -> None:
        """Start as the identity.

        Args:
            dim: width of the input.
            rho: share of the old average kept at each update.
            eps: added to every `p`; may be negative.
            floor: smallest `p`.

        Raises:
            ValueError: if a number is out of its range.
        """
        super().__init__()
        check_positive(dim=dim, floor=floor)
        check_fraction(rho=rho)
        self.rho, self.eps, self.floor = rho, eps, floor
        self.register_buffer("correlation", torch.zeros(dim, dim))
        self.register_buffer("weight", torch.eye(dim))
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    @in_full_precision
    def forward(self, x: Tensor) -> Tensor:
        """Predict.

        Args:
            x: `(batch, dim)`.

        Returns:
            `(batch, dim)`.
        """
        return F.linear(x, self.weight.to(x.dtype))

    @torch.no_grad()
    @in_full_precision
    def update(self, features: Tensor) -> None:
        """Follow a batch of predictor inputs; call once after each optimiser step.

        Args:
            features: `(batch, dim)` inputs of the predictor, of both views stacked.

        Raises:
            ValueError: if the width is not the predictor's.
        """
        dim = len(self.weight)
        if features.dim() != 2 or features.shape[1] != dim:
            raise ValueError(f"features must have shape (batch, {dim}), got {tuple(features.shape)}")
        total = global_row_index(len(features), features.device)[1]
        batch = all_reduce_sum(features.T @ features) / total
        rho = self.rho if self.updates > 0 else 0.0
        self.correlation.copy_(rho * self.correlation + (1 - rho) * batch)
        self.updates += 1

        wide = dim > WIDEST_SINGLE_PRECISION
        exact = self.correlation.double() if wide else self.correlation
        eigenvalues, vectors = torch.linalg.eigh(exact)
        eigenvalues = eigenvalues.clamp(min=0)
        largest = eigenvalues.max().clamp(min=torch.finfo(eigenvalues.dtype).tiny)
        spectrum = ((eigenvalues / largest).sqrt() + self.eps).clamp(min=self.floor)
        self.weight.copy_((vectors * spectrum) @ vectors.T)
