"""Vector quantisation: a codebook with its updates, and residual lookup."""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hub.ssl._checks import check_fraction, check_positive
from hub.ssl.distributed import all_reduce_sum, from_first_process, gather_rows, mean_share
from hub.ssl.precision import in_full_precision


class Quantized(NamedTuple):
    """Vectors replaced by their nearest codes.

    Attributes:
        values: codes in the input's shape, with the straight-through gradient.
        indices: int64 code of each vector, the input's shape without its last axis.
        codebook_loss: mean squared error that moves codes to (fixed) inputs; 0 if they move by
            EMA.
        commitment_loss: mean squared error that moves inputs to (fixed) codes.
        perplexity: exponential of the entropy of code use in the global batch, 1 to codes.
        usage: share of the codes used in the global batch.
    """

    values: Tensor
    indices: Tensor
    codebook_loss: Tensor
    commitment_loss: Tensor
    perplexity: Tensor
    usage: Tensor


class Codebook(nn.Module):
    """Codes learned by gradient or by exponential moving average of the vectors they win.

    van den Oord et al. 2017 (VQ-VAE), Eq. 1 to 3 and appendix A.1. Train with
    `reconstruction + codebook_loss + beta * commitment_loss`, beta 0.25. State changes in
    training mode only, and is the same on all processes.

    Attributes:
        weight: `(codes, dim)`, a parameter if learned by gradient, else a buffer.
        cluster_size: `(codes,)` moving average of the vectors that each code wins a step.
        embed_avg: `(codes, dim)` moving average of their sums, EMA only.
    """

    weight: Tensor
    cluster_size: Tensor
    embed_avg: Tensor

    def __init__(
        self,
        codes: int,
        dim: int,
        *,
        generator: torch.Generator,
        update: Literal["gradient", "ema"] = "gradient",
        decay: float = 0.99,
        eps: float = 1e-5,
        unit_norm: bool = False,
    ) -> None:
        """Draw the codes from a normal distribution.

        Args:
            codes: their number (K).
            dim: width of a code.
            generator: source of the first codes; the same seed on every process.
            update: how codes are learned.
            decay: share of the old averages kept at each step.
            eps: Laplace smoothing of the cluster sizes.
            unit_norm: put inputs and codes on the unit sphere.

        Raises:
            ValueError: if a number is out of range or the update is unknown.
        """
        super().__init__()
        check_positive(codes=codes, dim=dim, eps=eps)
        check_fraction(decay=decay)
        if update not in ("gradient", "ema"):
            raise ValueError(f"update must be 'gradient' or 'ema', got {update!r}")
        self.update, self.decay, self.eps, self.unit_norm = update, decay, eps, unit_norm
        start = torch.randn(codes, dim, generator=generator, device=generator.device)
        start = F.normalize(start, dim=1) if unit_norm else start
        if update == "gradient":
            self.weight = nn.Parameter(start)
        else:
            self.register_buffer("weight", start)
            self.register_buffer("embed_avg", start.clone())
        self.register_buffer("cluster_size", torch.ones(codes))

    @in_full_precision
    def forward(self, x: Tensor, valid: Tensor | None = None) -> Quantized:
        """Quantise vectors; in training mode also one step of the averages.

        Args:
            x: `(..., dim)`.
            valid: `(...)` bool, false where a vector is padding: it gets a code, but enters
                neither losses nor averages.

        Returns:
            The codes with losses and usage.

        Raises:
            ValueError: if the width is not the codebook's, or no vector is valid anywhere.
        """
        dim = self.weight.shape[1]
        if x.shape[-1] != dim:
            raise ValueError(f"x must have shape (..., {dim}), got {tuple(x.shape)}")
        x = F.normalize(x, dim=-1) if self.unit_norm else x
        codes = self.weight.to(x.dtype)
        codes = F.normalize(codes, dim=1) if self.unit_norm else codes
        flat = x.reshape(-1, dim)
        indices = nearest_code(flat, codes)
        chosen = codes[indices].reshape(x.shape)
        counted = torch.ones_like(indices) if valid is None else valid.reshape(-1).to(indices)

        commitment = mean_share((x - chosen.detach()).square(), _per_vector(counted, x))
        codebook = torch.zeros_like(commitment)
        if self.update == "gradient":
            codebook = mean_share((x.detach() - chosen).square(), _per_vector(counted, x))
        counts = self._observe(flat.detach(), indices, counted)
        share = counts / counts.sum()
        return Quantized(
            values=x + (chosen - x).detach(),
            indices=indices.reshape(x.shape[:-1]),
            codebook_loss=codebook,
            commitment_loss=commitment,
            perplexity=torch.exp(-torch.xlogy(share, share).sum()),
            usage=(counts > 0).to(share.dtype).mean(),
        )

    @torch.no_grad()
    def _observe(self, flat: Tensor, indices: Tensor, counted: Tensor) -> Tensor:
        """Count code use over all processes; in training mode follow it."""
        weight = counted.to(flat.dtype)
        counts = flat.new_zeros(len(self.cluster_size)).index_add_(0, indices, weight)
        counts = all_reduce_sum(counts)
        if not self.training:
            return counts
        self.cluster_size.lerp_(counts.to(self.cluster_size.dtype), 1 - self.decay)
        if self.update == "ema":
            sums = torch.zeros_like(self.weight, dtype=flat.dtype)
            sums = all_reduce_sum(sums.index_add_(0, indices, flat * weight[:, None]))
            self.embed_avg.lerp_(sums.to(self.embed_avg.dtype), 1 - self.decay)
            total = self.cluster_size.sum()
            smoothed = (self.cluster_size + self.eps) / (total + len(counts) * self.eps) * total
            moved = self.embed_avg / smoothed[:, None]
            self.weight.copy_(F.normalize(moved, dim=1) if self.unit_norm else moved)
        return counts

    @torch.no_grad()
    @in_full_precision
    def revive_dead_codes(self, x: Tensor, *, threshold: float, generator: torch.Generator) -> int:
        """Replace codes that win too few vectors by random vectors of the batch.

        Call it after the optimiser step, now and then; with `threshold=inf` on the first batch
        it starts the codebook from data. A revived code counts as winning one vector a step, so
        it has time to prove itself.

        Args:
            x: `(..., dim)` inputs to draw from, on every process.
            threshold: least `cluster_size` of a living code.
            generator: source of the draw, on the device of `x`; that of process 0 counts.

        Returns:
            Number of revived codes.
        """
        dead = (self.cluster_size < threshold).nonzero()[:, 0]
        rows = gather_rows(x.detach().reshape(-1, x.shape[-1])).values
        order = torch.randperm(len(rows), generator=generator, device=rows.device)
        order = from_first_process(order)
        if len(dead) == 0:
            return 0
        born = rows[order[torch.arange(len(dead), device=rows.device) % len(rows)]]
        born = (F.normalize(born, dim=1) if self.unit_norm else born).to(self.weight.dtype)
        self.weight[dead] = born
        self.cluster_size[dead] = 1.0
        if self.update == "ema":
            self.embed_avg[dead] = born
        return len(dead)


