"""Random masks over tokens: MAE patches, BERT-style tokens and graph nodes.

Every draw takes an explicit generator, so that a step can be repeated; results lie on the
generator's device.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from hub.ssl._checks import check_fraction, check_positive

IGNORED = -100  # what torch's cross-entropy leaves out


class RandomMask(NamedTuple):
    """A random subset of kept tokens.

    Attributes:
        keep: `(batch, kept)` int64 indexes of the kept tokens, in random order.
        masked: `(batch, length - kept)` int64 indexes of the masked ones.
        restore: `(batch, length)` int64; `cat([kept, masked])[restore]` is the original order.
        mask: `(batch, length)` bool, true where masked.
    """

    keep: Tensor
    masked: Tensor
    restore: Tensor
    mask: Tensor


class TokenMask(NamedTuple):
    """BERT-style corrupted tokens.

    Attributes:
        ids: corrupted token ids, the shape of the input.
        labels: original ids at the chosen places, -100 elsewhere.
    """

    ids: Tensor
    labels: Tensor


class NodeMask(NamedTuple):
    """GraphMAE's masked nodes; `token` and `noise` are disjoint parts of `masked`.

    Attributes:
        masked: int64 indexes of the nodes to reconstruct.
        token: int64 indexes of those that get the mask token.
        noise: int64 indexes of those that get the features of another node.
        source: int64 indexes of these other nodes.
    """

    masked: Tensor
    token: Tensor
    noise: Tensor
    source: Tensor


def random_mask(batch: int, length: int, ratio: float, *, generator: torch.Generator, prefix: int = 0) -> RandomMask:
    """Keep a uniformly random subset of the tokens of each row.

    He et al. 2022 (MAE), section 3.

    Args:
        batch: number of rows.
        length: tokens of a row, prefix included.
        ratio: share of the tokens after the prefix that is masked; `int(n * (1 - ratio))` are
            kept.
        generator: source of the draw.
        prefix: leading tokens (class or register tokens) that are always kept, in front.

    Returns:
        The mask.

    Raises:
        ValueError: if the ratio is outside [0, 1] or leaves no token to keep.
    """
    check_positive(batch=batch, length=length)
    check_fraction(ratio=ratio)
    keep = prefix + int((length - prefix) * (1 - ratio))
    noise = torch.rand(batch, length, generator=generator, device=generator.device)
    return mask_from_noise(noise, keep, prefix=prefix)


def mask_from_noise(noise: Tensor, keep: int, *, prefix: int = 0) -> RandomMask:
    """Keep the tokens with the smallest noise; equal values in their original order.

    Args:
        noise: `(batch, length)`.
        keep: tokens to keep, prefix included.
        prefix: leading tokens that are always kept, in front.

    Returns:
        The mask.

    Raises:
        ValueError: if `keep` is not between 1 and the length, or below the prefix.
    """
    if noise.dim() != 2:
        raise ValueError(f"noise must have shape (batch, length), got {tuple(noise.shape)}")
    if not max(1, prefix) <= keep <= noise.shape[1]:
        raise ValueError(
            f"keep must be between {max(1, prefix)} and the {noise.shape[1]} tokens of a row, "
            f"got {keep}; choose a smaller mask ratio or a longer row"
        )
    if prefix:
        noise = noise.clone()
        noise[:, :prefix] = float("-inf")
    shuffle = noise.argsort(dim=1, stable=True)
    restore = shuffle.argsort(dim=1)
    return RandomMask(shuffle[:, :keep], shuffle[:, keep:], restore, restore >= keep)


def gather_tokens(tokens: Tensor, index: Tensor) -> Tensor:
    """Select tokens of each row by index.

    Args:
        tokens: `(batch, length, dim)`.
        index: `(batch, selected)` int64.

    Returns:
        `(batch, selected, dim)`.
    """
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[2]))


def token_mask(
    ids: Tensor,
    maskable: Tensor,
    *,
    probability: float,
    mask_id: int,
    random_range: tuple[int, int],
    generator: torch.Generator,
    mask_share: float = 0.8,
    random_share: float = 0.1,
) -> TokenMask:
    """Corrupt tokens for masked language modelling.

    Devlin et al. 2019 (BERT), section 3.1: every maskable token is chosen independently; of the
    chosen, 80 % become the mask token, 10 % a random token, the rest stays.

    Args:
        ids: `(...)` int64 token ids.
        maskable: bool of the same shape, false on padding and special tokens.
        probability: of a token being chosen.
        mask_id: id of the mask token.
        random_range: random tokens are drawn from `low <= id < high`.
        generator: source of the draws, on the device of `ids`.
        mask_share: share of the chosen tokens that is masked.
        random_share: share of the chosen tokens that is replaced at random.

    Returns:
        Corrupted ids and labels.

    Raises:
        ValueError: if the shapes differ, a share is out of range or the id range is empty.
    """
    if ids.shape != maskable.shape:
        raise ValueError(f"maskable must have the shape of ids {tuple(ids.shape)}, got {tuple(maskable.shape)}")
    check_fraction(
        probability=probability,
        mask_share=mask_share,
        random_share=random_share,
        **{"mask_share + random_share": mask_share + random_share},
    )
    low, high = random_range
    if low >= high:
        raise ValueError(f"random_range must be (low, high) with low < high, got {random_range}")

    def uniform() -> Tensor:
        return torch.rand(ids.shape, generator=generator, device=ids.device)

    chosen = (uniform() < probability) & maskable
    fate = uniform()
    random_ids = torch.randint(low, high, ids.shape, generator=generator, device=ids.device)
    corrupted = torch.where(chosen & (fate < mask_share), mask_id, ids)
    replaced = chosen & (fate >= mask_share) & (fate < mask_share + random_share)
    corrupted = torch.where(replaced, random_ids.to(ids.dtype), corrupted)
    return TokenMask(corrupted, torch.where(chosen, ids, IGNORED))


def node_mask(num_nodes: int, rate: float, *, generator: torch.Generator, replace_rate: float = 0.0) -> NodeMask:
    """Choose graph nodes to hide behind a token or behind another node's features.

    Hou et al. 2022 (GraphMAE), section 3.2. `int(rate * n)` nodes are masked; of these,
    `int((1 - replace_rate) * m)` get the token and `int(replace_rate * m)` the features of a
    random node of the whole graph. Both truncations together may leave one masked node its own
    features, as in the authors' code; it counts in the loss all the same.

    Args:
        num_nodes: nodes of the (batched) graph.
        rate: share of the nodes to mask.
        generator: source of the permutations.
        replace_rate: share of the masked nodes to replace instead.

    Returns:
        The node indexes.

    Raises:
        ValueError: if a rate is outside [0, 1] or no node would be masked.
    """
    check_fraction(rate=rate, replace_rate=replace_rate)
    device = generator.device
    count = int(rate * num_nodes)
    if count == 0:
        raise ValueError(f"rate {rate} masks none of the {num_nodes} nodes; raise it")
    masked = torch.randperm(num_nodes, generator=generator, device=device)[:count]
    if replace_rate == 0:
        none = masked.new_empty(0)
        return NodeMask(masked, masked, none, none)
    order = masked[torch.randperm(count, generator=generator, device=device)]
    # Counted from the front: order[-0:] would be all of them on a tiny graph.
    tokens, noises = int((1 - replace_rate) * count), int(replace_rate * count)
    source = torch.randperm(num_nodes, generator=generator, device=device)[:noises]
    return NodeMask(masked, order[:tokens], order[count - noises :], source)
