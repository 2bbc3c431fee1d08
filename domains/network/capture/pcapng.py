"""Captures of blocks (pcapng): sections of either byte order, each with its own table of interfaces.

Format: https://datatracker.ietf.org/doc/draft-ietf-opsawg-pcapng/
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from domains.network.capture.frames import MAX_FRAME, Frames, at, joined, padded, wire_lengths
from domains.network.capture.window import Notes, Window
from hub.errors import InvalidInput, TooLarge

MAGIC = b"\x0a\x0d\x0d\x0a"
_SECTION, _INTERFACE, _PACKET, _SIMPLE, _ENHANCED = 0x0A0D0D0A, 1, 2, 3, 6
_ORDERS = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}
_MAX_HEAD = 1 << 20
"""Longest section or interface block."""
_MAX_INTERFACES = 1 << 16
MAX_SECTIONS = 10_000
"""Most sections of a file; captures that were appended to one another have one each."""
_TIMES_END = 1 << 33
"""Seconds since 1970 beyond which a time is taken as meaningless: the year 2242."""


@dataclass
class _Section:
    """One section: its byte order, and for each interface link type, longest packet, and unit and origin of time."""

    order: str
    links: list[int] = field(default_factory=list)
    snaps: list[int] = field(default_factory=list)
    units: list[tuple[int, int]] = field(default_factory=list)

    def add(self, block: bytes) -> None:
        """Take an interface description; options that run past the block are left out."""
        link, snap = struct.unpack_from(f"{self.order}HxxI", block)
        resolution, origin, place = 6, 0, 8
        while place + 4 <= len(block):
            code, length = struct.unpack_from(f"{self.order}HH", block, place)
            value = block[place + 4 : place + 4 + length]
            if code == 0 or len(value) < length:
                break
            if code == 9 and length == 1:
                resolution = value[0]
            elif code == 14 and length == 8:
                (origin,) = struct.unpack(f"{self.order}q", value)
            place += 4 + (length + 3) // 4 * 4
        self.links.append(link)
        self.snaps.append(snap or MAX_FRAME)
        self.units.append((resolution, origin))


def read_pcapng(window: Window, notes: Notes) -> Iterator[Frames]:
    """Yield the packets of a capture of blocks, stretch by stretch; damage ends it and is noted.

    Raises:
        InvalidInput: The first section's header is cut or of unknown byte order.
        TooLarge: There are more sections than are read.
    """
    section: _Section | None = None
    sections = 0
    found: list[Frames] = []
    while True:
        places, following, ended = _blocks(window, section, bool(found))
        if places:
            assert section is not None
            # A capture may consist of small sections: those of one window go on together.
            data = found[0].data if found else padded(window.data)
            frames, sound = _frames(data, section, places)
            found.append(frames)
            ended = ended if sound else "corrupt_block"
        sections += following is not section
        if sections > MAX_SECTIONS:
            raise TooLarge(f"more than {MAX_SECTIONS:,} sections; split the capture")
        section = following
        if not ended:
            continue
        if sum(map(len, found)):
            yield joined(found)
        found = []
        if ended == "corrupt_block":
            notes.add(ended, "A block contradicts the format; the packets before it are used.")
            return
        if ended == "more" and not window.refill():
            if section is None:
                raise InvalidInput("a capture whose first section header is cut", code="truncated_header")
            if window.rest:
                notes.add("truncated_tail", "The file ends within a block; the packets before it are used.")
            return


def _blocks(window: Window, section: _Section | None, held: bool) -> tuple[list[int], _Section | None, str]:
    """Go past the blocks of a section.

    Args:
        window: Where they are.
        section: The section, or ``None`` at the start of the file.
        held: Whether there are packets of an earlier section of this window.

    Returns:
        Where blocks of packets are; the section that holds from here on; and why it ended, if not for a new section:
        ``more`` where the next block goes on behind the window, ``full`` where the packets must be taken before the
        window moves, or ``corrupt_block``.

    Raises:
        InvalidInput: The file does not begin with a section of a known byte order.
    """
    places: list[int] = []
    while window.rest >= 12:
        if section is not None:
            _enhanced(window, section, places)
            if window.rest < 12:
                break
        following, ended = _block(window, section, places, held)
        if ended or following is not section:
            return places, following, ended
    return places, section, "more"


def _enhanced(window: Window, section: _Section, places: list[int]) -> None:
    """Go past sound enhanced packet blocks, of which nearly every capture consists."""
    head = struct.Struct(f"{section.order}III").unpack_from
    tail = struct.Struct(f"{section.order}I").unpack_from
    data, place, end, interfaces = window.data, window.start, len(window.data), len(section.links)
    while place + 12 <= end:
        kind, length, interface = head(data, place)
        following = place + length
        if kind != _ENHANCED or length & 3 or length < 32 or following > end or interface >= interfaces:
            break
        if tail(data, following - 4)[0] != length:
            break
        places.append(place)
        place = following
    window.start = place


def _block(window: Window, section: _Section | None, places: list[int], held: bool) -> tuple[_Section | None, str]:
    """Take one block of any kind; return the section that holds from here on, and why none was taken, if so."""
    data, place = window.data, window.start
    if data[place : place + 4] == MAGIC:
        order = _ORDERS.get(data[place + 8 : place + 12], "")
        if not order and section is None:
            raise InvalidInput("a pcapng file of an unknown byte order", code="bad_magic")
        if not order:
            return section, "corrupt_block"
        opened = _Section(order)
    else:
        assert section is not None
        opened, order = section, section.order
    kind, length, word = struct.unpack_from(f"{order}III", data, place)
    end, packet = place + length, kind in (_ENHANCED, _PACKET, _SIMPLE)
    if length < 12 or length % 4:
        return section, "corrupt_block"
    if end > len(data):
        if packet or kind in (_SECTION, _INTERFACE):
            return section, "corrupt_block" if length > MAX_FRAME + _MAX_HEAD else "more"
        return section, "full" if places or held else _skipped(window, length)
    if struct.unpack_from(f"{order}I", data, end - 4)[0] != length:
        return section, "corrupt_block"
    if packet:
        if _interface(kind, word, order) >= len(opened.links) or length < (16 if kind == _SIMPLE else 32):
            return section, "corrupt_block"
        places.append(place)
    elif kind == _INTERFACE:
        if length < 20 or len(opened.links) >= _MAX_INTERFACES:
            return section, "corrupt_block"
        opened.add(data[place + 8 : end - 4])
    window.start = end
    return opened, ""


def _interface(kind: int, word: int, order: str) -> int:
    """Return which interface a packet came from, by the first word of its block's body."""
    if kind == _PACKET:  # two bytes of it there, then two that count lost packets
        return word & 0xFFFF if order == "<" else word >> 16
    return 0 if kind == _SIMPLE else word


