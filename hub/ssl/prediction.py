"""Joint-embedding prediction: predict a teacher's latents of hidden parts (JEPA)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hub.ssl._checks import check_fraction, check_positive, check_same_shape
from hub.ssl.distributed import mean_share
from hub.ssl.precision import in_full_precision


class JEPAMask(NamedTuple):
    """What the context encoder sees and what it has to predict.

    Attributes:
        context: `(batch, seen)` int64 indexes.
        targets: `(batch, targets, hidden)` int64 indexes, none of them in the context.
    """

    context: Tensor
    targets: Tensor


def jepa_mask(
    batch: int,
    length: int,
    *,
    context_share: tuple[float, float],
    target_share: tuple[float, float],
    targets: int = 4,
    generator: torch.Generator,
) -> JEPAMask:
    """Draw disjoint context and target tokens for each row.

    Thimonier et al. 2025 (T-JEPA), section 3: the shares are drawn once for the batch, so that
    rows stay rectangular, the indexes for each row. Targets may overlap each other. Indexes
    count *features*, `0 <= i < length`: add the number of regularisation tokens before
    indexing a sequence that starts with them (`RegularisationTokens.shift`).

    Args:
        batch: number of rows.
        length: features of a row.
        context_share: smallest and largest share of features in the context.
        target_share: smallest and largest share of features in one target.
        targets: targets of each row.
        generator: source of the draws; the indexes lie on its device.

    Returns:
        The indexes.

    Raises:
        ValueError: if a share is out of range, or context and a target cannot both fit.
    """
    check_positive(batch=batch, length=length, targets=targets)
    for name, (low, high) in {"context_share": context_share, "target_share": target_share}.items():
        check_fraction(**{f"{name} low": low, f"{name} high": high})
        if low > high:
            raise ValueError(f"{name} must be (low, high) with low <= high, got {(low, high)}")
    device = generator.device

    def draw_count(share: tuple[float, float]) -> int:
        uniform = float(torch.rand((), generator=generator, device=device))
        return max(1, int(length * (share[0] + (share[1] - share[0]) * uniform)))

    seen, hidden = draw_count(context_share), draw_count(target_share)
    if seen + hidden > length:
        raise ValueError(
            f"a context of {seen} and a target of {hidden} do not both fit in {length} features; "
            "lower context_share or target_share"
        )
    order = torch.rand(batch, length, generator=generator, device=device).argsort(dim=1)
    context, rest = order[:, :seen], order[:, seen:]
    choice = torch.rand(batch, targets, length - seen, generator=generator, device=device)
    choice = choice.argsort(dim=2)[:, :, :hidden]
    chosen = rest[:, None].expand(-1, targets, -1).gather(2, choice)
    return JEPAMask(context, chosen)


class RegularisationTokens(nn.Module):
    """Learned tokens in front of a sequence, never masked and never predicted.

    Thimonier et al. 2025 (T-JEPA), section 3.3: without one, training on tables collapses.

    Attributes:
        tokens: `(count, dim)`.
    """

    def __init__(self, dim: int, count: int = 1) -> None:
        """Draw the tokens.

        Args:
            dim: width of a token.
            count: their number.

        Raises:
            ValueError: if a number is not positive.
        """
        super().__init__()
        check_positive(dim=dim, count=count)
        self.tokens = nn.Parameter(torch.empty(count, dim))
        nn.init.trunc_normal_(self.tokens, std=0.02)

    def prepend(self, features: Tensor) -> Tensor:
        """Put the tokens in front.

        Args:
            features: `(batch, length, dim)`.

        Returns:
            `(batch, count + length, dim)`.
        """
        tokens = self.tokens.to(features.dtype).expand(len(features), -1, -1)
        return torch.cat([tokens, features], dim=1)

    def remove(self, sequence: Tensor) -> Tensor:
        """Take the tokens off again.

        Args:
            sequence: `(batch, count + length, dim)`.

        Returns:
            `(batch, length, dim)`.
        """
        return sequence[:, len(self.tokens) :]

    def shift(self, index: Tensor) -> Tensor:
        """Turn feature indexes into indexes of the sequence with the tokens in front.

        Args:
            index: int64, any shape.

        Returns:
            The same shape.
        """
        return index + len(self.tokens)


@in_full_precision
def latent_prediction(prediction: Tensor, target: Tensor, *, normalise_target: bool = False) -> Tensor:
    """Mean squared error to the teacher's latents.

    Assran et al. 2023 (I-JEPA), Eq. 1.

    Args:
        prediction: `(..., dim)` of the predictor.
        target: `(..., dim)` of the EMA teacher, which saw everything; no gradient reaches it.
        normalise_target: layer-normalise the targets first, as in I-JEPA's code.

    Returns:
        Scalar.

    Raises:
        ValueError: if the shapes differ.
    """
    check_same_shape(prediction=prediction, target=target)
    target = target.detach()
    if normalise_target:
        target = F.layer_norm(target, target.shape[-1:])
    return mean_share((prediction - target).square())
