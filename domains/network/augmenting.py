"""A mild change of a flow that keeps its application: another way through the network.

Some bursts got lost, gaps are longer or shorter, and there are a few routers more or fewer between the ends.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from domains.network.flow import Flow
from hub.reading import Sample

LOST = 0.15
"""Share of the bursts after the second that are lost; the first two open the connection."""
JITTER = 0.2
"""Deviation of the logarithm of the factor on each gap."""
OPENING = 2
HOPS = 3
"""Most routers more or fewer, for each direction."""
TTL = 4
"""Which token of a packet is its time to live."""


def augment(sample: Sample, generator: torch.Generator) -> Sample:
    """Return a flow without some of its later bursts, with other gaps and times to live."""
    flow: Flow = sample.data
    count = len(flow.burst_tokens)
    draws = torch.rand(count, generator=generator).numpy()
    kept = np.flatnonzero((draws >= LOST) | (np.arange(count) < OPENING))
    hops = torch.randint(-HOPS, HOPS + 1, (2,), generator=generator).tolist()
    factors = np.exp(JITTER * torch.randn(count, generator=generator).numpy())
    return replace(
        sample,
        data=replace(
            flow,
            burst_tokens=[
                _nearer(flow.burst_tokens[i], flow.packet_tokens, hops[int(flow.directions[i])]) for i in kept
            ],
            directions=flow.directions[kept],
            bytes=flow.bytes[kept],
            iats=(flow.iats * factors).astype(flow.iats.dtype)[kept],
            counts=flow.counts[kept],
        ),
    )


def _nearer(tokens: NDArray[np.uint16], width: int, hops: int) -> NDArray[np.uint16]:
    """Return a burst's tokens with so many hops more in each packet's time to live."""
    packets = tokens.astype(np.int64).reshape(-1, width)
    packets[:, TTL] = np.clip(packets[:, TTL] + hops, 1, 255)
    return packets.reshape(-1).astype(np.uint16)
