"""Classic capture files: a header of 24 bytes, then records of 16 bytes and a packet each.

Format: https://datatracker.ietf.org/doc/draft-ietf-opsawg-pcap/
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from domains.network.capture.frames import MAX_FRAME, Frames, at, padded, wire_lengths
from domains.network.capture.link import check_link
from domains.network.capture.window import Notes, Window
from hub.errors import InvalidInput

MAGICS = {
    b"\xd4\xc3\xb2\xa1": ("<", 1_000),
    b"\xa1\xb2\xc3\xd4": (">", 1_000),
    b"\x4d\x3c\xb2\xa1": ("<", 1),
    b"\xa1\xb2\x3c\x4d": (">", 1),
}
"""First four bytes: byte order, and nanoseconds of one unit of a record's fraction of a second."""
_HEADER, _RECORD = 24, 16
_LINK = 0x03FF_FFFF


def read_pcap(window: Window, notes: Notes) -> Iterator[Frames]:
    """Yield the packets of a classic capture, stretch by stretch; damage ends it and is noted.

    Args:
        window: At the start of the file, with its first bytes read; the magic number is known.
        notes: Where damage is told.

    Raises:
        InvalidInput: The header is cut, its version unknown, or its link type not one that is read.
    """
    if window.rest < _HEADER:
        raise InvalidInput(
            f"a capture whose header is cut: {window.rest} of {_HEADER} bytes are there", code="truncated_header"
        )
    order, unit = MAGICS[window.data[:4]]
    major, minor, link = struct.unpack_from(f"{order}HH12xI", window.data, 4)
    if major != 2:
        raise InvalidInput(f"a capture of version {major}.{minor}; version 2 is read", code="bad_version")
    check_link(link & _LINK)
    window.start = _HEADER
    record = np.dtype([("seconds", f"{order}u4"), ("fraction", f"{order}u4"), ("captured", f"{order}u4"),
                       ("wire", f"{order}u4")])  # fmt: skip
    while True:
        places, sound = _records(window, order)
        if places:
            data, start = padded(window.data), np.array(places, np.int64) + _RECORD
            head = at(data, start - _RECORD, record)
            length = head["captured"].astype(np.int64)
            time = head["seconds"].astype(np.int64) * 1_000_000_000 + head["fraction"].astype(np.int64) * unit
            wire = start + wire_lengths(length, head["wire"].astype(np.int64))
            yield Frames(data, start, start + length, wire, time, np.full(len(start), link & _LINK))
        if not sound:
            notes.add("corrupt_record", "A record announces an impossible length; the packets before it are used.")
            return
        if not window.refill():
            if window.rest:
                notes.add("truncated_tail", "The file ends within a packet; the packets before it are used.")
            return


def _records(window: Window, order: str) -> tuple[list[int], bool]:
    """Return where whole records begin, moving the window past them, and whether the next one may still come."""
    length_of, data, place = struct.Struct(f"{order}I").unpack_from, window.data, window.start
    end, places, sound = len(data), [], True
    while place + _RECORD <= end:
        (length,) = length_of(data, place + 8)
        following = place + _RECORD + length
        if following > end or length > MAX_FRAME:
            sound = length <= MAX_FRAME
            break
        places.append(place)
        place = following
    window.start = place
    return places, sound
