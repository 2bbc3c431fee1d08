"""A capture to its flows, in one pass and in memory that follows the flows open at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from domains.network.capture.assembly import assembled
from domains.network.capture.bursts import KEPT, KeptPackets
from domains.network.capture.frames import Frames, chosen
from domains.network.capture.internet import datagrams
from domains.network.capture.link import SUPPORTED, check_link, network_layer
from domains.network.capture.pcap import MAGICS, read_pcap
from domains.network.capture.pcapng import MAGIC, read_pcapng
from domains.network.capture.table import FlowTable
from domains.network.capture.transport import ICMP, packets
from domains.network.capture.window import Notes, Window
from domains.network.flow import Flow
from hub.errors import InvalidInput, TooLarge, UnsupportedFormat
from hub.reading import Span

SNAPPED = 96
"""Bytes of a packet that hold all that becomes tokens: link and IP headers, TCP with options, 12 bytes of payload."""
_PILE = 1 << 17
"""Packets held from which on flows that another has replaced are handed out before the end."""


@dataclass
class Limits:
    """What is read of a capture at most.

    Attributes:
        max_bytes: Of the file, and of what is decompressed from it.
        max_expansion: Decompressed bytes a compressed byte, beyond the first 64 MiB.
        max_packets: In a capture.
        max_flows: In a capture.
        max_open_flows: Held at once; beyond, those without a packet for the longest are closed.
        max_kept_packets: Held at once; likewise.
    """

    max_bytes: int = 1 << 34
    max_expansion: int = 100
    max_packets: int = 100_000_000
    max_flows: int = 2_000_000
    max_open_flows: int = 200_000
    max_kept_packets: int = 1 << 20


def read_frames(window: Window, notes: Notes) -> Iterator[Frames]:
    """Yield the packets of a capture of either format, told by its first bytes.

    Raises:
        InvalidInput: It is no capture, or its header is damaged.
    """
    window.refill()
    if not window.data and notes.texts:
        raise InvalidInput("the compressed data are damaged from their beginning", code="corrupt_compression")
    if not window.data:
        raise InvalidInput("the file is empty; a capture is needed", code="empty_file")
    head = window.data[:4]
    if head in MAGICS:
        return read_pcap(window, notes)
    if head == MAGIC:
        return read_pcapng(window, notes)
    if any(magic.startswith(head) for magic in (*MAGICS, MAGIC)):
        raise InvalidInput("a capture whose header is cut", code="truncated_header")
    raise UnsupportedFormat(
        "not a capture: it begins like neither pcap nor pcapng, compressed or not", code="bad_magic"
    )


class Extraction:
    """One pass over a capture.

    Attributes:
        notes: What is to be said about the capture, so far.
        seen: Packets so far.
        used: Those of them that belong to a flow.
    """

    def __init__(self, limits: Limits, compat: bool = False, span: Span | None = None) -> None:
        """Keep the limits.

        Args:
            limits: What is read at most.
            compat: As netFound's own tools: see `domains.network.reading.CaptureReader`.
            span: Only packets of this part, in seconds since the first packet of the file.
        """
        self.limits, self.compat, self.span = limits, compat, span
        self.notes = Notes()
        self.seen = self.used = 0
        self._table, self._kept = FlowTable(), KeptPackets()
        self._links: set[int] = set()
        self._origin: int | None = None
        self._left, self._given = 0, False

    def flows(self, window: Window) -> Iterator[tuple[int, Flow]]:
        """Yield (place in the order of first packets, flow); those closed early first, then by place.

        Raises:
            InvalidInput: It is no capture, or no packet of it belongs to a flow.
            TooLarge: It has more packets or flows than are read.
        """
        for frames in read_frames(window, self.notes):
            self._take(frames)
            yield from self._close_early()
        self._check()
        rows, begins = self._kept.take(len(self._table.flows))
        yield from self._judged(rows, begins)
        if not self._given:
            raise InvalidInput(
                "all its flows are of the kinds that netFound's own tools lose; read the capture without 'compat'",
                code="no_ip_flows",
            )

    def _take(self, frames: Frames) -> None:
        """Read the packets of a stretch and keep what matters of them."""
        before = self.seen
        self.seen += len(frames)
        if self.seen > self.limits.max_packets:
            raise TooLarge(f"more than {self.limits.max_packets:,} packets; split the capture")
        self._links.update(np.unique(frames.link).tolist())
        if ((frames.captured - frames.start < SNAPPED) & (frames.captured < frames.wire)).any():
            text = f"Packets were captured in part, some to fewer than {SNAPPED} bytes: what follows them is missing."
            self.notes.add("snapped", text)
        start, kind = network_layer(frames)
        found = datagrams(frames.data, start, frames.captured, frames.wire, kind, self.compat)
        table = packets(frames.data, found, self.compat)
        if self.span is not None:
            table = chosen(table, self._within(frames, self.span)[table["number"]])
        if not len(table):
            return
        self.used += len(table)
        time = frames.time[table["number"]]
        rows = np.zeros(len(table), KEPT)
        rows["time"] = rows["until"] = time // 1_000 * 1_000 if self.compat else time
        rows["order"] = before + table["number"]
        rows["flow"], rows["side"] = self._table.assign(table, rows["order"], rows["time"])
        if self.compat:
            rows["side"] = _side_by_short_address(table)
        rows["tokens"] = table["tokens"]
        if self._table.count > self.limits.max_flows:
            raise TooLarge(f"more than {self.limits.max_flows:,} flows; split the capture")
        self._kept.add(rows)

    def _within(self, frames: Frames, span: Span) -> NDArray[np.bool_]:
        """Return which frames lie in the span."""
        if self._origin is None:
            self._origin = int(frames.time[0])
        seconds = (frames.time - self._origin) / 1e9
        stop = np.inf if span.stop is None else span.stop
        return (seconds >= (span.start or 0.0)) & (seconds < stop)

    def _close_early(self) -> Iterator[tuple[int, Flow]]:
        """Yield flows that have been replaced, once they pile up, and those idle for longest, if too much is held."""
        if len(self._kept) > max(_PILE, 2 * self._left):
            slots = self._table.open
            yield from self._closed(slots[self._table.flows["replaced"][slots]])
            self._left = len(self._kept)
        slots, limits = self._table.open, self.limits
        if len(slots) <= limits.max_open_flows and len(self._kept) <= limits.max_kept_packets:
            return
        by_age = slots[np.argsort(self._table.flows["last"][slots])]
        self.notes.add(
            "flows_closed_early",
            f"More than {limits.max_open_flows:,} flows or {limits.max_kept_packets:,} packets had to be held at once: "
            "flows idle for longest were ended, and packets of theirs that came later make flows of their own.",
        )
        yield from self._closed(by_age[: (len(by_age) + 1) // 2])

    def _closed(self, slots: NDArray[np.int64]) -> Iterator[tuple[int, Flow]]:
        """Yield some flows and hold them no more."""
        rows, begins = self._kept.take(len(self._table.flows), slots)
        yield from self._judged(rows, begins)
        self._table.release(slots)

    def _judged(self, rows: NDArray, begins: NDArray[np.bool_]) -> Iterator[tuple[int, Flow]]:
        """Yield flows; in compatibility without those that netFound's tools lose."""
        if not self.compat:
            self._given = True
            yield from assembled(rows, begins, self._table.flows)
            return
        # Their splitter makes one flow of all ICMP and drops flows of more than two hosts; of flows that follow one
        # another between the same endpoints the last one overwrites the others.
        flows = self._table.flows
        lost = flows["replaced"].copy()
        icmp = flows["key"][:, 4] >> np.uint64(8) & np.uint64(0xFF) == ICMP
        if np.count_nonzero(icmp & (flows["packets"] > 0)) > 1:
            lost |= icmp
        left = ~lost[rows["flow"]]
        self._given |= bool(left.any())
        yield from assembled(chosen(rows, left), begins[left], flows, compat=True)

    def _check(self) -> None:
        """Raise InvalidInput where no packet could be used; the text says why."""
        if self.used:
            if unread := sorted(self._links - set(SUPPORTED)):
                self.notes.add(
                    "unsupported_link_type", f"Packets of link type {', '.join(map(str, unread))} are left out."
                )
            return
        if not self.seen:
            damage = [code for code in self.notes.texts if code != "truncated_tail"]
            why = {"corrupt_record": "its first record announces an impossible length",
                   "corrupt_block": "one of its first blocks contradicts the format"}  # fmt: skip
            text = "; ".join(["the capture holds no whole packet", *(why[code] for code in damage)])
            raise InvalidInput(text, code=damage[0] if damage else "no_packets")
        if not self._links & set(SUPPORTED):
            check_link(min(self._links))
        if self.span is not None:
            raise InvalidInput(
                f"no TCP, UDP or ICMP packet lies between {self.span.start or 0:g} s and "
                f"{'the end' if self.span.stop is None else f'{self.span.stop:g} s'} after the first packet",
                code="empty_span",
            )
        raise InvalidInput(
            f"none of the {self.seen:,} packets is a whole TCP, UDP or ICMP header over IPv4 or IPv6; ICMPv6, later "
            "fragments and headers that contradict themselves are not counted",
            code="no_ip_flows",
        )


def _side_by_short_address(table: NDArray) -> NDArray[np.bool_]:
    """Return which side sent each packet by the first 32 bits of its addresses, all that netFound's tools compare."""
    short = [
        np.where(table["version"] == 4, table[name][:, 1] & np.uint64(0xFFFFFFFF), table[name][:, 0] >> np.uint64(32))
        for name in ("source", "target")
    ]
    return short[0] > short[1]
