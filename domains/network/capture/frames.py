"""Frames: where the packets of a stretch of bytes lie, and how their headers are read many at a time."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PADDING = 128
"""Zero bytes after the last frame, so that a header cut short is read as zeros and judged afterwards."""
MAX_FRAME = 1 << 18
"""Longest frame that is taken for one, as in libpcap; a longer one is damage, and never allocated."""

Offsets = NDArray[np.int64]


@dataclass(frozen=True)
class Frames:
    """Packets of a stretch of a capture; all arrays have one entry a packet.

    Attributes:
        data: The bytes, followed by ``PADDING`` zeros.
        start: Where the packet begins in ``data``.
        captured: Where its captured bytes end in ``data``.
        wire: Where it would end had it been captured whole; at least ``captured``. See `wire_lengths`.
        time: Nanoseconds since 1970.
        link: Link type, as tcpdump.org numbers them.
    """

    data: NDArray[np.uint8]
    start: Offsets
    captured: Offsets
    wire: Offsets
    time: NDArray[np.int64]
    link: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of packets."""
        return len(self.start)


def joined(parts: list[Frames]) -> Frames:
    """Return the packets of several tables of the same bytes as one."""
    if len(parts) == 1:
        return parts[0]
    columns = [f.name for f in dataclasses.fields(Frames) if f.name != "data"]
    return Frames(parts[0].data, **{name: np.concatenate([getattr(p, name) for p in parts]) for name in columns})


def wire_lengths(captured: NDArray[np.int64], announced: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how long packets were, from what their records announce; what cannot be is replaced by what is there."""
    return np.where(announced < MAX_FRAME, np.maximum(captured, announced), captured)


def padded(data: bytes) -> NDArray[np.uint8]:
    """Return bytes as an array with ``PADDING`` zeros behind it."""
    return np.frombuffer(data + bytes(PADDING), np.uint8)


def at(data: NDArray[np.uint8], offset: Offsets, dtype: np.dtype) -> NDArray:
    """Return what lies at each offset, ``(packets,)`` of ``dtype``; what is cut off at the end reads as zeros.

    Args:
        data: As in `Frames`.
        offset: Into ``data``; any number, so a header may announce what it likes.
        dtype: A header, of at most ``PADDING`` bytes.
    """
    last = len(data) - dtype.itemsize
    overlapping = np.ndarray((last + 1,), f"V{dtype.itemsize}", buffer=data, strides=(1,))
    return overlapping[np.clip(offset, 0, last)].view(dtype)


def chosen(rows: NDArray, which: NDArray) -> NDArray:
    """Return ``rows[which]`` of a structured array, each row copied as a whole: that is many times as fast."""
    return rows.view(f"V{rows.dtype.itemsize}")[which].view(rows.dtype)
