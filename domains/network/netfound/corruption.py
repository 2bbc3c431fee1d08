"""What netFound's pretext tasks do to a flow: swap a burst, hide metadata, mask tokens (paper, section 4.3).

Everything about a flow is drawn from its own generator and without regard to padding, so that its masks do not depend
on what else is in its batch; only the burst that is swapped in comes from another flow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from domains.network.netfound.processing import FlowTokens
from domains.network.netfound.vocabulary import PADDING
from hub.ssl.masking import IGNORED, token_mask


@dataclass(frozen=True)
class Corrupted:
    """A flow as the pretext task reads it.

    Attributes:
        flow: With masked tokens, hidden metadata and perhaps a swapped burst.
        labels: For each burst the ids to predict, -100 elsewhere.
        targets: ``(bursts, 4)`` metadata as they were.
        hidden: ``(bursts,)`` bool, whose metadata are hidden.
        swapped: Number of the swapped burst, or ``None``.
    """

    flow: FlowTokens
    labels: list[Tensor]
    targets: Tensor
    hidden: Tensor
    swapped: int | None


def swap_burst(
    flow: FlowTokens, others: Sequence[FlowTokens], rate: float, *, whole: bool, generator: torch.Generator
) -> tuple[FlowTokens, int | None]:
    """Replace a burst of a flow by one of another flow, sometimes.

    Args:
        flow: To change.
        others: The other flows of the batch, or the flow itself where there is none.
        rate: Share of the flows to change.
        whole: Swap the burst with its metadata and only among flows of one protocol; a flow of a single burst stays as
            it is. Otherwise, as published, ids alone are swapped: length, metadata and protocol stay behind and give
            the swap away.
        generator: Decides.

    Returns:
        The flow, and the number of the swapped burst if one was.
    """
    chance, where, which, what = torch.rand(4, generator=generator).tolist()
    sources = [other for other in others if other.protocol == flow.protocol] if whole else others
    if chance >= rate or not sources or (whole and len(flow.bursts) < 2):
        return flow, None
    place = int(where * len(flow.bursts))
    source = sources[int(which * len(sources))]
    number = int(what * len(source.bursts))
    bursts, metadata = list(flow.bursts), flow.metadata.clone()
    if whole:
        bursts[place], metadata[place] = source.bursts[number], source.metadata[number]
    else:
        length = len(bursts[place])
        bursts[place] = torch.full((length,), PADDING)
        bursts[place][: len(source.bursts[number])] = source.bursts[number][:length]
    return replace(flow, bursts=bursts, metadata=metadata), place


def hide_metadata(
    flow: FlowTokens, probability: float, at_least: int, spared: int | None, generator: torch.Generator
) -> tuple[FlowTokens, Tensor]:
    """Set the metadata of some bursts to zero.

    Args:
        flow: To change.
        probability: Of each burst.
        at_least: Flows of fewer bursts are left as they are.
        spared: Number of a burst that is left as it is.
        generator: Decides.

    Returns:
        The flow, and which bursts were hidden, ``(bursts,)`` bool.
    """
    hidden = torch.rand(len(flow.bursts), generator=generator) < probability
    if len(flow.bursts) < at_least:
        hidden[:] = False
    if spared is not None:
        hidden[spared] = False
    return replace(flow, metadata=flow.metadata.masked_fill(hidden.unsqueeze(1), 0)), hidden


def mask_tokens(
    flow: FlowTokens,
    probability: float,
    spared: int | None,
    values: tuple[int, int],
    mask_id: int,
    generator: torch.Generator,
) -> tuple[FlowTokens, list[Tensor]]:
    """Mask tokens as BERT does: 80 % become the mask token, 10 % a random value, the rest stays.

    The published code draws random ids from the whole table, special tokens and spare rows among them; here they
    are values.

    Args:
        flow: To change.
        probability: Of each token that is no CLS token.
        spared: Number of a burst that is left as it is.
        values: Ids of values: the first, and one past the last.
        mask_id: Id of the mask token.
        generator: Decides.

    Returns:
        The flow, and for each burst the ids to predict, -100 elsewhere.
    """
    ids = torch.cat(flow.bursts)
    maskable = torch.cat(
        [(burst >= values[0]) & (burst < values[1]) & (number != spared) for number, burst in enumerate(flow.bursts)]
    )
    masked = token_mask(
        ids, maskable, probability=probability, mask_id=mask_id, random_range=values, generator=generator
    )
    sizes = [len(burst) for burst in flow.bursts]
    return replace(flow, bursts=list(masked.ids.split(sizes))), list(masked.labels.split(sizes))


def pad_labels(labels: Sequence[Sequence[Tensor]], shape: torch.Size) -> Tensor:
    """Put the labels of the bursts of each flow into ``(batch, bursts, tokens)``, -100 where there is none."""
    padded = torch.full(shape, IGNORED)
    for row, flow in enumerate(labels):
        for number, burst in enumerate(flow):
            padded[row, number, : len(burst)] = burst
    return padded
