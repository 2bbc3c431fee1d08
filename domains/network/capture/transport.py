"""TCP, UDP and ICMP headers to tokens, for many packets at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from domains.network.capture.frames import Offsets, at, chosen
from domains.network.capture.internet import Datagrams
from domains.network.flow import PACKET_TOKENS, PAYLOAD_TOKENS

ICMP, TCP, UDP = 1, 6, 17
IP_TOKENS = 5
IP_LENGTH = 2
"""Token that holds the length of the IP packet."""
SEQUENCE, ACKNOWLEDGEMENT = slice(7, 9), slice(9, 11)
"""Tokens of the TCP numbers, the high half first; absolute until a flow's first packets are known."""
WIDTH = max(PACKET_TOKENS.values())

PACKET = np.dtype([("number", "i8"), ("protocol", "u1"), ("version", "u1"), ("opens", "?"), ("source", "u8", 2),
                   ("target", "u8", 2), ("ports", "u2", 2), ("tokens", "u2", WIDTH)])  # fmt: skip
"""A packet: which frame it came in, whether it is a TCP packet with SYN and no ACK, and its tokens."""

_TCP = np.dtype([("ports", ">u2", 2), ("seq", ">u2", 2), ("ack", ">u2", 2), ("offset", "u1"), ("flags", "u1"),
                 ("window", ">u2"), ("checksum", ">u2"), ("urgent", ">u2")])  # fmt: skip
_UDP = np.dtype([("ports", ">u2", 2), ("length", ">u2"), ("checksum", ">u2")])
_ICMP = np.dtype([("type", "u1"), ("code", "u1"), ("checksum", ">u2")])
_PAYLOAD = np.dtype([("bytes", "u1", 2 * PAYLOAD_TOKENS)])
_SYN, _ACK = 2, 16
_ECHO = (0, 8)


def packets(data: NDArray[np.uint8], table: Datagrams, compat: bool) -> NDArray:
    """Return the TCP, UDP and ICMP packets among IP packets, ``(packets,)`` of ``PACKET``, in order.

    Left out: headers cut short or that contradict themselves. Of TCP's options none is read, so they may be missing.

    Args:
        data: As in `Frames`.
        table: The IP packets.
        compat: The payload of ICMP from where netFound's tools take it: 8 bytes late for an echo, which their library
            takes to begin with a time, and from the header on for every other type.
    """
    parts = [
        read(data, table[np.flatnonzero(table.protocol == protocol)], compat)
        for protocol, read in ((TCP, _tcp), (UDP, _udp), (ICMP, _icmp))
    ]
    found = np.concatenate(parts)
    return chosen(found, np.argsort(found["number"], kind="stable"))


def _tcp(data: NDArray[np.uint8], table: Datagrams, compat: bool) -> NDArray:
    tcp = at(data, table.start, _TCP)
    header = (tcp["offset"] >> 4).astype(np.int64) * 4
    sound = (table.captured - table.start >= 20) & (header >= 20) & (table.start + header <= table.wire)
    rows = _begun(table)
    rows["ports"] = tcp["ports"]
    rows["opens"] = tcp["flags"] & (_SYN | _ACK) == _SYN
    tokens = rows["tokens"]
    tokens[:, 5], tokens[:, 6], tokens[:, 11] = tcp["flags"], tcp["window"], tcp["urgent"]
    tokens[:, SEQUENCE], tokens[:, ACKNOWLEDGEMENT] = tcp["seq"], tcp["ack"]
    return _finished(data, rows, table, table.start + header, sound)


def _udp(data: NDArray[np.uint8], table: Datagrams, compat: bool) -> NDArray:
    udp = at(data, table.start, _UDP)
    rows = _begun(table)
    rows["ports"] = udp["ports"]
    rows["tokens"][:, 5] = udp["length"]
    return _finished(data, rows, table, table.start + 8, table.captured - table.start >= 8)


def _icmp(data: NDArray[np.uint8], table: Datagrams, compat: bool) -> NDArray:
    icmp = at(data, table.start, _ICMP)
    rows = _begun(table)
    rows["tokens"][:, 5], rows["tokens"][:, 6] = icmp["type"], icmp["code"]
    skipped = np.where(np.isin(icmp["type"], _ECHO), 16, 0) if compat else 8
    sound = (table.captured - table.start >= 4) & (table.version == 4)
    return _finished(data, rows, table, table.start + skipped, sound)


def _begun(table: Datagrams) -> NDArray:
    """Return rows with what the IP header tells."""
    rows = np.zeros(len(table), PACKET)
    for name in ("number", "protocol", "version", "source", "target"):
        rows[name] = getattr(table, name)
    for place, name in enumerate(("header", "tos", "total", "flags", "ttl")):
        rows["tokens"][:, place] = getattr(table, name)
    return rows


def _finished(
    data: NDArray[np.uint8], rows: NDArray, table: Datagrams, payload: Offsets, sound: NDArray[np.bool_]
) -> NDArray:
    """Return the sound rows with the first bytes of their payload, zeros where there are fewer."""
    if not len(rows):
        return rows
    content = at(data, payload, _PAYLOAD)["bytes"]
    content[np.arange(content.shape[1]) >= (table.captured - payload)[:, None]] = 0
    width = PACKET_TOKENS[int(rows["protocol"][0])]
    rows["tokens"][:, width - PAYLOAD_TOKENS : width] = content.view(">u2")
    return rows if sound.all() else chosen(rows, sound)
