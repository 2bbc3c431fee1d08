"""What is kept of each flow while a capture is read: the first packets of the first bursts of each direction."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from domains.network.capture.frames import chosen
from domains.network.capture.transport import WIDTH
from domains.network.flow import MAX_BURSTS, MAX_PACKETS

GAP = 10_000_000
"""Nanoseconds without a packet of the same direction after which a new burst begins."""
SPARE = 4
"""Bursts of each direction that are kept beyond what a model sees, for late packets that join two of them."""

KEPT = np.dtype([("flow", "i8"), ("side", "?"), ("time", "i8"), ("until", "i8"), ("order", "i8"),
                 ("tokens", "u2", WIDTH)])  # fmt: skip
"""A packet that is kept: its flow, which of the two endpoints sent it, when, and its number in the file. ``until`` is
the time of the burst's last packet in the first packet of a burst, in all others their own."""


def condensed(rows: NDArray) -> tuple[NDArray, NDArray[np.bool_]]:
    """Return the packets of ``rows`` that matter, in the order (flow, side, time), and where in them a burst begins.

    Packets of one direction whose gaps are at most ``GAP`` make a burst, of which the first ``MAX_PACKETS`` are kept;
    of each direction the first ``MAX_BURSTS + SPARE`` bursts are. The first packet of a burst remembers how long it
    lasts, so dropped packets still hold it together: condensing parts of a capture and then all of them together gives
    the same as condensing all at once. The exception are packets so late that they join more than ``SPARE`` bursts of
    a flow after the bursts behind those have been dropped.

    Args:
        rows: ``(packets,)`` of ``KEPT``, in any order.
    """
    rows = chosen(rows, np.lexsort((rows["order"], rows["time"], rows["side"], rows["flow"])))
    if not len(rows):
        return rows, np.zeros(0, bool)
    turns = np.ones(len(rows), bool)
    turns[1:] = (rows["flow"][1:] != rows["flow"][:-1]) | (rows["side"][1:] != rows["side"][:-1])
    begins = turns.copy()
    begins[1:] |= rows["time"][1:] - _reach(rows["until"], turns)[:-1] > GAP
    starts = np.flatnonzero(begins)
    lasts = np.maximum.reduceat(rows["until"], starts)
    rows["until"] = rows["time"]
    rows["until"][starts] = lasts
    burst = np.cumsum(begins) - 1
    place = np.arange(len(rows)) - starts[burst]
    direction = np.maximum.accumulate(np.where(turns, burst, 0))
    kept = (place < MAX_PACKETS) & (burst - direction < MAX_BURSTS + SPARE)
    return chosen(rows, kept), begins[kept]


def _reach(until: NDArray[np.int64], turns: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the largest ``until`` so far in each stretch between turns."""
    if ((until[1:] >= until[:-1]) | turns[1:]).all():
        return until
    # A running maximum that starts anew at each turn: that of ranks, which are higher in each later stretch.
    ranked = np.lexsort((until, np.cumsum(turns)))
    rank = np.empty(len(until), np.int64)
    rank[ranked] = np.arange(len(until))
    return until[ranked[np.maximum.accumulate(rank)]]


class KeptPackets:
    """A growing collection of packets that condenses itself, so that its size follows the flows and not the packets."""

    def __init__(self) -> None:
        self._parts: list[NDArray] = []
        self._waiting, self._settled = 0, 0

    def add(self, rows: NDArray) -> None:
        """Take packets in."""
        rows, _ = condensed(rows)
        self._parts.append(rows)
        self._waiting += len(rows)
        if self._waiting > max(self._settled, 1 << 16):
            self._condense()

    def __len__(self) -> int:
        """Return the number of packets held."""
        return self._waiting + self._settled

    def take(self, slots: int, flows: NDArray[np.int64] | None = None) -> tuple[NDArray, NDArray[np.bool_]]:
        """Hand out the packets of some flows, or of all, condensed as in `condensed`, and hold them no more.

        Args:
            slots: Flows there are, as they are numbered in the rows.
            flows: Those wanted.
        """
        rows, begins = self._condense()
        if flows is None:
            self._parts, self._settled = [], 0
            return rows, begins
        wanted = np.zeros(slots, bool)
        wanted[flows] = True
        leaving = wanted[rows["flow"]]
        self._parts = [chosen(rows, ~leaving)]
        self._settled = len(self._parts[0])
        return chosen(rows, leaving), begins[leaving]

    def _condense(self) -> tuple[NDArray, NDArray[np.bool_]]:
        rows, begins = condensed(np.concatenate(self._parts) if self._parts else np.zeros(0, KEPT))
        self._parts, self._waiting, self._settled = [rows], 0, len(rows)
        return rows, begins
