"""Damage to bytes: what goes wrong on the way, and what someone would do on purpose.

Everything comes from one `random.Random`, so a mutated file is known by the seed and its number.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from copy import deepcopy
from random import Random
from typing import Any

from tests.fuzz.fields import fields_of
from tests.fuzz.packing import Packed, packed_of, sealed
from tests.fuzz.seeds import Seed

LARGEST = 2_000_000
"""Bytes beyond which a mutated file is cut."""
HEADER = 512
WHOLE = (0, 1, 2, 127, 128, 255, 256, 32_767, 32_768, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, -1, -2)
REAL = (float("nan"), float("inf"), float("-inf"), 0.0, -0.0, 1e308, -1e308, 1e-308, 5e-324, 1e38, 1e-38, -1.0)
TEXTS = (
    b"", b"0", b"-1", b"1e308", b"-1e999", b"nan", b"inf", b"99999999999999999999", b"9" * 400, b"0x10", b"1_000",
    "١٢".encode(), b"1,5", b"\x00", b"%s%n", b"../../etc/passwd", b"\xff\xfe", b"true", b"null", b'"', b"[" * 200,
)  # fmt: skip
MAGICS = (
    b"PK\x03\x04", b"\x1f\x8b\x08\x00", b"RIFF\xff\xff\xff\xffWAVE", b"OggS", b"fLaC",
    b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f",
    b"\x89HDF\r\n\x1a\n", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\x00", b"MM\x00*", b"II+\x00\x08\x00\x00\x00",
    b"\x93NUMPY\x01\x00", b"\x0a\x0d\x0d\x0a", b"\xd4\xc3\xb2\xa1", b"<?xml", b"\x80\x04", b"%PDF", b"CSAR", b"GIF89a",
    b"\x00\x00\x00\x20ftypM4A ", b"MATLAB 5.0", b"BDF", b"NRRD", b"\xff\xff\xff\xff", b"NITF02.10",
)  # fmt: skip


def mutated(seed: Seed, others: list[Seed], random: Random) -> tuple[bytes, str]:
    """Return a damaged copy of a file, and what was done to it.

    Args:
        seed: The file.
        others: What pieces may be taken from.
        random: Decides everything.
    """
    content, done = seed.content, []
    other = random.choice(others).content
    if seed.kind == "plain" and random.random() < 0.8:
        return _damaged_json(content, random), "json"
    packed = packed_of(content)
    if packed is not None and random.random() < 0.6:
        content, what = _inside(packed, seed, other, random)
        done.append(what)
        if random.random() < 0.8:
            return content[:LARGEST], " ".join(done)
    if random.random() < 0.3:
        # One small change, most of the file being as it was, gets furthest.
        places = fields_of(content)
        content = (
            _field(content, places, random)
            if places
            else random.choice((flip, number, real, digits))(content, other, random)
        )
        return sealed(content), "gentle"
    for _ in range(random.choice((1, 1, 1, 2, 3, 6))):
        if (places := fields_of(content)) and random.random() < 0.5:
            content, what = _field(content, places, random), "field"
        else:
            change = random.choice(CHANGES)
            content, what = change(content, other, random), change.__name__
        done.append(what)
    if random.random() < 0.5:
        content = sealed(content)
    return content[:LARGEST], " ".join(done)


def _inside(packed: Packed, seed: Seed, other: bytes, random: Random) -> tuple[bytes, str]:
    """Damage a member of an archive or stream, and close it again with the right checksum."""
    name = random.choice(sorted(packed.members))
    inner = packed.members[name]
    action = random.randrange(10)
    if action < 7:
        for _ in range(random.choice((1, 1, 2, 4))):
            places = fields_of(inner)
            if places and random.random() < 0.6:
                inner = _field(inner, places, random)
            else:
                inner = random.choice(CHANGES)(inner, other, random)
        packed.members[name] = inner[:LARGEST]
        return packed.closed(random), "member"
    if action == 7:
        del packed.members[name]
        return packed.closed(random), "member-dropped"
    if action == 8:
        packed.members[random.choice(("../x", "/etc/x", "C:\\x", "a\\..\\..\\x", "x" * 300, "\u202ex", ".x"))] = inner
        return packed.closed(random), "member-named"
    packed.members[name] = bytes(random.choice((1_000, 1_500_000)))
    return packed.closed(random), "member-of-zeros"


def _field(content: bytes, places: list[tuple[int, str]], random: Random) -> bytes:
    """Set a field of a header to an extreme value; a place is an offset and a `struct` format, or ``aN`` for text."""
    offset, form = random.choice(places)
    if form[0] == "a":
        width = int(form[1:])
        return _put(content, offset, random.choice(TEXTS)[:width].ljust(width))
    if form[-1] in "fd":
        value: float = random.choice(REAL)
        try:
            return _put(content, offset, struct.pack(form, value))
        except OverflowError:
            return _put(content, offset, struct.pack(form, float("inf")))
    size = struct.calcsize(form)
    old = int.from_bytes(content[offset : offset + size], "big" if form[0] == ">" else "little")
    near = (old + 1, old - 1, 2 * old, old // 2, -old, old ^ 1 << random.randrange(8 * size))
    chosen = random.choice(near if random.random() < 0.4 else WHOLE)
    return _put(content, offset, (chosen % (1 << 8 * size)).to_bytes(size, "big" if form[0] == ">" else "little"))


def _put(content: bytes, offset: int, piece: bytes) -> bytes:
    return content[:offset] + piece + content[offset + len(piece) :]


def _place(content: bytes, random: Random) -> int:
    """Return a place, in the first bytes more often than not."""
    return random.randrange(max(1, min(len(content), HEADER) if random.random() < 0.6 else len(content)))


def flip(content: bytes, _: bytes, random: Random) -> bytes:
    changed = bytearray(content)
    for _flip in range(random.choice((1, 1, 2, 8, 64)) if content else 0):
        changed[_place(content, random)] ^= 1 << random.randrange(8)
    return bytes(changed)


def number(content: bytes, _: bytes, random: Random) -> bytes:
    size, order = random.choice((1, 2, 4, 8)), random.choice(("little", "big"))
    value = random.choice(WHOLE) % (1 << 8 * size)
    return _put(content, _place(content, random), value.to_bytes(size, order))


def real(content: bytes, _: bytes, random: Random) -> bytes:
    form = random.choice(("<f", ">f", "<d", ">d"))
    value = random.choice(REAL)
    at = _place(content, random) // 4 * 4
    return _put(content, at, struct.pack(form, max(-3e38, min(3e38, value)) if abs(value) > 3e38 else value))


def cut(content: bytes, _: bytes, random: Random) -> bytes:
    return content[: _place(content, random)]


def beheaded(content: bytes, _: bytes, random: Random) -> bytes:
    return content[_place(content, random) :]


def longer(content: bytes, other: bytes, random: Random) -> bytes:
    size = random.choice((1, 16, 4_096, 300_000))
    tail = random.choice(
        (bytes(size), b"\xff" * size, random.randbytes(min(size, 65_536)), other[:size], content[:size])
    )
    return content + tail


def repeated(content: bytes, _: bytes, random: Random) -> bytes:
    start = _place(content, random)
    piece = content[start : start + random.choice((4, 16, 64, 512, 4_096))]
    times = random.choice((1, 2, 50, 1_000))
    return content[:start] + piece * min(times, LARGEST // max(1, len(piece))) + content[start:]


def dropped(content: bytes, _: bytes, random: Random) -> bytes:
    start = _place(content, random)
    return content[:start] + content[start + random.choice((1, 2, 4, 16, 256, 4_096)) :]


def spliced(content: bytes, other: bytes, random: Random) -> bytes:
    start, source = _place(content, random), random.randrange(max(1, len(other)))
    piece = other[source : source + random.choice((8, 64, 1_024, 65_536))]
    after = start + (len(piece) if random.random() < 0.5 else 0)
    return content[:start] + piece + content[after:]


def head_of_another(content: bytes, other: bytes, random: Random) -> bytes:
    size = random.choice((4, 16, 64, 348))
    return other[:size] + content[size:]


def magic(content: bytes, _: bytes, random: Random) -> bytes:
    found = random.choice(MAGICS)
    return found + content[len(found) if random.random() < 0.7 else 0 :]


def noise(content: bytes, _: bytes, random: Random) -> bytes:
    start = _place(content, random)
    return _put(content, start, random.randbytes(random.choice((4, 32, 512))))


def filled(content: bytes, _: bytes, random: Random) -> bytes:
    start = _place(content, random)
    size = min(random.choice((16, 256, 4_096, 1 << 20)), len(content) - start)
    return _put(content, start, random.choice((b"\x00", b"\xff", b"\x7f", b" ", b"\n")) * size)


def digits(content: bytes, _: bytes, random: Random) -> bytes:
    runs = list(re.finditer(rb"-?\d[\d.]*(?:[eE][+-]?\d+)?", content[:100_000]))
    if not runs:
        return content
    run = random.choice(runs)
    return content[: run.start()] + random.choice(TEXTS) + content[run.end() :]


def lines(content: bytes, _: bytes, random: Random) -> bytes:
    rows = content.split(b"\n")
    at = random.randrange(len(rows))
    action = random.randrange(6)
    if action == 0:
        rows.insert(at, rows[random.randrange(len(rows))])
    elif action == 1:
        del rows[at]
    elif action == 2:
        rows[at] = rows[at] * random.choice((2, 100, 2_000))
    elif action == 3:
        random.shuffle(rows)
    elif action == 4:
        rows = [row + b"\r" for row in rows]
    else:
        rows[at:at] = [rows[at]] * random.choice((10, 3_000))
    return b"\n".join(rows)[:LARGEST]


CHANGES: tuple[Callable[[bytes, bytes, Random], bytes], ...] = (
    flip, number, real, cut, beheaded, longer, repeated, dropped, spliced, head_of_another, magic, noise, filled,
    digits, lines,
)  # fmt: skip

_LEAVES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2**31, 2**63, 10**400, 1e308, -1e308, 1e-320, "", "x", "C" * 30_000, "../x",
    "\x00", "\ud800",
    [], {}, [[]], [[[1]]], [1, [2]], [None], {"data": 1}, "NaN",
)  # fmt: skip


def _damaged_json(content: bytes, random: Random) -> bytes:
    value = [json.loads(content)]
    for _ in range(random.choice((1, 1, 2, 4))):
        holder: Any = value
        key: Any = 0
        # Down to some depth: a container is as likely to be hit as a leaf.
        while isinstance(inner := holder[key], dict | list) and inner and random.random() < 0.75:
            holder, key = inner, random.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
        action = random.randrange(4)
        if action == 0 and holder is not value:
            del holder[key]
        elif action == 1 and isinstance(holder, list) and holder is not value:
            holder += [holder[key]] * random.choice((1, 1_000))
        elif action == 2 and isinstance(holder, dict):
            holder[random.choice(("", "x", "data", "id", "0"))] = deepcopy(random.choice(_LEAVES))
        else:
            holder[key] = deepcopy(random.choice(_LEAVES))
    return json.dumps(value[0]).encode()
