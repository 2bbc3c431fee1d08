"""The bytes of a capture, decompressed where they are compressed, a few mebibytes at a time."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from hub.doubts import Doubt
from hub.errors import TooLarge
from hub.reading import Source

CHUNK = 1 << 22
"""Bytes read at once: about ten thousand packets, enough that what is done once a chunk does not show."""
FLAG_OF = {
    "truncated_tail": "truncated",
    "corrupt_record": "damaged",
    "corrupt_block": "damaged",
    "flows_closed_early": "split_part",
    "unsupported_link_type": "dropped_part",
    "snapped": "cut_values",
}
"""Flag of each kind of damage; see `hub.doubts.FLAGS`."""
_PIECE = 1 << 17
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_FREE_EXPANSION = 1 << 26


@dataclass
class Notes:
    """What is to be said about a capture although it is read: one sentence a kind of damage.

    Attributes:
        texts: Sentence by code, such as ``truncated_tail``.
    """

    texts: dict[str, str] = field(default_factory=dict)

    def add(self, code: str, text: str) -> None:
        """Keep a sentence, the first of its code."""
        self.texts.setdefault(code, text)

    def sentences(self) -> tuple[Doubt, ...]:
        """Return the sentences, each with its own code at the end and the flag that it falls under."""
        return tuple(Doubt(f"{text} ({code})", FLAG_OF[code]) for code, text in self.texts.items())


class Window:
    """A stretch of a capture that moves on; see `refill`.

    Attributes:
        data: The stretch.
        start: Where in it reading goes on; whoever reads moves it.
        size: Bytes seen so far.
    """

    def __init__(self, source: Source, notes: Notes, max_bytes: int, max_expansion: int) -> None:
        """Open a source.

        Args:
            source: The file.
            notes: Where damage of the compression is told.
            max_bytes: Most bytes, after decompression.
            max_expansion: Most bytes a compressed byte, beyond the first 64 MiB.

        Raises:
            TooLarge: The file itself is larger than that.
        """
        self.notes, self.max_bytes = notes, max_bytes
        stored = source.size
        if stored > max_bytes:
            raise TooLarge(f"the file has {stored:,} bytes; at most {max_bytes:,} are read")
        self.most = max_bytes
        self.stream: Any = source.open()
        head = source.head(4)
        if head.startswith(_GZIP):
            self.stream = gzip.GzipFile(fileobj=self.stream)
        elif head == _ZSTD:
            self.stream = pa.CompressedInputStream(self.stream, "zstd")
        if head.startswith(_GZIP) or head == _ZSTD:
            self.most = min(max_bytes, max(_FREE_EXPANSION, stored * max_expansion))
        self.data, self.start, self.size, self.ended = b"", 0, 0, False

    def __enter__(self) -> Window:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.stream.close()

    @property
    def rest(self) -> int:
        """Bytes of the stretch that are still to be read."""
        return len(self.data) - self.start

    def refill(self) -> bool:
        """Move on by up to ``CHUNK`` bytes, keeping what is not read yet, and return whether there was more.

        Raises:
            TooLarge: There are more bytes than the limits allow.
        """
        parts, got = [self.data[self.start :]], 0
        while got < CHUNK and not self.ended:
            part = self._read(min(CHUNK - got, _PIECE))
            got += len(part)
            parts.append(part)
        self.size += got
        if self.size > self.most:
            raise TooLarge(
                f"more than {self.most:,} bytes come out of the compressed file; decompress it first, if that is meant"
            )
        self.data, self.start = b"".join(parts), 0
        return got > 0

    def skip(self, count: int) -> bool:
        """Go on ``count`` bytes ahead, without keeping what lies between; False if the file ends before."""
        while count > self.rest:
            count -= self.rest
            self.start = len(self.data)
            if not self.refill():
                return False
        self.start += count
        return True

    def _read(self, size: int) -> bytes:
        try:
            part = self.stream.read1(size)
        except (EOFError, OSError, zlib.error):
            self.notes.add(
                "truncated_tail", "The compressed data end early or are damaged; the packets up to there are used."
            )
            part = b""
        self.ended = not part
        return part
