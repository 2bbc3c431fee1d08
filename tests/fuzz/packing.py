"""Archives and checksums, so that damage gets behind them: ZIP, gzip, MATLAB's zlib blocks, PNG, OGG."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
import zlib
from dataclasses import dataclass
from random import Random

_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass
class Packed:
    """What was unpacked, to be changed and closed again.

    Attributes:
        kind: ``zip``, ``gzip`` or ``matlab``.
        members: Name to content.
        head: What stood before them.
    """

    kind: str
    members: dict[str, bytes]
    head: bytes = b""

    def closed(self, random: Random) -> bytes:
        """Pack everything again, with checksums that fit."""
        if self.kind == "gzip":
            return b"".join(gzip.compress(m, 6, mtime=0) for m in self.members.values())
        if self.kind == "matlab":
            blocks = (zlib.compress(m) for m in self.members.values())
            return self.head + b"".join(struct.pack("<II", 15, len(b)) + b for b in blocks)
        buffer = io.BytesIO()
        method = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
        with zipfile.ZipFile(buffer, "w", method) as archive:
            for name, content in self.members.items():
                entry = zipfile.ZipInfo(name)
                entry.compress_type = method
                if random.random() < 0.02:
                    entry.external_attr = 0o120777 << 16  # a symbolic link
                archive.writestr(entry, content)
        return buffer.getvalue()


def packed_of(content: bytes) -> Packed | None:
    """Return what an undamaged archive holds, or ``None`` for anything else."""
    try:
        if content.startswith(b"PK\x03\x04"):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                members = {e.filename: archive.read(e) for e in archive.infolist() if e.file_size < 1 << 22}
            return Packed("zip", members) if members else None
        if content.startswith(b"\x1f\x8b"):
            return Packed("gzip", {"": zlib.decompressobj(31).decompress(content, 1 << 22)})
        if content.startswith(b"MATLAB 5.0"):
            return _matlab(content)
    except (zipfile.BadZipFile, zlib.error, ValueError, NotImplementedError, RuntimeError, EOFError, OSError):
        pass
    return None


def _matlab(content: bytes) -> Packed | None:
    blocks: dict[str, bytes] = {}
    at = 128
    while at + 8 <= len(content):
        kind, size = struct.unpack_from("<II", content, at)
        if kind != 15:
            return None
        blocks[str(at)] = zlib.decompress(content[at + 8 : at + 8 + size])
        at += 8 + size
    return Packed("matlab", blocks, content[:128]) if blocks else None


def sealed(content: bytes) -> bytes:
    """Put right the checksums of a PNG's chunks and of an OGG's pages; anything else comes back as it is."""
    if content.startswith(_PNG):
        return _sealed_png(content)
    if content.startswith(b"OggS"):
        return _sealed_ogg(content)
    return content


def _sealed_png(content: bytes) -> bytes:
    changed, at = bytearray(content), len(_PNG)
    while at + 12 <= len(content):
        (size,) = struct.unpack_from(">I", content, at)
        end = at + 8 + size
        if end + 4 > len(content):
            break
        struct.pack_into(">I", changed, end, zlib.crc32(content[at + 4 : end]))
        at = end + 4
    return bytes(changed)


def _table() -> list[int]:
    table = []
    for byte in range(256):
        rest = byte << 24
        for _ in range(8):
            rest = (rest << 1 ^ 0x04C11DB7 if rest & 1 << 31 else rest << 1) & 0xFFFFFFFF
        table.append(rest)
    return table


_OGG_TABLE = _table()
"""Of the CRC of OGG pages (RFC 3533): polynomial 0x04c11db7, not reflected."""


def _sealed_ogg(content: bytes) -> bytes:
    changed, at = bytearray(content), 0
    while content[at : at + 4] == b"OggS" and at + 27 <= len(content):
        lacing = content[at + 27 : at + 27 + content[at + 26]]
        end = min(at + 27 + len(lacing) + sum(lacing), len(content))
        changed[at + 22 : at + 26] = bytes(4)
        rest = 0
        for byte in changed[at:end]:
            rest = (rest << 8 & 0xFFFFFFFF) ^ _OGG_TABLE[rest >> 24 ^ byte]
        struct.pack_into("<I", changed, at + 22, rest)
        at = end
    return bytes(changed)
