"""Contrastive learning with one learned temperature for each training sample (iSogCLR)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hub.ssl._checks import check_batch, check_features, check_fraction, check_positive
from hub.ssl.distributed import gather_rows, global_row_index, mean_share
from hub.ssl.precision import in_full_precision

# The step of the temperatures is bounded, as in the authors' code: the logarithm of a young
# estimate is too noisy to follow.
GRADIENT_BOUND = 3.0


class IndividualTemperatures(nn.Module):
    """Robust contrastive loss that learns a temperature for every training sample.

    Qiu et al. 2023 (iSogCLR), Algorithm 1. Samples with many semantic neighbours earn a high
    temperature, rare ones a low one. The state is indexed by the sample's number in the data
    set, which must stay the same from epoch to epoch; it changes in training mode only.

    The value is negative and not comparable between runs.

    Attributes:
        s: `(num_samples,)` moving estimate of each sample's mean exponentiated similarity.
        temperature: `(num_samples,)`.
        u: `(num_samples,)` momentum of the temperature's gradient.
        temperature_lr: step of the temperatures; may be annealed between steps.
    """

    s: Tensor
    temperature: Tensor
    u: Tensor

    def __init__(
        self,
        num_samples: int,
        *,
        gamma: float = 0.8,
        rho: float = 6.0,
        momentum: float = 0.9,
        temperature_lr: float = 1e-3,
        initial_temperature: float = 0.1,
        temperature_range: tuple[float, float] = (0.05, 1.0),
    ) -> None:
        """Set every sample to the initial temperature.

        Args:
            num_samples: size of the training set.
            gamma: weight of the present batch in `s`.
            rho: radius of the divergence constraint; larger values push the temperatures down.
            momentum: weight of the present gradient in `u`.
            temperature_lr: step of the temperatures.
            initial_temperature: of every sample.
            temperature_range: smallest and largest temperature.

        Raises:
            ValueError: if a number is out of its range.
        """
        super().__init__()
        low, high = temperature_range
        check_positive(num_samples=num_samples, temperature_lr=temperature_lr, lowest=low)
        check_fraction(gamma=gamma, momentum=momentum)
        if not low <= initial_temperature <= high:
            raise ValueError(
                f"initial_temperature must lie in temperature_range {temperature_range}, got {initial_temperature}"
            )
        self.gamma, self.rho, self.momentum = gamma, rho, momentum
        self.temperature_lr, self.temperature_range = temperature_lr, temperature_range
        self.register_buffer("s", torch.zeros(num_samples))
        self.register_buffer("temperature", torch.full((num_samples,), initial_temperature))
        self.register_buffer("u", torch.zeros(num_samples))

    @in_full_precision
    def forward(self, z0: Tensor, z1: Tensor, index: Tensor, *, epoch: int) -> Tensor:
        """Loss of a batch; in training mode also one step of its samples' temperatures.

        Args:
            z0: `(batch, dim)` projections of the first view; any scale.
            z1: `(batch, dim)` projections of the second view.
            index: `(batch,)` int64 number of each sample in the data set, none twice.
            epoch: in epoch 0 the estimate `s` is the batch's own instead of a moving mean.

        Returns:
            Scalar, the sum over the two views, mean over the batch.

        Raises:
            ValueError: if the shapes do not fit, an index is out of range, or the global batch
                holds one sample.
        """
        check_features(z0=z0, z1=z1)
        if index.shape != z0.shape[:1]:
            raise ValueError(f"index must have shape ({len(z0)},), got {tuple(index.shape)}")
        if bool((index < 0).any()) or bool((index >= len(self.s)).any()):
            raise ValueError(f"index must be between 0 and {len(self.s) - 1}, got {index.tolist()}")
        place, total = global_row_index(len(z0), z0.device)
        check_batch(total, "iSogCLR")

        views = torch.stack([F.normalize(z0, dim=1), F.normalize(z1, dim=1)])
        candidates = torch.cat([gather_rows(view).values for view in views])
        similarity = views @ candidates.T  # (2, batch, 2 * total)
        same_sample = place[:, None] == torch.arange(total, device=place.device).repeat(2)
        positive = (views[0] * views[1]).sum(dim=1)
        negatives = 2 * total - 2

        with torch.no_grad():
            temperature = self.temperature[index][:, None]
            scaled = similarity / temperature
            weights = scaled.exp().masked_fill(same_sample, 0.0)
            estimate = weights.sum(dim=2) / negatives  # (2, batch)
            if epoch > 0:
                estimate = (1 - self.gamma) * self.s[index] + self.gamma * estimate
            weights = weights / estimate[..., None]
            if self.training:
                tilted = (weights * scaled).sum(dim=2) / negatives
                gradient = (estimate.log() + self.rho - tilted).mean(dim=0)
                self._step(index, estimate.mean(dim=0), gradient)
        per_view = (weights * similarity).sum(dim=2) / negatives - positive
        return mean_share(per_view.sum(dim=0))

    def _step(self, index: Tensor, estimate: Tensor, gradient: Tensor) -> None:
        """Write the samples of all processes, so that every process holds the same state."""
        gradient = gradient.clamp(-GRADIENT_BOUND, GRADIENT_BOUND)
        u = (1 - self.momentum) * self.u[index] + self.momentum * gradient
        temperature = self.temperature[index] - self.temperature_lr * u
        everywhere = gather_rows(index).values
        state = gather_rows(torch.stack([estimate, u, temperature], dim=1)).values.to(self.s.dtype)
        self.s[everywhere], self.u[everywhere] = state[:, 0], state[:, 1]
        self.temperature[everywhere] = state[:, 2].clamp(*self.temperature_range)
