"""Kept packets to flows: TCP numbers made relative, bursts put in order and cut to what a model sees."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from domains.network.capture.internet import MAPPED
from domains.network.capture.transport import ACKNOWLEDGEMENT, IP_LENGTH, SEQUENCE, TCP
from domains.network.flow import MAX_BURSTS, PACKET_TOKENS, Flow

INTERNAL = ((0x7F000000, 0xFF000000), (0xA9E70000, 0xFFFF0000))
"""IPv4 networks, with their masks, whose hosts netFound's shipped configuration takes for the forward side."""


def assembled(
    rows: NDArray, begins: NDArray[np.bool_], flows: NDArray, compat: bool = False
) -> Iterator[tuple[int, Flow]]:
    """Yield the place of each flow among the capture's and the flow, in the order of their first packets.

    Args:
        rows: Packets of whole flows as `condensed` returns them; ``flow`` leads into ``flows``.
        begins: Where in them a burst begins.
        flows: ``(slots,)`` of ``FLOW``.
        compat: Forward is from a host of ``INTERNAL``, where only one of the two is one, whoever began.
    """
    if not len(rows):
        return
    starts = np.flatnonzero(begins)
    flow, side, time = rows["flow"][starts], rows["side"][starts], rows["time"][starts]
    first, second = _first_two(rows)
    initiator = np.zeros(len(flows), bool)
    initiator[rows["flow"][first]] = rows["side"][first]
    tokens = _relative(rows, first, second, flows, rows["side"] == initiator[rows["flow"]])
    outward = _from_inside(flows, initiator) if compat else initiator
    forward = side == outward[flow]
    counts = np.diff(starts, append=len(rows))
    lengths = np.add.reduceat(rows["tokens"][:, IP_LENGTH].astype(np.int64), starts)
    iats = np.diff(time, prepend=0)
    iats[np.append(True, (flow[1:] != flow[:-1]) | (side[1:] != side[:-1]))] = 0
    along = _first_bursts(flows["index"][flow], time, forward)
    begin = np.flatnonzero(np.diff(flow[along], prepend=-1))
    directions, counts = forward[along], counts[along]
    sizes, iats = lengths[along].astype(np.uint32), ((iats[along] + 500) // 1_000).astype(np.uint64)
    places = np.repeat(starts[along] - np.append(0, np.cumsum(counts)[:-1]), counts) + np.arange(counts.sum())
    tokens, ends = tokens[places], np.cumsum(counts)
    slots = flow[along[begin]]
    opening = np.zeros(len(flows), np.int64)
    opening[rows["flow"][first]] = rows["time"][first]
    keys = flows["key"][slots]
    columns = (
        begin, np.append(begin[1:], len(along)), flows["index"][slots], keys[:, 4] >> np.uint64(8) & np.uint64(0xFF),
        opening[slots], flows["latest"][slots], flows["packets"][slots], initiator[slots],
    )  # fmt: skip
    last = 0
    for (a, b, index, protocol, start, latest, packets, turned), key in zip(
        zip(*(column.tolist() for column in columns), strict=True), keys.tolist(), strict=True
    ):
        width = PACKET_TOKENS[protocol]
        cuts = [0, *((ends[a:b] - last) * width).tolist()]
        own = tokens[last : int(ends[b - 1]), :width].flatten()
        last = int(ends[b - 1])
        yield (
            index,
            Flow(
                burst_tokens=[own[s:e] for s, e in itertools.pairwise(cuts)],
                directions=directions[a:b].copy(),
                bytes=sizes[a:b].copy(),
                iats=iats[a:b].copy(),
                counts=counts[a:b].astype(np.uint32),
                protocol=protocol,
                duration=(latest - start) // 1_000,
                start=start / 1e9,
                packets=packets,
                endpoints=endpoints(key, turned),
            ),
        )


def _first_bursts(index: NDArray[np.int64], time: NDArray[np.int64], forward: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return which bursts are the first of their flow, in order of time, a tie forward first; flows by ``index``."""
    along = np.lexsort((~forward, time, index))
    begin = np.flatnonzero(np.diff(index[along], prepend=-1))
    place = np.arange(len(along)) - np.repeat(begin, np.diff(begin, append=len(along)))
    return along[place < MAX_BURSTS]


def _from_inside(flows: NDArray, initiator: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which side is forward for netFound's tools: that of the only host of ``INTERNAL``, else the initiator."""
    key = flows["key"]
    inside = []
    for word in (1, 3):
        address = key[:, word] - np.uint64(MAPPED)
        within = [(address & np.uint64(mask)) == np.uint64(network) for network, mask in INTERNAL]
        inside.append(np.logical_or.reduce(within) & (key[:, 4] & np.uint64(0xFF) == 4))
    return np.where(inside[0] != inside[1], inside[1], initiator)


def _first_two(rows: NDArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where each flow's first packet is, and its second; that is the first again in a flow of one."""
    along = np.lexsort((rows["order"], rows["time"], rows["flow"]))
    flow = rows["flow"][along]
    places = np.flatnonzero(np.diff(flow, prepend=-1))
    follows = np.minimum(places + 1, max(len(along) - 1, 0))
    follows = np.where(flow[follows] == flow[places], follows, places)
    return along[places], along[follows]


def _relative(
    rows: NDArray, first: NDArray[np.int64], second: NDArray[np.int64], flows: NDArray, forward: NDArray[np.bool_]
) -> NDArray[np.uint16]:
    """Return the packets' tokens with TCP numbers relative to the flow's beginning.

    The numbers of the initiator start at those of its first packet; those of the other side at the first packet's
    acknowledgement, or where that is 0, at the sequence number of the second packet, whoever sent it. The first packet
    acknowledges 0.
    """
    tokens = rows["tokens"].copy()
    protocol = flows["key"][:, 4][rows["flow"]] >> np.uint64(8) & np.uint64(0xFF)
    tcp = protocol == TCP
    if not tcp.any():
        return tokens
    seq, ack = (_joined(tokens[:, part]) for part in (SEQUENCE, ACKNOWLEDGEMENT))
    ours, theirs = np.zeros(len(flows), np.uint32), np.zeros(len(flows), np.uint32)
    slot = rows["flow"][first]
    ours[slot] = seq[first]
    theirs[slot] = np.where(ack[first] != 0, ack[first], np.where(second != first, seq[second], 0))
    ours, theirs = ours[rows["flow"]], theirs[rows["flow"]]
    # Modulo 2^32, as the numbers themselves are. Without a base for the other side there is nothing to be relative to.
    theirs_ack = np.where(theirs == 0, np.uint32(0), ack - theirs)
    theirs_ack[first] = 0
    seq = np.where(forward, seq - ours, seq - theirs)
    ack = np.where(forward, theirs_ack, ack - ours)
    for part, value in ((SEQUENCE, seq), (ACKNOWLEDGEMENT, ack)):
        halves = np.stack([value >> np.uint32(16), value & np.uint32(0xFFFF)], axis=1).astype(np.uint16)
        tokens[:, part] = np.where(tcp[:, None], halves, tokens[:, part])
    return tokens


def _joined(halves: NDArray[np.uint16]) -> NDArray[np.uint32]:
    return halves[:, 0].astype(np.uint32) << np.uint32(16) | halves[:, 1]


def endpoints(key: Sequence[int], from_greater: bool) -> tuple[str, int, str, int]:
    """Return (address, port, address, port) of a flow's key, the initiator first.

    Args:
        key: As `flow_keys` makes it.
        from_greater: Whether the initiator is the greater of the two endpoints.
    """
    version, low, high = key[4] & 0xFF, key[4] >> 32 & 0xFFFF, key[4] >> 16 & 0xFFFF
    one, other = _address(version, key[0], key[1]), _address(version, key[2], key[3])
    return (other, high, one, low) if from_greater else (one, low, other, high)


def _address(version: int, upper: int, lower: int) -> str:
    if version == 4:
        return socket.inet_ntop(socket.AF_INET, (lower - MAPPED).to_bytes(4, "big"))
    return socket.inet_ntop(socket.AF_INET6, (upper << 64 | lower).to_bytes(16, "big"))
