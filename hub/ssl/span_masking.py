"""Span masks over sequences (HuBERT, wav2vec 2.0)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from hub.ssl._checks import check_fraction, check_positive


def span_mask(
    batch: int,
    length: int,
    *,
    probability: float,
    span: int,
    generator: torch.Generator,
    lengths: Tensor | None = None,
    min_spans: int = 2,
    equal_counts: bool = True,
) -> Tensor:
    """Mask spans of fixed length that start at random frames and may overlap.

    Baevski et al. 2020 (wav2vec 2.0), section 3.1, and Hsu et al. 2021 (HuBERT), section 2.2, in
    the form of their shared code: a row of n frames gets `int(probability * n / span + u)` spans,
    `u ~ U(0, 1)`, at least `min_spans`; their starts are drawn without replacement from
    `[0, n - span)`. Overlap makes the masked share smaller than `probability`: 0.65 with spans of
    10 masks about 44 % of 374 frames, 0.8 with spans of 5 about 55 %.

    Args:
        batch: number of rows.
        length: frames of the longest row.
        probability: spans times their length over frames.
        span: frames of a span.
        generator: source of the draws; the mask lies on its device.
        lengths: `(batch,)` valid frames of each row, `length` if left out. Padding is never
            masked.
        min_spans: least number of spans in a row.
        equal_counts: cut every row back to the smallest count by unmasking random frames, so
            that masked frames of a batch form a rectangle.

    Returns:
        `(batch, length)` bool, true where masked.

    Raises:
        ValueError: if a number is out of range, or a row is too short for a span.
    """
    check_positive(batch=batch, length=length, span=span, min_spans=min_spans)
    check_fraction(probability=probability)
    device = generator.device
    valid = torch.full((batch,), length) if lengths is None else lengths.cpu()
    if valid.shape != (batch,) or int(valid.max()) > length:
        raise ValueError(f"lengths must be {batch} numbers of at most {length}, got {valid.tolist()}")
    if int(valid.min()) <= span:
        raise ValueError(f"every row must be longer than a span of {span} frames, got {valid.tolist()}")
    valid = valid.to(device)

    rounding = torch.rand(batch, generator=generator, device=device)
    spans = (probability * valid / span + rounding).long().clamp(min=min_spans)
    # More spans than starts cannot be drawn without replacement.
    spans = torch.minimum(spans, valid - span)

    frame = torch.arange(length, device=device)
    order = torch.rand(batch, length, generator=generator, device=device)
    order = order.masked_fill(frame >= (valid - span)[:, None], 2.0)
    starts = order.argsort(dim=1).argsort(dim=1) < spans[:, None]
    # A frame is masked if one of the last `span` frames up to it starts a span.
    started = starts.long().cumsum(dim=1)
    before = F.pad(started, (span, 0))[:, :length]
    mask = started > before
    return _cut_to_smallest(mask, generator) if equal_counts else mask


def _cut_to_smallest(mask: Tensor, generator: torch.Generator) -> Tensor:
    """Unmask random frames until every row has as many masked frames as the poorest."""
    smallest = mask.sum(dim=1).min()
    order = torch.rand(mask.shape, generator=generator, device=mask.device)
    order = order.masked_fill(~mask, 2.0)
    return order.argsort(dim=1).argsort(dim=1) < smallest
