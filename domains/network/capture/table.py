"""Which flow each packet belongs to, and what is known of every flow."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_MIX = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93, 0xA0761D6478BD642F],
                np.uint64)  # fmt: skip
"""Odd numbers that spread keys over 64 bits; keys that fall together are told apart afterwards."""

FLOW = np.dtype([("index", "i8"), ("key", "u8", 5), ("packets", "i8"), ("latest", "i8"), ("last", "i8"),
                 ("opened", "?"), ("replaced", "?")])  # fmt: skip
"""What is known of a flow: its place in the order of first packets, its key, its number of packets, the time of the
latest, the number of the last one in the file, whether that one opened a connection, and whether another flow of the
same endpoints has taken its place."""
_UNUSED = np.zeros((), FLOW)
_UNUSED["latest"] = np.iinfo(np.int64).min


class FlowTable:
    """The flows of a capture, numbered in the order of their first packets.

    A flow is all packets between two endpoints (address and port; for ICMP the address alone) with one protocol. As in
    netFound, a TCP packet with SYN and no ACK begins a new flow, unless the one before it did so too: that is a
    retransmission. There is no time-out, so a pause does not cut a flow.

    Attributes:
        flows: ``(slots,)`` of ``FLOW``. The slot of a flow that is released is used again, so memory follows the flows
            that are open at once.
        count: Flows seen so far.
    """

    def __init__(self) -> None:
        self.flows = np.zeros(0, FLOW)
        self.count = 0
        self._current: dict[bytes, int] = {}
        self._free: list[int] = []

    @property
    def open(self) -> NDArray[np.int64]:
        """Slots in use."""
        return np.flatnonzero(self.flows["packets"])

    def release(self, slots: NDArray[np.int64]) -> None:
        """Forget flows; a later packet of their endpoints begins another."""
        for slot in slots.tolist():
            key = self.flows["key"][slot].tobytes()
            if self._current.get(key) == slot:
                del self._current[key]
        self.flows[slots] = _UNUSED
        self._free += slots.tolist()

    def assign(
        self, packets: NDArray, order: NDArray[np.int64], time: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the slot of each packet's flow and whether the greater endpoint sent it; flows are opened and noted.

        Args:
            packets: ``(packets,)`` of ``PACKET``, at least one, in the order of the file.
            order: Number of each packet in the file.
            time: Of each packet, in nanoseconds.
        """
        keys, greater = flow_keys(packets)
        first, group = _grouped(keys)
        known = [self._current.get(keys[place].tobytes(), -1) for place in first]
        return self._numbered(packets["opens"], order, time, keys, group, np.array(known, np.int64)), greater

    def _numbered(
        self,
        opens: NDArray[np.bool_],
        order: NDArray[np.int64],
        time: NDArray[np.int64],
        keys: NDArray[np.uint64],
        group: NDArray[np.int64],
        known: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """Cut each group of packets of one key where a connection opens, and number what is new."""
        along = np.argsort(group, kind="stable")
        group, opens = group[along], opens[along]
        begins = np.ones(len(group), bool)
        begins[1:] = group[1:] != group[:-1]
        before = np.empty(len(group), bool)
        before[1:] = opens[:-1]
        found = known[group]
        # A key met for the first time (-1, the last place) is as if such a packet had come before: nothing to cut.
        before[begins] = np.append(self.flows["opened"], True)[found[begins]]
        cut = begins | (opens & ~before)
        part = np.cumsum(cut) - 1
        places = np.flatnonzero(cut)
        # The first part of a group goes on with the flow that is known, unless it opens another.
        number = np.where(begins[places] & ~(opens & ~before)[places], found[places], -1)
        fresh = np.flatnonzero(number < 0)
        by_appearance = fresh[np.argsort(along[places[fresh]], kind="stable")]
        number[by_appearance] = self._take(len(fresh))
        self.flows["key"][number[fresh]] = keys[along[places[fresh]]]
        last = np.append(places[1:], len(group)) - 1
        self.flows["packets"][number] += last - places + 1
        latest = np.maximum.reduceat(time[along], places)
        self.flows["latest"][number] = np.maximum(self.flows["latest"][number], latest)
        self.flows["last"][number] = order[along[last]]
        self.flows["opened"][number] = opens[last]
        self._remember(group, places, number, found)
        flow = np.empty(len(group), np.int64)
        flow[along] = number[part]
        return flow

    def _remember(
        self, group: NDArray[np.int64], places: NDArray[np.int64], number: NDArray[np.int64], found: NDArray[np.int64]
    ) -> None:
        """Mark what a new connection of the same endpoints replaces, and keep which flow each key leads to."""
        same = group[places[1:]] == group[places[:-1]]
        self.flows["replaced"][number[:-1][same]] = True
        replaced = found[places]
        self.flows["replaced"][replaced[(replaced >= 0) & (replaced != number)]] = True
        leads = np.append(~same, True) & (found[places] != number)
        for flow in number[leads].tolist():
            self._current[self.flows["key"][flow].tobytes()] = flow

    def _take(self, count: int) -> NDArray[np.int64]:
        """Return slots for new flows, numbered on in this order."""
        if len(self._free) < count:
            used = len(self.flows)
            self.flows = np.concatenate([self.flows, np.full(max(count, used, 1024), _UNUSED)])
            self._free += range(used, len(self.flows))
        slots = np.array(self._free[:count], np.int64)
        del self._free[:count]
        self.flows["index"][slots] = self.count + np.arange(count)
        self.count += count
        return slots


def flow_keys(packets: NDArray) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Return the key of each packet's flow and whether the packet comes from the greater of its two endpoints.

    Returns:
        ``(packets, 5)``: both addresses in two words each, then ports, protocol and version; and ``(packets,)``.
    """
    source, target = packets["source"], packets["target"]
    ports = packets["ports"].astype(np.uint64)
    greater = source[:, 0] > target[:, 0]
    same = source[:, 0] == target[:, 0]
    for one, other in ((source[:, 1], target[:, 1]), (ports[:, 0], ports[:, 1])):
        greater |= same & (one > other)
        same &= one == other
    keys = np.empty((len(packets), 5), np.uint64)
    turned = greater[:, None]
    keys[:, 0:2], keys[:, 2:4] = np.where(turned, target, source), np.where(turned, source, target)
    low, high = np.where(greater, ports[:, 1], ports[:, 0]), np.where(greater, ports[:, 0], ports[:, 1])
    eight = np.uint64(8)
    keys[:, 4] = ((low << np.uint64(16) | high) << eight | packets["protocol"]) << eight | packets["version"]
    return keys, greater


def _grouped(keys: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return a packet of each distinct key, and which of those each packet has."""
    mixed = (keys ^ keys >> np.uint64(29)) * _MIX
    mixed = np.bitwise_xor.reduce(mixed ^ mixed >> np.uint64(32), axis=1)
    _, first, group = np.unique(mixed, return_index=True, return_inverse=True)
    if (keys[first][group] != keys).any():  # two keys of one mixture: compare them as they are
        _, first, group = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    return first, group.reshape(-1)
