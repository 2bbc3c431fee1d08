"""The simple features that a traffic model's embeddings are held against: sizes, times and flags, no payload."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from domains.network.capture.transport import IP_LENGTH, TCP
from domains.network.flow import MAX_BURSTS, PACKET_TOKENS, Flow
from hub.reading import Sample

SEQUENCE = 20
"""Packets whose lengths stand one by one."""
_TTL, _FLAGS = 4, 5


def flow_statistics(sample: Sample) -> NDArray[np.float32]:
    """Return 67 features of a flow, float32: of each direction, of the whole, and the sequence of the first packets.

    They see what netFound's header tokens and burst metadata hold, and neither ports nor addresses nor payload. Of each
    direction there are 11: counts, IP lengths, pauses, TTL. Of the whole: logarithms of duration and packets, the share
    of packets with each TCP flag, the protocol. Then follow the lengths of the first 20 packets, negative from the
    responder, and the logarithms of the pauses before the first 12 bursts.
    """
    flow: Flow = sample.data
    packets = np.concatenate(flow.burst_tokens).reshape(-1, flow.packet_tokens).astype(np.float64)
    forward = np.repeat(flow.directions, flow.counts)
    pauses = np.log1p(flow.iats.astype(np.float64))
    parts = [_direction(packets[forward == side], pauses[flow.directions == side]) for side in (True, False)]
    flags = packets[:, _FLAGS].astype(np.int64) if flow.protocol == TCP else np.zeros(len(packets), np.int64)
    parts.append(np.log1p([flow.duration, flow.packets]))
    parts.append(np.array([(flags >> bit & 1).mean() for bit in range(8)]))
    parts.append(np.array([flow.protocol == number for number in PACKET_TOKENS], float))
    signed = np.where(forward, packets[:, IP_LENGTH], -packets[:, IP_LENGTH])
    parts += [_padded(signed, SEQUENCE), _padded(pauses, MAX_BURSTS)]
    return np.concatenate(parts).astype(np.float32)


def _direction(packets: NDArray[np.float64], pauses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 11 features of one direction; zeros where it is silent."""
    if not len(packets):
        return np.zeros(11)
    lengths = packets[:, IP_LENGTH]
    return np.array([
        len(packets), len(pauses), np.log1p(lengths.sum()), lengths.mean(), lengths.std(), lengths.min(), lengths.max(),
        pauses.mean(), pauses.std(), pauses.max(), packets[0, _TTL],
    ])  # fmt: skip


def _padded(values: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    return np.pad(values[:length], (0, max(0, length - len(values))))
