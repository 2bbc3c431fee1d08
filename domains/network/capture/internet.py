"""IPv4 and IPv6 headers, extension headers and tunnels, for many packets at a time."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from domains.network.capture.frames import Offsets, at
from domains.network.capture.link import IPV4, IPV6, by_version

_IPV4 = np.dtype([("version_length", "u1"), ("tos", "u1"), ("total", ">u2"), ("id", ">u2"), ("flags_offset", ">u2"),
                  ("ttl", "u1"), ("protocol", "u1"), ("checksum", ">u2"), ("source", ">u4"),
                  ("target", ">u4")])  # fmt: skip
_IPV6 = np.dtype([("first", ">u4"), ("payload", ">u2"), ("next", "u1"), ("hops", "u1"), ("source", ">u8", 2),
                  ("target", ">u8", 2)])  # fmt: skip
_EXTENSION = np.dtype([("next", "u1"), ("length", "u1"), ("offset", ">u2")])
_GRE = np.dtype([("flags", ">u2"), ("protocol", ">u2")])
_LENGTHS = {0: 8, 43: 8, 51: 4, 60: 8, 135: 8, 139: 8, 140: 8}
"""IPv6 extension headers that are gone past, and bytes of one unit of their length field."""
_FRAGMENT = 44
_MAX_EXTENSIONS = 8
_IP_IN_IP, _IPV6_IN_IP, _GRE_IN_IP = 4, 41, 47
_MAX_TUNNELS = 3
MAPPED = 0xFFFF_0000_0000
"""What an IPv4 address is added to, to be kept as an IPv6 address."""


@dataclass(frozen=True)
class Datagrams:
    """IP packets whose transport header is theirs to read; all arrays have one entry a packet.

    Attributes:
        number: Which frame of the stretch it came in.
        header: Bytes of the header; 40 for IPv6.
        tos: TOS byte or traffic class.
        total: Bytes of the packet, header included, as the header says, modulo 65536.
        flags: The three bits before the fragment offset; 0 for IPv6.
        ttl: TTL or hop limit.
        protocol: Of the transport header, by IP protocol number.
        start: Where the transport header begins.
        captured: Where captured bytes of this packet end.
        wire: Where the packet ends.
        source: ``(packets, 2)`` uint64, an IPv6 address or a mapped IPv4 address.
        target: Likewise.
        version: 4 or 6.
    """

    number: Offsets
    header: NDArray[np.int64]
    tos: NDArray[np.int64]
    total: NDArray[np.int64]
    flags: NDArray[np.int64]
    ttl: NDArray[np.int64]
    protocol: NDArray[np.int64]
    start: Offsets
    captured: Offsets
    wire: Offsets
    source: NDArray[np.uint64]
    target: NDArray[np.uint64]
    version: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of packets."""
        return len(self.number)

    def __getitem__(self, chosen: NDArray) -> Datagrams:
        """Return some of the packets."""
        return Datagrams(*(getattr(self, f.name)[chosen] for f in dataclasses.fields(self)))

    @staticmethod
    def joined(parts: list[Datagrams]) -> Datagrams:
        """Return the packets of several tables, in the order of their frames."""
        columns = (np.concatenate([getattr(p, f.name) for p in parts]) for f in dataclasses.fields(Datagrams))
        table = Datagrams(*columns)
        return table[np.argsort(table.number, kind="stable")]


@dataclass(frozen=True)
class _Candidates:
    """Places where an IP header may begin."""

    number: Offsets
    start: Offsets
    captured: Offsets
    wire: Offsets

    def __getitem__(self, chosen: NDArray | slice) -> _Candidates:
        return _Candidates(*(getattr(self, f.name)[chosen] for f in dataclasses.fields(self)))


def datagrams(
    data: NDArray[np.uint8], start: Offsets, captured: Offsets, wire: Offsets, kind: NDArray[np.int64], compat: bool
) -> Datagrams:
    """Return the IP packets that begin a datagram, those inside IP and GRE tunnels in the place of the tunnel's.

    Left out: other protocols, fragments but the first, and headers that contradict themselves or are cut short.

    Args:
        data: As in `Frames`.
        start: Where the network layer begins.
        captured: Where the captured bytes end.
        wire: Where the frame ends.
        kind: EtherType.
        compat: As netFound's own tools: no tunnels, no IPv6 extension headers, the upper half of the traffic class
            alone, and as length what the header says, be it 0 as segmentation offload leaves it.
    """
    table = _Candidates(np.arange(len(start)), start, captured, wire)
    parts = []
    for level in range(_MAX_TUNNELS + 1):
        for ethertype, read in ((IPV4, _ipv4), (IPV6, _ipv6)):
            chosen = np.flatnonzero(kind == ethertype)
            if len(chosen):
                parts.append(read(data, table[chosen], compat))
        if compat or level == _MAX_TUNNELS:
            break
        # What came out of the last level may be a tunnel: its inside is looked at in the next.
        outer = [p[np.isin(p.protocol, (_IP_IN_IP, _IPV6_IN_IP, _GRE_IN_IP))] for p in parts]
        if not sum(map(len, outer)):
            break
        parts = [p[~np.isin(p.protocol, (_IP_IN_IP, _IPV6_IN_IP, _GRE_IN_IP))] for p in parts]
        tunnels = Datagrams.joined(outer)
        inner, kind = _inside(data, tunnels)
        table = _Candidates(tunnels.number, inner, tunnels.captured, tunnels.wire)
    if not parts:
        return _ipv4(data, table[:0], compat)
    return parts[0] if len(parts) == 1 else Datagrams.joined(parts)


