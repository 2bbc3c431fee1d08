"""Messages on a stream socket: a head, usually small, and a block of bytes that lands in one piece of memory."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Sequence

import numpy as np

_LENGTHS = struct.Struct("<QQ")
ALIGNMENT = 64
"""Of arrays in the block, within it: a cache line."""
_PIECES_AT_ONCE = 512
"""The kernel takes at most 1,024 pieces a call."""

_FIRST = 1 << 16

Wait = Callable[[bool], None]
"""Called before each access to the socket, with whether it is to write; raises when there is no point in waiting."""


class FrameTooLarge(ValueError):
    """A message announces more bytes than are taken."""


class Closed(ConnectionError):
    """The other side has gone."""


def _at_once(_: bool) -> None:
    """Leave the waiting to a blocking socket."""


def send(connection: socket.socket, head: bytes, pieces: Sequence[memoryview] = (), wait: Wait = _at_once) -> None:
    """Send a message.

    Args:
        connection: Where to.
        head: First part; it may get spaces at its end, so that what follows is aligned.
        pieces: Second part, joined on the way.
        wait: Waits until the socket takes more; not needed with a blocking one.

    Raises:
        OSError: The other side has gone.
    """
    size = sum(len(p) for p in pieces)
    if size:
        head += b" " * (-len(head) % ALIGNMENT)
    left = [memoryview(_LENGTHS.pack(len(head), size) + head), *pieces]
    while left:
        wait(True)
        sent = connection.sendmsg(left[:_PIECES_AT_ONCE])
        done = 0
        while done < len(left) and sent >= len(left[done]):
            sent -= len(left[done])
            done += 1
        del left[:done]
        if sent:
            left[0] = left[0][sent:]


def receive(connection: socket.socket, most: int, wait: Wait = _at_once) -> tuple[bytes, np.ndarray]:
    """Return the head and the block, ``(bytes,)`` uint8, of the next message.

    There must be no more than one message on its way: each side answers before it is asked again.

    Args:
        connection: Where from.
        most: Bytes taken; nothing is allocated for a message that announces more.
        wait: Waits until there is something to read; not needed with a blocking socket.

    Raises:
        Closed: The other side has gone.
        FrameTooLarge: The message announces more than ``most``, or is longer than it announces.
    """
    start = b""
    while len(start) < _LENGTHS.size:
        wait(False)
        # Most messages are here with one call.
        part = connection.recv(_FIRST)
        if not part:
            raise Closed("the other side has gone")
        start += part
    head, size = _LENGTHS.unpack_from(start)
    if head + size > most:
        raise FrameTooLarge(f"a message of {head + size:,} bytes; at most {most:,} are taken")
    # Not a bytearray, which would be filled with zeros first.
    found = np.empty(head + size, np.uint8)
    got = len(start) - _LENGTHS.size
    if got > len(found):
        raise FrameTooLarge("a message is longer than it announces")
    found[:got] = np.frombuffer(start, np.uint8, got, _LENGTHS.size)
    view = found.data
    while got < len(found):
        wait(False)
        count = connection.recv_into(view[got:])
        if not count:
            raise Closed("the other side has gone")
        got += count
    return found[:head].tobytes(), found[head:]
