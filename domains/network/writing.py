"""Captures written from scratch: for samples, tests and measurements."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from ipaddress import ip_address
from typing import NamedTuple

SYN, ACK, PUSH, FIN, RESET = 2, 16, 8, 1, 4


class Record(NamedTuple):
    """A captured packet: nanoseconds since 1970, its bytes, and its length on the wire (0: that of the bytes)."""

    time: int
    data: bytes
    wire: int = 0


def pcap(records: Iterable[Record], *, link: int = 1, order: str = "<", nanoseconds: bool = False) -> bytes:
    """Return a classic capture.

    Args:
        records: Its packets.
        link: Link type.
        order: Byte order, ``<`` or ``>``.
        nanoseconds: Whether times are stored to the nanosecond, else to the microsecond.
    """
    parts = [struct.pack(f"{order}IHHIIII", 0xA1B23C4D if nanoseconds else 0xA1B2C3D4, 2, 4, 0, 0, 1 << 18, link)]
    for time, data, wire in records:
        seconds, fraction = divmod(time, 1_000_000_000)
        fraction //= 1 if nanoseconds else 1_000
        parts += [struct.pack(f"{order}IIII", seconds, fraction, len(data), wire or len(data)), data]
    return b"".join(parts)


def pcapng(records: Iterable[Record], *, link: int = 1, order: str = "<") -> bytes:
    """Return a capture of blocks: one section, one interface with times to the nanosecond, enhanced packet blocks."""

    def block(kind: int, body: bytes) -> bytes:
        body += bytes(-len(body) % 4)
        return struct.pack(f"{order}II", kind, len(body) + 12) + body + struct.pack(f"{order}I", len(body) + 12)

    resolution = struct.pack(f"{order}HHB3xHH", 9, 1, 9, 0, 0)
    parts = [
        block(0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1)),
        block(1, struct.pack(f"{order}HHI", link, 0, 1 << 18) + resolution),
    ]
    for time, data, wire in records:
        head = struct.pack(f"{order}IIIII", 0, time >> 32, time & 0xFFFFFFFF, len(data), wire or len(data))
        parts.append(block(6, head + data))
    return b"".join(parts)


def ethernet(packet: bytes) -> bytes:
    """Return an Ethernet frame of an IP packet."""
    return bytes(12) + (b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd") + packet


def ip(source: str, target: str, protocol: int, content: bytes, *, ttl: int = 64, tos: int = 0) -> bytes:
    """Return an IPv4 or IPv6 packet, by its addresses; checksums are left 0."""
    one, other = ip_address(source), ip_address(target)
    if one.version == 4:
        head = struct.pack(">BBHHHBBH", 0x45, tos, 20 + len(content), 0, 0x4000, ttl, protocol, 0)
    else:
        head = struct.pack(">IHBB", 6 << 28 | tos << 20, len(content), protocol, ttl)
    return head + one.packed + other.packed + content


def tcp(
    ports: tuple[int, int], flags: int, payload: bytes = b"", *, seq: int = 0, ack: int = 0, window: int = 64240
) -> bytes:
    """Return a TCP segment without options."""
    numbers = (seq & 0xFFFFFFFF, ack & 0xFFFFFFFF)
    return struct.pack(">HHIIBBHHH", *ports, *numbers, 0x50, flags, window, 0, 0) + payload


def udp(ports: tuple[int, int], payload: bytes = b"") -> bytes:
    """Return a UDP datagram."""
    return struct.pack(">HHHH", *ports, 8 + len(payload), 0) + payload


def icmp(kind: int, code: int = 0, payload: bytes = bytes(48)) -> bytes:
    """Return an ICMP message: type, code, an empty checksum and four bytes of rest before the payload."""
    return struct.pack(">BBHI", kind, code, 0, 1) + payload
