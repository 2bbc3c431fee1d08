"""From a frame to its network layer, through link headers, VLAN tags, MPLS labels and PPPoE."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from domains.network.capture.frames import Frames, Offsets, at
from hub.errors import UnsupportedFormat

IPV4, IPV6 = 0x0800, 0x86DD
_VLAN = (0x8100, 0x88A8, 0x9100)
_MPLS = (0x8847, 0x8848)
_PPPOE = 0x8864
_PPP = {0x0021: IPV4, 0x0057: IPV6}
_MAX_TAGS = 8

ETHERNET, COOKED, COOKED_2 = 1, 113, 276
HEADERS = {ETHERNET: (12, 14), COOKED: (14, 16), COOKED_2: (0, 20)}
"""Link type: where its header says which protocol follows, and where that follows."""
LOOPBACK = (0, 108)
RAW = (12, 14, 101, 228, 229)
SUPPORTED = (*HEADERS, *LOOPBACK, *RAW)
_FAMILIES = (2, 10, 23, 24, 28, 30)
"""Numbers of IPv4 and IPv6 in the loopback headers of the BSDs, macOS, Linux and Windows."""

_WORD, _BYTES = np.dtype(">u2"), np.dtype([("bytes", "u1", 4)])


def check_link(link: int) -> None:
    """Raise UnsupportedFormat on a link type that is not read."""
    if link not in SUPPORTED:
        raise UnsupportedFormat(
            f"packets of link type {link}; read are Ethernet (1), raw IP (12, 14, 101, 228, 229), Linux cooked "
            "(113, 276) and loopback (0, 108)",
            code="unsupported_link_type",
        )


def network_layer(frames: Frames) -> tuple[Offsets, NDArray[np.int64]]:
    """Return where the network layer of each frame begins, and its EtherType; 0 where it is none that is known."""
    start = frames.start.copy()
    kind = np.zeros(len(frames), np.int64)
    for link in np.unique(frames.link):
        mine = np.flatnonzero(frames.link == link)
        if link in HEADERS:
            says, follows = HEADERS[link]
            kind[mine] = at(frames.data, frames.start[mine] + says, _WORD)
            start[mine] += follows
        elif link in LOOPBACK:
            family = at(frames.data, frames.start[mine], _BYTES)["bytes"]
            # In either byte order the number is in one of the outer bytes.
            known = np.isin(family[:, 0] | family[:, 3], _FAMILIES) & (family[:, 1:3] == 0).all(1)
            start[mine] += 4
            kind[mine] = np.where(known, by_version(frames.data, start[mine]), 0)
        elif link in RAW:
            kind[mine] = by_version(frames.data, start[mine])
    for _ in range(_MAX_TAGS):
        if not _untag(frames.data, start, kind):
            break
    return start, kind


def by_version(data: NDArray[np.uint8], start: Offsets) -> NDArray[np.int64]:
    """Return the EtherType that the first four bits of an IP header tell; 0 for any other number."""
    version = at(data, start, np.dtype("u1")) >> 4
    return np.where(version == 4, IPV4, np.where(version == 6, IPV6, 0))


def _untag(data: NDArray[np.uint8], start: Offsets, kind: NDArray[np.int64]) -> bool:
    """Go one tag further in place, and return whether there was one."""
    tagged = np.flatnonzero((kind != IPV4) & (kind != IPV6) & np.isin(kind, (*_VLAN, *_MPLS, _PPPOE)))
    tags = tagged[np.isin(kind[tagged], _VLAN)]
    kind[tags] = at(data, start[tags] + 2, _WORD)
    start[tags] += 4
    labelled = tagged[np.isin(kind[tagged], _MPLS)]
    last = (at(data, start[labelled], _BYTES)["bytes"][:, 2] & 1).astype(bool)
    start[labelled] += 4
    kind[labelled[last]] = by_version(data, start[labelled[last]])
    sessions = tagged[kind[tagged] == _PPPOE]
    protocol = at(data, start[sessions] + 6, _WORD)
    kind[sessions] = np.select([protocol == number for number in _PPP], list(_PPP.values()), 0)
    start[sessions] += 8
    return bool(len(tagged))
