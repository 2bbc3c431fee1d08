"""Where the formats keep sizes, counts, types and scales: (offset, `struct` format, or ``aN`` for N bytes of text)."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

Places = list[tuple[int, str]]
MOST = 200
"""Places listed of one file."""


def fields_of(content: bytes) -> Places:
    """Return the fields of a header that is recognised, else nothing."""
    for is_it, places in _FORMATS:
        if is_it(content):
            try:
                found = places(content)
            except (struct.error, ValueError, IndexError):  # of a file that was damaged before
                return []
            return [(at, form) for at, form in found[:MOST] if 0 <= at and at + _size(form) <= len(content)]
    return []


def _size(form: str) -> int:
    return int(form[1:]) if form[0] == "a" else struct.calcsize(form)


def _wav(content: bytes) -> Places:
    order = ">" if content[:4] == b"RIFX" else "<"
    found, at = [(4, f"{order}I")], 12
    while at + 8 <= len(content) and len(found) < MOST:
        (size,) = struct.unpack_from(f"{order}I", content, at + 4)
        found.append((at + 4, f"{order}I"))
        if content[at : at + 4] == b"fmt ":
            widths = ("H", "H", "I", "I", "H", "H", "H", "H", "I", "H")
            start = at + 8
            for width in widths:
                found.append((start, order + width))
                start += struct.calcsize(width)
        if content[at : at + 4] == b"ds64":
            found += [(at + 8 + 8 * n, f"{order}Q") for n in range(3)]
        at += 8 + size + size % 2
    return found


def _aiff(content: bytes) -> Places:
    found, at = [(4, ">I")], 12
    while at + 8 <= len(content) and len(found) < MOST:
        (size,) = struct.unpack_from(">I", content, at + 4)
        found.append((at + 4, ">I"))
        if content[at : at + 4] == b"COMM":
            found += [(at + 8, ">H"), (at + 10, ">I"), (at + 14, ">H"), (at + 16, ">H"), (at + 18, ">Q")]
        if content[at : at + 4] == b"SSND":
            found += [(at + 8, ">I"), (at + 12, ">I")]
        at += 8 + size + size % 2
    return found


def _flac(_: bytes) -> Places:
    return [(4, ">I"), (8, ">H"), (10, ">H"), (12, ">I"), (15, ">I"), (18, ">I"), (21, ">Q"), (42, ">I"), (46, ">I")]


def _ogg(content: bytes) -> Places:
    pages = [match.start() for match in re.finditer(b"OggS", content)]
    found = [
        (page + at, form) for page in pages for at, form in ((4, "<B"), (5, "<B"), (6, "<Q"), (18, "<I"), (26, "<B"))
    ]
    found += [(28 + at, form) for at, form in ((7, "<I"), (11, "<B"), (12, "<I"), (16, "<I"), (28, "<B"))]
    return found + [(28 + at, form) for at, form in ((8, "<B"), (9, "<B"), (10, "<H"), (12, "<I"), (16, "<H"))]


def _edf(content: bytes) -> Places:
    signals = (len(content) // 256 - 1) if not content[252:256].strip().isdigit() else int(content[252:256])
    found = [(0, "a8"), (168, "a8"), (176, "a8"), (184, "a8"), (192, "a44"), (236, "a8"), (244, "a8"), (252, "a4")] * 3
    at = 256
    for width in (16, 80, 8, 8, 8, 8, 8, 80, 8, 32):
        found += [(at + n * width, f"a{width}") for n in range(min(signals, 4))]
        at += width * signals
    return found


def _nifti(content: bytes) -> Places:
    order = "<" if content[:1] in (b"\x5c", b"\x1c") else ">"
    if content[:2] in (b"\x1c\x02", b"\x00\x00"):
        found = [(12, f"{order}h"), (14, f"{order}h"), (168, f"{order}q"), (176, f"{order}d"), (184, f"{order}d")]
        found += [(16 + 8 * n, f"{order}q") for n in range(8)] + [(104 + 8 * n, f"{order}d") for n in range(8)]
        return found + [(344, f"{order}i"), (348, f"{order}i")] + [(400 + 8 * n, f"{order}d") for n in range(12)]
    found = [(0, f"{order}i"), (70, f"{order}h"), (72, f"{order}h"), (108, f"{order}f"), (123, "<B")]
    found += [(40 + 2 * n, f"{order}h") for n in range(8)] + [(76 + 4 * n, f"{order}f") for n in range(8)]
    found += [(112, f"{order}f"), (116, f"{order}f"), (252, f"{order}h"), (254, f"{order}h"), (348, f"{order}i")]
    return found + [(256 + 4 * n, f"{order}f") for n in range(18)] + [(344, "a4")]


_DICOM_TAGS = (
    0x0002_0000, 0x0002_0010, 0x0028_0002, 0x0028_0004, 0x0028_0006, 0x0028_0008, 0x0028_0010, 0x0028_0011,
    0x0028_0030, 0x0028_0100, 0x0028_0101, 0x0028_0102, 0x0028_0103, 0x0028_1050, 0x0028_1051, 0x0028_1052,
    0x0028_1053, 0x0020_0032, 0x0020_0037, 0x0020_0013, 0x0020_000E, 0x0018_0050, 0x0018_0088, 0x0008_0005,
    0x0008_0060, 0x7FE0_0010, 0x5200_9229, 0x5200_9230,
)  # fmt: skip


def _dicom(content: bytes) -> Places:
    found: Places = []
    for tag in _DICOM_TAGS:
        at = content.find(struct.pack("<HH", tag >> 16, tag & 0xFFFF), 132)
        if at < 0 or at + 12 > len(content):
            continue
        found.append((at + 4, "a2"))  # the kind of value
        if content[at + 4 : at + 6] in (b"OB", b"OW", b"SQ", b"UN", b"UT"):
            found.append((at + 8, "<I"))
            continue
        (size,) = struct.unpack_from("<H", content, at + 6)
        found.append((at + 6, "<H"))
        found.append((at + 8, "<H") if content[at + 4 : at + 6] == b"US" else (at + 8, f"a{max(1, min(size, 64))}"))
    return found


def _tiff(content: bytes) -> Places:
    order = "<" if content[:2] == b"II" else ">"
    big = content[2:4] in (b"\x2b\x00", b"\x00\x2b")
    (at,) = struct.unpack_from(f"{order}{'Q' if big else 'I'}", content, 8 if big else 4) if len(content) > 16 else (0,)
    if big or at + 2 > len(content):
        return [(4, f"{order}I"), (8, f"{order}Q")]
    (entries,) = struct.unpack_from(f"{order}H", content, at)
    found = [(4, f"{order}I"), (at, f"{order}H")]
    for entry in range(min(entries, 40)):
        start = at + 2 + 12 * entry
        found += [(start, f"{order}H"), (start + 2, f"{order}H"), (start + 4, f"{order}I"), (start + 8, f"{order}I")]
        found.append((start + 8, f"{order}H"))
    return found


def _png(content: bytes) -> Places:
    found = [(16, ">I"), (20, ">I"), (24, ">B"), (25, ">B"), (26, ">B"), (28, ">B")] * 2
    return found + [(match.start() - 4, ">I") for match in re.finditer(b"IHDR|IDAT|PLTE|tRNS|iCCP|eXIf", content)]


def _jpeg(content: bytes) -> Places:
    found: Places = []
    for match in re.finditer(rb"\xff[\xc0-\xc4\xda-\xdd\xe0-\xe1]", content[:4_000]):
        found += [(match.start() + 1, ">B"), (match.start() + 2, ">H")]
        if content[match.start() + 1] in (0xC0, 0xC1, 0xC2):
            found += [(match.start() + 5, ">H"), (match.start() + 7, ">H"), (match.start() + 9, ">B")] * 3
    return found


def _pcap(content: bytes) -> Places:
    order = "<" if content[:4] in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1") else ">"
    found, at = [(4, f"{order}H"), (16, f"{order}I"), (20, f"{order}I")], 24
    while at + 16 <= len(content) and len(found) < MOST:
        (size,) = struct.unpack_from(f"{order}I", content, at + 8)
        found += [(at + 4 * n, f"{order}I") for n in range(4)]
        # IP's length and its header's, fragments, protocol; the transport's first bytes.
        found += [
            (at + 16 + skip + n, form) for skip in (0, 14) for n, form in ((0, ">B"), (2, ">H"), (6, ">H"), (9, ">B"))
        ]
        found.append((at + 16 + 14 + 32, ">B"))
        at += 16 + size
    return found


def _pcapng(content: bytes) -> Places:
    order = "<" if content[8:12] == b"\x4d\x3c\x2b\x1a" else ">"
    found, at = [(8, f"{order}I"), (12, f"{order}H"), (16, f"{order}Q")], 0
    while at + 12 <= len(content) and len(found) < MOST:
        (size,) = struct.unpack_from(f"{order}I", content, at + 4)
        found += [(at + 4 * n, f"{order}I") for n in range(7)] + [(at + size - 4, f"{order}I")]
        found += [(at + 16, f"{order}H"), (at + 18, f"{order}H"), (at + 20, f"{order}B")]
        at += max(12, size + -size % 4)
    return found


def _numpy(content: bytes) -> Places:
    found: Places = [(6, "<B"), (8, "<H")]
    numbers = re.finditer(rb"\d+", content[10:128])
    found += [(10 + match.start(), f"a{len(match[0])}") for match in numbers] * 3
    return found + [(10 + match.start(), "a3") for match in re.finditer(rb"[<>|=][a-z]\d", content[10:128])]


def _matlab(content: bytes) -> Places:
    """Tags of a MATLAB file's elements, whose kinds and sizes lie at multiples of eight."""
    return [(at, "<I") for at in range(0, min(len(content), 1_200), 4)]


