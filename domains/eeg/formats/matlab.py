"""MATLAB files of version 5 to 7: numbers, text, cells and structures.

Not SciPy's reader, which takes headers at their word: a damaged file makes it allocate what an array's dimensions
announce, or ends the process. The layout is that of MathWorks' "MAT-File Format", R2019b, chapter 1.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from hub.errors import InvalidInput, TooLarge
from hub.reading import Source

MAGIC = b"MATLAB 5.0 MAT-file"
_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _CHAR, _NUMBERS = 1, 2, 4, range(6, 16)
_COMPLEX = 0x0800
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_ENCODINGS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16"}
_PIECE = 1 << 20
_MAX_DEPTH = 16
_MAX_NESTED = 1_000_000
"""Cells and fields of a file; a set has about ten for each channel and each event."""

Value = Any
"""An array ``(rows, columns, ...)``, a ``str``, a list of cells, a list of structures as dicts, or ``None``."""


def read_matlab(source: Source, names: list[str], most: int) -> dict[str, Value]:
    """Return some variables of a file; those that it does not have are left out.

    Objects, functions, sparse and complex arrays are ``None``.

    Raises:
        InvalidInput: It is damaged or cut off.
        TooLarge: It decompresses to more than ``most`` bytes, or holds too many cells and fields.
    """
    found: dict[str, Value] = {}
    total = 0
    with source.open() as stream:
        order = "<" if stream.read(_HEADER)[126:128] == b"IM" else ">"
        while len(tag := stream.read(8)) == 8:
            kind, length = struct.unpack(f"{order}II", tag)
            if stream.tell() + length > source.size:
                raise InvalidInput("the MATLAB file is cut off: a variable reaches past its end", code="truncated")
            content = memoryview(stream.read(length))
            try:
                if kind == _COMPRESSED:
                    content = memoryview(_decompress(content, most - total))
                    kind, length = struct.unpack(f"{order}II", content[:8])
                    content = content[8 : 8 + length]
                total += len(content)
                if total > most:
                    raise TooLarge(f"the MATLAB file holds more than {most:,} bytes")
                if kind == _MATRIX:
                    _Reader(order, names).read_variable(content, found)
            except (struct.error, zlib.error, ValueError, StopIteration) as error:
                if isinstance(error, InvalidInput):
                    raise
                raise InvalidInput("the MATLAB file is damaged and cannot be read", code="damaged") from None
    return found


def _decompress(content: memoryview, most: int) -> bytes:
    decompressor, pieces, total = zlib.decompressobj(), [], 0
    left: bytes | memoryview = content
    while left and not decompressor.eof:
        pieces.append(decompressor.decompress(left, _PIECE))
        left = decompressor.unconsumed_tail
        total += len(pieces[-1])
        if total > most:
            raise TooLarge(f"the MATLAB file decompresses to more than {most:,} bytes")
    return b"".join(pieces)


class _Reader:
    """Reads one variable, and counts what lies in it."""

    def __init__(self, order: str, names: list[str]) -> None:
        self.order = order
        self.names = names
        self.nested = 0

    def read_variable(self, content: memoryview, found: dict[str, Value]) -> None:
        """Add the variable to ``found``, if it is one of the names."""
        _, _, (_, name) = self._first(self._elements(content), 3)
        text = bytes(name).decode("latin-1")
        if text in self.names:
            found[text] = self._matrix(content, 0)

    def _matrix(self, content: memoryview, depth: int) -> Value:
        """Return the value of a matrix element: flags, dimensions and name, then numbers, cells or fields."""
        if not content:
            return np.zeros((0, 0))
        self.nested += 1
        if self.nested > _MAX_NESTED or depth > _MAX_DEPTH:
            raise TooLarge(f"the MATLAB file holds more than {_MAX_NESTED:,} fields, or fields in too many others")
        parts = self._elements(content)
        (_, flags), (_, dimensions), _ = self._first(parts, 3)
        (word,) = struct.unpack(f"{self.order}I", flags[:4])
        kind = word & 0xFF
        shape = struct.unpack(f"{self.order}{len(dimensions) // 4}i", dimensions)
        count = math.prod(shape)
        if min(shape, default=-1) < 0 or count > len(content):
            raise ValueError("fewer bytes than the dimensions need")
        if kind in _NUMBERS and not word & _COMPLEX:
            return self._numbers(next(parts), shape, count)
        if kind == _CHAR:
            form, text = next(parts) if count else (16, memoryview(b""))
            encoding = _ENCODINGS[form] if form in _ENCODINGS else "latin-1"
            wide = ("-le" if self.order == "<" else "-be") if encoding == "utf-16" else ""
            return bytes(text).decode(encoding + wide, errors="replace")
        if kind == _CELL:
            return [self._nested(next(parts), depth) for _ in range(count)]
        if kind == _STRUCT:
            (_, width), (_, names) = self._first(parts, 2)
            (size,) = struct.unpack(f"{self.order}i", width[:4])
            fields = [
                bytes(names[i : i + size]).split(b"\x00")[0].decode("latin-1") for i in range(0, len(names), size)
            ]
            if 8 * count * max(len(fields), 1) > len(content):
                raise ValueError("fewer bytes than the fields need")
            return [{field: self._nested(next(parts), depth) for field in fields} for _ in range(count)]
        return None

    def _numbers(self, element: tuple[int, memoryview], shape: tuple[int, ...], count: int) -> Value:
        form, content = element
        if form not in _TYPES:
            raise ValueError("no type of numbers")
        # Whole numbers are stored in the shortest type that holds them, whatever the array's own.
        values = np.frombuffer(content, self.order + _TYPES[form])
        if values.size != count:
            raise ValueError("not as many numbers as the dimensions need")
        return values.reshape(shape, order="F")

    def _nested(self, element: tuple[int, memoryview], depth: int) -> Value:
        kind, content = element
        if kind != _MATRIX:
            raise ValueError("a cell that is no array")
        return self._matrix(content, depth + 1)

    @staticmethod
    def _first(parts: Iterator[tuple[int, memoryview]], count: int) -> list[tuple[int, memoryview]]:
        found = [part for _, part in zip(range(count), parts, strict=False)]
        if len(found) < count:
            raise ValueError("an array without its beginning")
        return found

    def _elements(self, content: memoryview) -> Iterator[tuple[int, memoryview]]:
        """Yield type and content of the data elements in a matrix."""
        place = 0
        while place + 8 <= len(content):
            kind, length = struct.unpack(f"{self.order}II", content[place : place + 8])
            if kind >> 16:  # up to four bytes are kept in the tag itself
                yield kind & 0xFFFF, content[place + 4 : place + 4 + min(kind >> 16, 4)]
                place += 8
                continue
            if place + 8 + length > len(content):
                raise ValueError("an element that reaches past its array")
            yield kind, content[place + 8 : place + 8 + length]
            place += 8 + length + (-length % 8)
