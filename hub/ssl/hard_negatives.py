"""Hard-negative mixing: synthetic negatives between the hardest stored ones (MoCHi)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from hub.ssl._checks import check_positive
from hub.ssl.precision import in_full_precision


@torch.no_grad()
@in_full_precision
def mix_hard_negatives(
    query: Tensor,
    queue: Tensor,
    *,
    hardest: int,
    pair_mixes: int,
    query_mixes: int,
    generator: torch.Generator,
) -> Tensor:
    """Mix, for each query, its hardest negatives with each other and with the query itself.

    Kalantidis et al. 2020 (MoCHi), Eq. 4 and 5: `a n_i + (1 - a) n_j` with `a ~ U(0, 1)`, and
    `b q + (1 - b) n_j` with `b ~ U(0, 0.5)` so that the negative always dominates; all scaled to
    unit length. Pass the result to `queue_contrastive(hard_negatives=...)`. The paper switches
    this on after 10 to 15 epochs of plain MoCo.

    Args:
        query: `(batch, dim)`; any scale.
        queue: `(size, dim)` unit rows.
        hardest: number of most similar rows to mix from.
        pair_mixes: mixes of two negatives for each query.
        query_mixes: mixes of a negative and the query.
        generator: source of the pairs and weights, on the device of `query`.

    Returns:
        `(batch, pair_mixes + query_mixes, dim)` unit vectors without gradient.

    Raises:
        ValueError: if the queue is shorter than `hardest`.
    """
    check_positive(hardest=hardest)
    if hardest > len(queue):
        raise ValueError(f"hardest must be at most the number of queue rows, {len(queue)}, got {hardest}")
    unit = F.normalize(query, dim=1)
    hard = queue[(unit @ queue.T).topk(hardest, dim=1).indices]
    batch = len(unit)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        place = torch.randint(hardest, (batch, count), generator=generator, device=unit.device)
        weight = torch.rand(batch, count, 1, generator=generator, device=unit.device, dtype=unit.dtype)
        return hard.gather(1, place[..., None].expand(-1, -1, hard.shape[2])), weight

    first, weight = draw(pair_mixes)
    second, _ = draw(pair_mixes)
    pairs = weight * first + (1 - weight) * second
    negative, weight = draw(query_mixes)
    with_query = 0.5 * weight * unit[:, None] + (1 - 0.5 * weight) * negative
    return F.normalize(torch.cat([pairs, with_query], dim=1), dim=2)