def _fif(content: bytes) -> Places:
    found, at = [], 0
    while at + 16 <= len(content) and len(found) < MOST:
        size, following = struct.unpack_from(">ii", content, at + 8)
        found += [(at + 4 * n, ">i") for n in range(5)]
        at = following if following > at else at + 16 + max(0, size)
    return found


def _cosar(_: bytes) -> Places:
    return [(4 * n, ">I") for n in range(12)] * 2


def _hdf5(content: bytes) -> Places:
    found = [(at, "<B") for at in range(8, 24)] + [(at, "<Q") for at in range(24, 96, 8)]
    for match in re.finditer(b"TREE|HEAP|SNOD|OHDR|FRHP|BTHD|OCHK", content):
        found += [(match.start() + 4 + n, form) for n, form in ((0, "<B"), (1, "<B"), (2, "<H"), (4, "<Q"), (12, "<Q"))]
    return found


def _nitf(_: bytes) -> Places:
    sizes = ((342, 12), (354, 6), (360, 3), (363, 6), (369, 10), (379, 3), (388, 3))
    inside = range(404, 404 + 520, 8)
    return [(at, f"a{width}") for at, width in sizes] * 4 + [(at, "a8") for at in inside]


_Test = Callable[[bytes], bool]


def _starts(*heads: bytes) -> _Test:
    return lambda content: content.startswith(heads)


