"""Which audio container some bytes are, and what its header promises, found out before anything is decoded.

libsndfile reads what is there when a file is cut off, and reads nonsense from a corrupt header; both are
caught here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

from hub.errors import InvalidInput, UnsupportedFormat

READABLE = "WAV, FLAC, OGG (Vorbis or Opus), MP3, AIFF and NIST SPHERE"
MP3_SEARCH = 8_192
"""Bytes after a tag in which the first MP3 frame must start; some writers pad."""
MAX_CHUNKS = 1_000

# Containers that people have and libsndfile does not read: the message should name them.
_FOREIGN = (
    (4, b"ftyp", "MP4/M4A (AAC)"),
    (0, b"\x1a\x45\xdf\xa3", "WebM/Matroska"),
    (0, b"#!AMR", "AMR"),
    (0, b"\x30\x26\xb2\x75", "WMA"),
)
_BITS = {1: (8, 16, 24, 32), 3: (32, 64)}  # WAV format tag (1 PCM, 3 float) to its sample widths
_STREAMED = (0, 0xFFFFFFFF)


@dataclass(frozen=True)
class WavLayout:
    """Where a WAV file's audio lies.

    Attributes:
        frame_bytes: Bytes of one frame over all channels; of one block for compressed codecs.
        size_offset: Where the data chunk's size stands.
        data_offset: Where the audio starts.
        announced: Bytes of audio that the header promises; ``None`` when a pipe left them open.
        present: Bytes of audio that are there.
    """

    frame_bytes: int
    size_offset: int
    data_offset: int
    announced: int | None
    present: int


def identify(stream: BinaryIO) -> str:
    """Return the container by content: ``wav``, ``flac``, ``ogg``, ``mp3``, ``aiff`` or ``nist``.

    Raises:
        UnsupportedFormat: It is none of them; a known other format is named.
    """
    stream.seek(0)
    head = stream.read(16)
    if head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] == b"WAVE":
        return "wav"
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "aiff"
    if head[:4] == b"OggS":
        return "ogg"
    if head[:7] == b"NIST_1A":
        return "nist"
    start = _after_id3(stream, head)
    stream.seek(start)
    head_after_tag = stream.read(MP3_SEARCH + 4_096)
    if head_after_tag[:4] == b"fLaC":
        return "flac"
    if _has_mp3_frames(head_after_tag):
        return "mp3"
    for offset, magic, name in _FOREIGN:
        if head[offset : offset + len(magic)] == magic:
            raise UnsupportedFormat(f"this is {name}, which is not read; convert it to one of {READABLE}")
    if start:
        raise InvalidInput("an ID3 tag, but no MP3 audio follows it", code="no_audio")
    raise UnsupportedFormat(f"not a supported audio file; {READABLE} are read")


def wav_layout(stream: BinaryIO, size: int) -> WavLayout:
    """Walk the chunks of a WAV file up to its audio.

    Args:
        stream: The file.
        size: Its length in bytes.

    Raises:
        InvalidInput: The header is cut off or contradicts itself, or there is no audio.
        UnsupportedFormat: Its sample format is not known.
    """
    stream.seek(0)
    order = ">" if stream.read(4) == b"RIFX" else "<"
    position, frame_bytes, long_size = 12, None, None
    for _ in range(MAX_CHUNKS):
        stream.seek(position)
        head = stream.read(8)
        if len(head) < 8:
            break
        name, length = struct.unpack(f"{order}4sI", head)
        if name == b"fmt ":
            frame_bytes = _check_format(stream.read(min(length, 40)), order)
        elif name == b"ds64":
            body = stream.read(16)
            long_size = struct.unpack("<8xQ", body)[0] if len(body) == 16 else None
        elif name == b"data":
            if frame_bytes is None:
                raise InvalidInput("the WAV file has no format chunk before its audio", code="damaged")
            present = size - position - 8
            announced = long_size if length == 0xFFFFFFFF and long_size else length
            # A writer that cannot seek back (a pipe) leaves 0 or the largest number where the size belongs.
            open_ended = announced in _STREAMED and present > 0
            return WavLayout(frame_bytes, position + 4, position + 8, None if open_ended else announced, present)
        position += 8 + length + length % 2
    raise InvalidInput("the WAV file ends before its audio starts", code="truncated")


def _check_format(body: bytes, order: str) -> int:
    """Check a WAV format chunk and return the bytes of one frame."""
    if len(body) < 16:
        raise InvalidInput("the WAV format chunk is cut off", code="truncated")
    tag, channels, rate, _, frame_bytes, bits = struct.unpack(f"{order}HHIIHH", body[:16])
    if tag == 0xFFFE and len(body) >= 26:  # extensible: the real tag heads a GUID
        tag = struct.unpack(f"{order}H", body[24:26])[0]
    if channels == 0:
        raise InvalidInput("the header says 0 channels; at least 1 is needed", code="bad_header")
    if rate == 0:
        raise InvalidInput("the header says a sampling rate of 0 Hz", code="bad_header")
    if tag in _BITS and (bits not in _BITS[tag] or frame_bytes != channels * bits // 8):
        raise InvalidInput(
            f"the header says {bits} bits a sample in frames of {frame_bytes} bytes for {channels} channels, "
            "which no WAV encoding has",
            code="bad_header",
        )
    if frame_bytes == 0:
        raise InvalidInput("the header says frames of 0 bytes", code="bad_header")
    return frame_bytes


def missing_bytes(stream: BinaryIO, size: int, container: str) -> int:
    """Return how many bytes an AIFF or NIST SPHERE file lacks of what its header promises."""
    stream.seek(0)
    if container == "aiff":
        return max(0, struct.unpack(">4xI", stream.read(8))[0] + 8 - size)
    fields = {}
    for line in stream.read(1024).split(b"\n"):
        parts = line.split()
        if len(parts) == 3 and parts[1] == b"-i" and parts[2].isdigit():
            fields[parts[0]] = int(parts[2])
    frame = fields.get(b"channel_count", 1) * fields.get(b"sample_n_bytes", 1)
    return max(0, 1024 + fields.get(b"sample_count", 0) * frame - size)


def ogg_is_complete(stream: BinaryIO, size: int) -> bool:
    """Tell whether the last page of an OGG stream is marked as the end."""
    stream.seek(max(0, size - 65_536 - 282))  # the largest page there can be
    tail = stream.read()
    page = tail.rfind(b"OggS")
    if page < 0 or len(tail) < page + 27:
        return False
    segments = tail[page + 27 : page + 27 + tail[page + 26]]
    return bool(tail[page + 5] & 4) and len(tail) >= page + 27 + len(segments) + sum(segments)


def _after_id3(stream: BinaryIO, head: bytes) -> int:
    """Return where the content starts behind an ID3v2 tag; 0 when there is none."""
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    length = 0
    for byte in head[6:10]:
        length = length << 7 | byte & 0x7F
    return 10 + length


def _has_mp3_frames(data: bytes) -> bool:
    """Tell whether two MP3 frames follow each other within the search window.

    One header alone is only 11 fixed bits: random bytes hold one soon.
    """
    position = data.find(b"\xff")
    while 0 <= position < MP3_SEARCH:
        length = _mp3_frame_bytes(data[position : position + 4])
        if length and (len(data) == position + length or _mp3_frame_bytes(data[position + length :][:4])):
            return True
        position = data.find(b"\xff", position + 1)
    return False


def _mp3_frame_bytes(header: bytes) -> int:
    """Return the length of the MPEG layer III frame with this header; 0 when it is none."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return 0
    version, layer = header[1] >> 3 & 3, header[1] >> 1 & 3
    bitrate, rate, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or layer != 1 or bitrate in (0, 15) or rate == 3:
        return 0
    first = version == 3
    kilobits = (
        (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
        if first
        else (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
    )[bitrate - 1]
    hertz = (44_100, 48_000, 32_000)[rate] // {3: 1, 2: 2, 0: 4}[version]
    return (144_000 if first else 72_000) * kilobits // hertz + padding