def _ipv4(data: NDArray[np.uint8], table: _Candidates, compat: bool) -> Datagrams:
    ip = at(data, table.start, _IPV4)
    header = (ip["version_length"] & 15).astype(np.int64) * 4
    # With segmentation offload the length is left for the network card to fill in; one below the header's is none.
    total = ip["total"].astype(np.int64)
    length = np.where(total < header, table.wire - table.start, total)
    flags_offset = ip["flags_offset"].astype(np.int64)
    sound = (table.captured - table.start >= 20) & (ip["version_length"] >> 4 == 4) & (header >= 20)
    sound &= (length >= header) & (flags_offset & 0x1FFF == 0)
    ends = np.minimum(table.start + length, table.wire)
    addresses = [np.zeros((len(ip), 2), np.uint64) for _ in range(2)]
    for address, name in zip(addresses, ("source", "target"), strict=True):
        address[:, 1] = ip[name] + np.uint64(MAPPED)
    return Datagrams(
        number=table.number,
        header=header,
        tos=ip["tos"].astype(np.int64),
        total=(total if compat else length) & 0xFFFF,
        flags=flags_offset >> 13,
        ttl=ip["ttl"].astype(np.int64),
        protocol=ip["protocol"].astype(np.int64),
        start=table.start + header,
        captured=np.minimum(table.captured, ends),
        wire=ends,
        source=addresses[0],
        target=addresses[1],
        version=np.full(len(ip), 4),
    )[np.flatnonzero(sound)]


def _ipv6(data: NDArray[np.uint8], table: _Candidates, compat: bool) -> Datagrams:
    ip = at(data, table.start, _IPV6)
    payload = ip["payload"].astype(np.int64)
    # A jumbogram's length stands in an option, and offload leaves 0 as with IPv4.
    length = np.where(payload == 0, table.wire - table.start - 40, payload)
    sound = (table.captured - table.start >= 40) & (ip["first"] >> 28 == 6)
    ends = np.minimum(table.start + 40 + length, table.wire)
    traffic_class = (ip["first"] >> 20).astype(np.int64) & 0xFF
    start, protocol = table.start + 40, ip["next"].astype(np.int64)
    if not compat:
        start, protocol = _past_extensions(data, start, protocol)
    return Datagrams(
        number=table.number,
        header=np.full(len(ip), 40),
        tos=traffic_class >> 4 if compat else traffic_class,
        total=((payload if compat else length) + 40) & 0xFFFF,
        flags=np.zeros(len(ip), np.int64),
        ttl=ip["hops"].astype(np.int64),
        protocol=protocol,
        start=start,
        captured=np.minimum(table.captured, ends),
        wire=ends,
        source=ip["source"].astype(np.uint64),
        target=ip["target"].astype(np.uint64),
        version=np.full(len(ip), 6),
    )[np.flatnonzero(sound)]


def _past_extensions(
    data: NDArray[np.uint8], start: Offsets, protocol: NDArray[np.int64]
) -> tuple[Offsets, NDArray[np.int64]]:
    """Return where the transport header begins and which it is; -1 behind a later fragment or too many headers."""
    start, protocol = start.copy(), protocol.copy()
    units = np.full(256, 0)
    units[list(_LENGTHS)] = list(_LENGTHS.values())
    for _ in range(_MAX_EXTENSIONS):
        places = np.flatnonzero((units[protocol] > 0) | (protocol == _FRAGMENT))
        if not len(places):
            return start, protocol
        header, kind = at(data, start[places], _EXTENSION), protocol[places]
        fixed = np.where(kind == 51, 2, 1)
        size = np.where(kind == _FRAGMENT, 8, (header["length"] + fixed) * units[kind])
        later = (kind == _FRAGMENT) & (header["offset"] >> 3 != 0)
        start[places] += size
        protocol[places] = np.where(later, -1, header["next"])
    return start, np.where((protocol >= 0) & ((units[protocol] > 0) | (protocol == _FRAGMENT)), -1, protocol)


def _inside(data: NDArray[np.uint8], tunnels: Datagrams) -> tuple[Offsets, NDArray[np.int64]]:
    """Return where the packets inside tunnels begin, and their EtherType."""
    gre = at(data, tunnels.start, _GRE)
    flags = gre["flags"].astype(np.int64)
    options = sum((flags >> bit & 1) * 4 for bit in (15, 13, 12))  # checksum, key, sequence number
    is_gre = tunnels.protocol == _GRE_IN_IP
    start = tunnels.start + np.where(is_gre, 4 + options, 0)
    known = np.isin(gre["protocol"], (IPV4, IPV6)) & (flags & 7 == 0)
    return start, np.where(is_gre & ~known, 0, by_version(data, start))