_FORMATS: tuple[tuple[_Test, Callable[[bytes], Places]], ...] = (
    (_starts(b"RIFF", b"RF64", b"RIFX"), _wav),
    (_starts(b"FORM"), _aiff),
    (_starts(b"fLaC"), _flac),
    (_starts(b"OggS"), _ogg),
    (_starts(b"0       ", b"\xffBIOSEMI"), _edf),
    (_starts(b"\x5c\x01\x00\x00", b"\x00\x00\x01\x5c", b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c"), _nifti),
    (lambda content: content[128:132] == b"DICM", _dicom),
    (_starts(b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"), _tiff),
    (_starts(b"\x89PNG"), _png),
    (_starts(b"\xff\xd8\xff"), _jpeg),
    (_starts(b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\xc3\xd4", b"\x4d\x3c\xb2\xa1", b"\xa1\xb2\x3c\x4d"), _pcap),
    (_starts(b"\x0a\x0d\x0d\x0a"), _pcapng),
    (_starts(b"\x93NUMPY"), _numpy),
    (_starts(b"MATLAB 5.0", b"\x0e\x00\x00\x00"), _matlab),
    (_starts(b"\x00\x00\x00\x64\x00\x00\x00\x1f"), _fif),
    (lambda content: content[28:32] == b"CSAR", _cosar),
    (_starts(b"\x89HDF"), _hdf5),
    (_starts(b"NITF", b"NSIF"), _nitf),
)
