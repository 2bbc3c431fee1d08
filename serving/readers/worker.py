"""A reader process: it reads and prepares what the server sends it, turn by turn, until one of the two goes."""

from __future__ import annotations

import importlib
import mmap
import os
import pickle
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hub.embedder import Intake
from hub.errors import InvalidInput
from serving.allocator import give_back
from serving.errors import InputFailed, SpoolFull
from serving.inputs import Input
from serving.logs import without_content
from serving.readers import frames, wire
from serving.readers.caps import TIRED_SHARE, Caps, data_bytes
from serving.readers.stream import Order, ReadingStream, blamed

PLACE = struct.Struct("<q")
"""Index of the input at hand, in memory that the server sees even when the process has died."""
NO_PLACE = -1
LOOK_EVERY = 16
"""Streams after which it is looked how much memory is taken, which costs as much as reading a small input."""
ANY_SIZE = 1 << 62


@dataclass(frozen=True)
class TurnRequest:
    """Go on with a stream.

    Attributes:
        stream: Its number.
        intake: Number of the model's reader and processor.
        order: What to read, when it is new.
    """

    stream: int
    intake: int
    order: Order | None


@dataclass(frozen=True)
class CallRequest:
    """Call a function on an input.

    Attributes:
        function: ``module:name``.
        intake: Number of the model's reader and processor.
        item: The input.
        place: Where in the request it stands.
        options: Further arguments by name.
    """

    function: str
    intake: int
    item: Input
    place: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class DropRequest:
    """Let go of a stream."""

    stream: int


Request = TurnRequest | CallRequest | DropRequest


def dumps(request: Request) -> tuple[bytes, list[memoryview]]:
    """Return a request as a message; the contents of files are not copied."""
    pieces: list[memoryview] = []
    head = pickle.dumps(request, protocol=5, buffer_callback=lambda b: pieces.append(b.raw()))
    return pickle.dumps((head, [len(p) for p in pieces])), pieces


def _loads(head: bytes, block: Any) -> Request:
    # From the server, which is trusted.
    inner, sizes = pickle.loads(head)  # nosec B301
    contents, start = [], 0
    for size in sizes:
        # Readers take bytes, not views.
        contents.append(block[start : start + size].tobytes())
        start += size
    return pickle.loads(inner, buffers=contents)  # nosec B301


def call(function: str, intake: Intake, item: Input, place: str, options: Mapping[str, Any], caps: Caps) -> Any:
    """Return what a function makes of an input.

    Args:
        function: ``module:name``, called as ``(intake, item, place, **options)``.
        intake: Reads it.
        item: The input.
        place: Where in the request it stands, for messages.
        options: Further arguments by name.
        caps: On what it may take.

    Raises:
        InputFailed: The input cannot be read, or the function refuses it.
    """
    module, _, name = function.partition(":")
    label = item.filename or place
    try:
        return getattr(importlib.import_module(module), name)(intake, item, place, **options)
    except InvalidInput as error:
        raise InputFailed(error.at(label), param=place) from None
    except Exception as error:
        raise InputFailed(blamed(error, label, caps), param=place) from error


class Worker:
    """The loop of a reader process."""

    def __init__(self, intakes: Mapping[int, Intake], caps: Caps, shown: mmap.mmap) -> None:
        """Prepare to work.

        Args:
            intakes: Readers and processors by number.
            caps: On what one input may take.
            shown: Memory that the server sees too.
        """
        self._intakes = intakes
        self._caps = caps
        self._shown = shown
        self._streams: dict[int, ReadingStream] = {}
        self._rest = data_bytes()
        self._finished = 0

    def serve(self, connection: socket.socket) -> None:
        """Answer requests until the server goes."""
        while True:
            try:
                request = _loads(*frames.receive(connection, ANY_SIZE))
            except (frames.Closed, ConnectionError):
                return
            try:
                head, pieces = wire.encode(self._answer(request))
            except InputFailed as error:
                head, pieces = wire.encode({"failed": _told(error), "param": error.param})
            except Exception as error:
                head, pieces = wire.encode({"failed": ["unforeseen", without_content(error)], "param": None})
            frames.send(connection, head, pieces)

    def _answer(self, request: Request) -> dict[str, Any]:
        if isinstance(request, DropRequest):
            self._streams.pop(request.stream, None)
            return {}
        return self._turn(request) if isinstance(request, TurnRequest) else self._call(request)

    def _turn(self, request: TurnRequest) -> dict[str, Any]:
        if request.order is not None:
            self._streams[request.stream] = ReadingStream(
                self._intakes[request.intake], request.order, self._caps, self._show
            )
        stream = self._streams[request.stream]
        finished = True
        try:
            turn = stream.turn()
            finished = turn.finished
        finally:
            if finished:
                del self._streams[request.stream]
        return {
            "prepared": turn.prepared,
            "finished": finished,
            "seconds": turn.seconds,
            "tired": finished and self._tired(),
        }

    def _call(self, request: CallRequest) -> dict[str, Any]:
        intake = self._intakes[request.intake]
        result = call(request.function, intake, request.item, request.place, request.options, self._caps)
        return {"result": result, "tired": self._tired()}

    def _tired(self) -> bool:
        """Return whether memory stayed taken, by leaks or in pieces too small to be given back; looked at seldom."""
        most = self._caps.memory_bytes
        self._finished += 1
        if self._streams or self._finished % LOOK_EVERY:
            return False
        give_back()
        if most is None:
            return False
        return data_bytes() - self._rest > most // TIRED_SHARE

    def _show(self, index: int) -> None:
        PLACE.pack_into(self._shown, 0, index)


def _told(error: InputFailed) -> list[Any]:
    cause = error.cause
    if isinstance(cause, InvalidInput):
        return ["refused", cause]
    if isinstance(cause, SpoolFull):
        return ["no_room"]
    return ["unforeseen", without_content(cause)]


def work(connection: int, shown: int, intakes: Mapping[int, Intake], caps: Caps) -> None:
    """Be a reader process.

    Args:
        connection: Descriptor of the socket to the server.
        shown: Descriptor of the memory that the server sees.
        intakes: Readers and processors by number.
        caps: On what one input may take.
    """
    with mmap.mmap(shown, PLACE.size) as memory:
        os.close(shown)
        Worker(intakes, caps, memory).serve(socket.socket(fileno=connection))
