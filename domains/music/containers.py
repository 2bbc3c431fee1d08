"""What an audio file is by its first bytes, and what its header promises, before anything is decoded.

libsndfile reads on silently where a WAV or AIFF file is cut off, and guesses at formats that nobody meant; both are
caught here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

from hub.errors import InvalidInput, UnsupportedFormat

READABLE = "WAV, AIFF, FLAC, OGG (Vorbis or Opus) and MP3"
OPEN_ENDED = 0xFFFFFFFF
"""Size that a writer leaves in a WAV header when it cannot seek back, as into a pipe."""
MAX_CHUNKS = 1_000
OGG_LARGEST_PAGE = 65_307
_FOREIGN = {
    b"\x1a\x45\xdf\xa3": "WebM or Matroska",
    b"\x30\x26\xb2\x75": "WMA",
    b"MThd": "a MIDI file, which holds notes and no sound",
    b"wvpk": "WavPack",
    b"MAC ": "Monkey's Audio",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
}


def identify(head: bytes) -> str:
    """Return ``wav``, ``aiff``, ``flac``, ``ogg``, ``mp3`` or ``m4a``.

    Args:
        head: The first 16 bytes at least.

    Raises:
        UnsupportedFormat: It is none of them; other formats that people have are named.
    """
    if head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] == b"WAVE":
        return "wav"
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "aiff"
    if head[:4] == b"OggS":
        return "ogg"
    if head[:4] == b"fLaC":
        return "flac"
    if head[4:8] == b"ftyp":
        return "m4a"
    for magic, name in _FOREIGN.items():
        if head.startswith(magic):
            raise UnsupportedFormat(f"this is {name}; {READABLE} are read")
    # A tag, or the eleven set bits and the layer that start a frame; whether more follows, the decoder finds out.
    if head[:3] == b"ID3" or (len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0 and head[1] & 0x06):
        return "mp3"
    raise UnsupportedFormat(f"not a supported audio file; {READABLE} are read")


def check_wav(stream: BinaryIO, size: int) -> None:
    """Hold what a WAV header promises against the bytes there are.

    Args:
        stream: The file.
        size: Its length in bytes.

    Raises:
        InvalidInput: The header contradicts itself, or audio is missing.
    """
    stream.seek(0)
    order = ">" if stream.read(4) == b"RIFX" else "<"
    described, long_size = False, None
    for name, start, length in _chunks(stream, order):
        if name == b"fmt ":
            _check_wav_format(stream.read(min(length, 16)), order)
            described = True
        elif name == b"ds64" and length >= 16:
            long_size = struct.unpack("<8xQ", stream.read(16).ljust(16, b"\0"))[0]
        elif name == b"data":
            if not described:
                raise InvalidInput("the WAV file has no format chunk before its audio", code="damaged")
            announced = long_size if length == OPEN_ENDED and long_size else length
            if announced != OPEN_ENDED:
                _check_present(announced, size - start)
            return
    raise InvalidInput("the WAV file ends before its audio starts", code="truncated")


def check_aiff(stream: BinaryIO, size: int) -> None:
    """Hold what an AIFF header promises against the bytes there are; see `check_wav`."""
    for name, start, length in _chunks(stream, ">"):
        if name == b"SSND":
            _check_present(length, size - start)
            return
    raise InvalidInput("the AIFF file ends before its audio starts", code="truncated")


def ogg_is_complete(stream: BinaryIO, size: int) -> bool:
    """Tell whether the last page of an OGG stream is whole and marked as the end."""
    stream.seek(max(0, size - OGG_LARGEST_PAGE))
    tail = stream.read()
    page = tail.rfind(b"OggS")
    if page < 0 or len(tail) < page + 27:
        return False
    segments = tail[page + 27 : page + 27 + tail[page + 26]]
    return bool(tail[page + 5] & 4) and len(tail) >= page + 27 + len(segments) + sum(segments)


def _chunks(stream: BinaryIO, order: str) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and length of the chunks of a RIFF or FORM file; the stream stands at their start."""
    position = 12
    for _ in range(MAX_CHUNKS):
        stream.seek(position)
        head = stream.read(8)
        if len(head) < 8:
            return
        name, length = struct.unpack(f"{order}4sI", head)
        yield name, position + 8, length
        position += 8 + length + length % 2


def _check_wav_format(body: bytes, order: str) -> None:
    if len(body) < 16:
        raise InvalidInput("the WAV format chunk is cut off", code="truncated")
    _, channels, rate, _, frame_bytes, _ = struct.unpack(f"{order}HHIIHH", body)
    for value, what in ((channels, "channels"), (rate, "Hz sampling rate"), (frame_bytes, "bytes a frame")):
        if value == 0:
            raise InvalidInput(f"the WAV header says 0 {what}", code="bad_header")


def _check_present(announced: int, present: int) -> None:
    if announced > present:
        raise InvalidInput(
            f"the file is cut off: its header announces {announced:,} bytes of audio, of which {present:,} are there",
            code="truncated",
        )