def _skipped(window: Window, length: int) -> str:
    """Go past a block of no interest that is longer than the window."""
    if window.size - window.rest + length > window.most:
        return "corrupt_block"
    return "" if window.skip(length) else "corrupt_block"


def _frames(data: NDArray[np.uint8], section: _Section, places: list[int]) -> tuple[Frames, bool]:
    """Return the packets of blocks, up to the first whose length contradicts its block, and whether that was all."""
    word = np.dtype(f"{section.order}u4")
    names = ("kind", "length", "interface", "high", "low", "captured", "wire")
    block = np.array(places, np.int64)
    head = at(data, block, np.dtype([(name, word) for name in names]))
    interface, simple = head["interface"].astype(np.int64), head["kind"] == _SIMPLE
    captured, wire = head["captured"].astype(np.int64), head["wire"].astype(np.int64)
    room, start = head["length"].astype(np.int64), block + 28
    ticks = head["high"].astype(np.uint64) << np.uint64(32) | head["low"]
    if simple.any():
        # Its body is the original length and the packet, whose captured length follows from the others.
        cut = np.minimum(np.minimum(interface, section.snaps[0]), room - 16)
        captured, wire = np.where(simple, cut, captured), np.where(simple, interface, wire)
        start, interface = np.where(simple, block + 12, start), np.where(simple, 0, interface)
    for place in np.flatnonzero(head["kind"] == _PACKET):
        interface[place] = _interface(_PACKET, int(interface[place]), section.order)
    sound = simple | (captured <= np.minimum(room - 32, MAX_FRAME))
    count = len(sound) if sound.all() else int(np.argmin(sound))
    time = np.zeros(len(block), np.int64)
    for number in np.unique(interface):
        mine = (interface == number) & ~simple
        time[mine] = nanoseconds(ticks[mine], *section.units[number])
    links = np.array(section.links, np.int64)[interface]
    ends = start + wire_lengths(captured, wire)
    frames = Frames(data, start[:count], (start + captured)[:count], ends[:count], time[:count], links[:count])
    return frames, count == len(sound)


def nanoseconds(ticks: NDArray[np.uint64], resolution: int, origin: int) -> NDArray[np.int64]:
    """Return times in nanoseconds since 1970, exactly where they are whole.

    Args:
        ticks: Since ``origin``.
        resolution: As in the option ``if_tsresol``: a second has ``10 ** r`` ticks, or ``2 ** (r - 128)`` from 128 on.
        origin: Seconds since 1970.
    """
    if resolution < 128:
        # Finer than 10^-18 s a time of 64 bits lasts less than twenty seconds.
        per_second = 10 ** min(resolution, 19)
        seconds, fraction = ticks // np.uint64(per_second), ticks % np.uint64(per_second)
        if resolution <= 9:
            fraction = fraction * np.uint64(10 ** (9 - resolution))
        else:
            fraction = fraction // np.uint64(10 ** (min(resolution, 19) - 9))
    else:
        bits = min(resolution - 128, 63)
        seconds, fraction = ticks >> np.uint64(bits), ticks & np.uint64((1 << bits) - 1)
        spare = max(0, bits - 34)  # 34 bits of a fraction times 10^9 still fit 64
        fraction = (fraction >> np.uint64(spare)) * np.uint64(1_000_000_000) >> np.uint64(bits - spare)
    seconds = np.minimum(seconds, np.uint64(_TIMES_END)).astype(np.int64) + min(max(origin, -_TIMES_END), _TIMES_END)
    return np.clip(seconds, 0, _TIMES_END) * 1_000_000_000 + fraction.astype(np.int64)