@torch.no_grad()
@in_full_precision
def nearest_code(x: Tensor, codes: Tensor) -> Tensor:
    """Index of the nearest code in Euclidean distance.

    Args:
        x: `(..., dim)`.
        codes: `(codes, dim)`.

    Returns:
        `(...)` int64.
    """
    # |x - c|^2 without the part that all codes share.
    return (codes.square().sum(dim=1) - 2 * x @ codes.T).argmin(dim=-1)


@torch.no_grad()
@in_full_precision
def residual_encode(x: Tensor, codebooks: Tensor) -> Tensor:
    """Residual vector quantisation: each codebook codes what the ones before it left over.

    Zeghidour et al. 2021 (SoundStream), Algorithm 1; the lookup of EnCodec.

    Args:
        x: `(..., dim)`.
        codebooks: `(stages, codes, dim)`.

    Returns:
        `(..., stages)` int64 codes.

    Raises:
        ValueError: if the widths differ.
    """
    _check_codebooks(codebooks)
    if x.shape[-1] != codebooks.shape[2]:
        raise ValueError(f"x must have shape (..., {codebooks.shape[2]}), got {tuple(x.shape)}")
    residual, indices = x, []
    for codes in codebooks:
        index = nearest_code(residual, codes)
        residual = residual - codes[index]
        indices.append(index)
    return torch.stack(indices, dim=-1)


def residual_decode(indices: Tensor, codebooks: Tensor) -> Tensor:
    """Sum of the codes of all stages; fewer stages than codebooks give a coarser vector.

    Args:
        indices: `(..., stages)` int64.
        codebooks: `(at least stages, codes, dim)`.

    Returns:
        `(..., dim)`.

    Raises:
        ValueError: if there are more stages than codebooks.
    """
    _check_codebooks(codebooks)
    if indices.shape[-1] > len(codebooks):
        raise ValueError(f"{indices.shape[-1]} stages of codes for {len(codebooks)} codebooks")
    stages = zip(codebooks, indices.unbind(dim=-1), strict=False)
    return torch.stack([codes[index] for codes, index in stages]).sum(dim=0)


def _check_codebooks(codebooks: Tensor) -> None:
    if codebooks.dim() != 3:
        raise ValueError(f"codebooks must have shape (stages, codes, dim), got {tuple(codebooks.shape)}")


def _per_vector(counted: Tensor, x: Tensor) -> Tensor:
    return counted.reshape(x.shape[:-1])[..., None]
