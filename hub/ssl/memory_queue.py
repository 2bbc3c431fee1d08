"""A queue of past features as a store of negatives (MoCo)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hub.ssl._checks import check_features, check_positive
from hub.ssl.distributed import gather_rows, mean_share
from hub.ssl.precision import in_full_precision


class FeatureQueue(nn.Module):
    """Ring buffer of the most recent features, saved and restored with the training state.

    He et al. 2020 (MoCo), section 3.2. Read the rows *before* pushing the keys of the same step,
    or a query meets its own key as a negative. A push that runs over the end writes what fits,
    drops the rest and starts again at the first row.

    Attributes:
        bank: `(size, dim)`, unit rows of noise at first.
        pointer: `(1,)` int64, the row that the next push writes first.
    """

    bank: Tensor
    pointer: Tensor

    def __init__(self, size: int, dim: int, *, generator: torch.Generator) -> None:
        """Fill the queue with random unit vectors.

        Args:
            size: number of rows.
            dim: width of a row.
            generator: source of the initial rows; the same seed on every process.

        Raises:
            ValueError: if the size or the width is not positive.
        """
        super().__init__()
        check_positive(size=size, dim=dim)
        noise = torch.randn(size, dim, generator=generator, device=generator.device)
        self.register_buffer("bank", F.normalize(noise, dim=1))
        self.register_buffer("pointer", torch.zeros(1, dtype=torch.long))

    def rows(self) -> Tensor:
        """The stored rows, `(size, dim)`: a copy, so that a later push leaves the graph intact."""
        return self.bank.detach().clone()

    @torch.no_grad()
    def push(self, keys: Tensor) -> None:
        """Overwrite the oldest rows by the keys of all processes.

        Args:
            keys: `(batch, dim)`, already scaled as they are to be read (unit vectors for MoCo).

        Raises:
            ValueError: if the width differs from the queue's.
        """
        if keys.dim() != 2 or keys.shape[1] != self.bank.shape[1]:
            raise ValueError(f"keys must have shape (batch, {self.bank.shape[1]}), got {tuple(keys.shape)}")
        gathered = gather_rows(keys.detach()).values.to(self.bank.dtype)
        start = int(self.pointer)
        end = min(start + len(gathered), len(self.bank))
        self.bank[start:end] = gathered[: end - start]
        # A full last row and a push that ran over both go on at the start.
        self.pointer[0] = 0 if start + len(gathered) >= len(self.bank) else end


@in_full_precision
def queue_contrastive(
    query: Tensor,
    key: Tensor,
    negatives: Tensor,
    *,
    temperature: float = 0.2,
    hard_negatives: Tensor | None = None,
) -> Tensor:
    """InfoNCE of each query against its key and stored negatives.

    He et al. 2020 (MoCo), Eq. 1. Detach `key` for a momentum encoder.

    Args:
        query: `(batch, dim)`; any scale.
        key: `(batch, dim)`; row i is the positive of query i.
        negatives: `(size, dim)` unit rows, for example `FeatureQueue.rows()`.
        temperature: divides the cosine similarities.
        hard_negatives: `(batch, extra, dim)` further unit rows of each query, for example
            from `mix_hard_negatives`.

    Returns:
        Scalar. With all vectors equal it is `log(1 + size + extra)`.

    Raises:
        ValueError: if the shapes do not fit or there is no negative.
    """
    check_features(query=query, key=key)
    check_positive(temperature=temperature)
    if negatives.dim() != 2 or len(negatives) == 0 or negatives.shape[1] != query.shape[1]:
        raise ValueError(f"negatives must have shape (at least 1, {query.shape[1]}), got {tuple(negatives.shape)}")
    unit = F.normalize(query, dim=1)
    logits = [(unit * F.normalize(key, dim=1)).sum(dim=1, keepdim=True), unit @ negatives.T]
    if hard_negatives is not None:
        logits.append(torch.einsum("nd,nsd->ns", unit, hard_negatives))
    labels = torch.zeros(len(unit), dtype=torch.long, device=unit.device)
    return mean_share(F.cross_entropy(torch.cat(logits, dim=1) / temperature, labels, reduction="none"))
