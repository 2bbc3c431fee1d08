"""What a reader process may answer: a tree of plain values, arrays and records, as JSON and one block of bytes.

A process that read a hostile file may be under its sender's control, so its answers are data and nothing else: no
pickle, no code, no class but dataclasses and named tuples of the served domains, whose constructors are not run, and no
`Source`, so that the server never opens what a file's reader left open.
"""

from __future__ import annotations

import base64
import dataclasses
import importlib
import json
import math
import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch

from hub.doubts import Doubt
from hub.embedder import Prepared
from hub.errors import InvalidInput, TooLarge, UnsupportedFormat
from hub.modeling import TaskFile
from hub.reading import Sample, Source
from serving.jobs import Refused
from serving.readers.frames import ALIGNMENT

_PLAIN = frozenset((type(None), bool, int, float, str))
_OWN = {f"{c.__module__}:{c.__qualname__}": c for c in (Prepared, Sample, TaskFile, Refused)}
_ERRORS = {c.__name__: c for c in (InvalidInput, UnsupportedFormat, TooLarge)}
_NUMBERS = re.compile(r"[<>|=]?(?:[biufcSU]\d{1,9}|[mM]8(?:\[\w{1,12}\])?)")
# What torch can compute with and numpy cannot: carried as integers of the same width.
_AS_INTEGERS = {"bfloat16": torch.int16}
_GRAPH = "torch_geometric.data.data:Data"
_SPARSE = "scipy.sparse._csr:csr_array"


class Unsendable(TypeError):
    """A reader or processor made something that has no place in an answer."""


class Garbled(ValueError):
    """An answer is not what a reader process sends."""


class Types:
    """The dataclasses and named tuples that answers may hold."""

    def __init__(self, packages: Collection[str] = ()) -> None:
        """Allow those of some packages.

        Args:
            packages: Import names of the served domains' packages.
        """
        self._packages = tuple(packages)
        self._found: dict[str, tuple[type, tuple[str, ...]]] = {n: (c, _fields(c)) for n, c in _OWN.items()}

    def find(self, name: Any) -> tuple[type, tuple[str, ...]]:
        """Return a class and the names of its fields.

        Args:
            name: ``module:Class``.

        Raises:
            Garbled: It is none that may be here.
        """
        if name in self._found:
            return self._found[name]
        module, _, qualname = str(name).partition(":")
        if not any(module == p or module.startswith(p + ".") for p in self._packages) or "." in qualname:
            raise Garbled("an answer holds a class that it may not hold")
        found = getattr(importlib.import_module(module), qualname, None)
        if not isinstance(found, type) or found.__module__ != module or not _is_record(found):
            raise Garbled("an answer holds something that is no record")
        self._found[name] = (found, _fields(found))
        return self._found[name]


def encode(value: Any) -> tuple[bytes, list[memoryview]]:
    """Return a value as JSON and the pieces of its block of bytes.

    Raises:
        Unsendable: It holds something that has no place in an answer.
    """
    encoder = _Encoder()
    head = json.dumps(encoder.node(value)).encode()
    return head, encoder.pieces


def decode(head: bytes, block: np.ndarray, types: Types) -> Any:
    """Return the value of an answer.

    Args:
        head: The JSON.
        block: ``(bytes,)`` uint8; arrays are views of it.
        types: What it may hold.

    Raises:
        Garbled: It is not what `encode` makes.
    """
    try:
        return _Decoder(block, types).value(json.loads(head))
    except Garbled:
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, ImportError) as error:
        raise Garbled(f"an answer cannot be decoded ({type(error).__name__})") from None


class _Encoder:
    def __init__(self) -> None:
        self.pieces: list[memoryview] = []
        self._size = 0

    def node(self, value: Any) -> Any:
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind is list or kind is tuple:
            if all(type(v) in _PLAIN for v in value):
                return ["p" if kind is list else "q", *value]
            return ["l" if kind is list else "t", *map(self.node, value)]
        if isinstance(value, Doubt):
            return ["w", str(value), value.code]
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if isinstance(value, np.ndarray):
            return self._array("a", np.asarray(value))
        if isinstance(value, np.generic):
            return ["s", np.asarray(value).dtype.str, base64.b64encode(value.tobytes()).decode()]
        if isinstance(value, Mapping):
            return ["d", [[self.node(k), self.node(v)] for k, v in value.items()]]
        if isinstance(value, bytes | bytearray | memoryview):
            return ["b", *self._piece(memoryview(value).cast("B"))]
        if isinstance(value, InvalidInput):
            named = next(c.__name__ for c in kind.__mro__ if c.__name__ in _ERRORS)
            return ["e", named, value.message, value.code, value.source]
        if isinstance(value, Source):
            return ["f", value.name]
        if isinstance(value, set | frozenset):
            return ["u", *map(self.node, value)]
        return self._record(value, f"{kind.__module__}:{kind.__qualname__}")

    def _record(self, value: Any, name: str) -> Any:
        if name == _GRAPH:
            return ["g", self.node(value.to_dict())]
        if name == _SPARSE:
            return ["c", *map(self.node, (value.data, value.indices, value.indptr)), *value.shape]
        if not _is_record(type(value)):
            raise Unsendable(f"{name} cannot leave a reader process; only dataclasses, named tuples and arrays can")
        state = _own_state(value)
        if state is not None:
            return ["o", name, self.node(state)]
        return ["r", name, *(self.node(getattr(value, field)) for field in _fields(type(value)))]

    def _tensor(self, tensor: torch.Tensor) -> Any:
        plain = tensor.detach().cpu()
        dtype = str(plain.dtype).removeprefix("torch.")
        if dtype in _AS_INTEGERS:
            plain = plain.view(_AS_INTEGERS[dtype])
        return [*self._array("T", plain.numpy()), dtype]

    def _array(self, tag: str, array: np.ndarray) -> list[Any]:
        if not _NUMBERS.fullmatch(array.dtype.str):
            raise Unsendable(f"an array of {array.dtype} cannot leave a reader process; only one of numbers can")
        turned = array.flags.f_contiguous and not array.flags.c_contiguous
        flat = np.ascontiguousarray(array.T if turned else array)
        return [tag, array.dtype.str, array.shape, turned, *self._piece(flat.reshape(-1).view(np.uint8).data)]

    def _piece(self, piece: memoryview) -> tuple[int, int]:
        if gap := -self._size % ALIGNMENT:
            self.pieces.append(memoryview(bytes(gap)))
            self._size += gap
        place, size = self._size, len(piece)
        if size:
            self.pieces.append(piece)
        self._size += size
        return place, size


class _Decoder:
    def __init__(self, block: np.ndarray, types: Types) -> None:
        self._block = block
        self._types = types

    def value(self, node: Any) -> Any:
        if type(node) in _PLAIN:
            return node
        tag, *rest = node
        return getattr(self, f"_{_TAGS[tag]}")(*rest)

    def _plain_list(self, *items: Any) -> list[Any]:
        return list(self._checked(items))

    def _plain_tuple(self, *items: Any) -> tuple[Any, ...]:
        return tuple(self._checked(items))

    @staticmethod
    def _checked(items: tuple[Any, ...]) -> tuple[Any, ...]:
        if not all(type(i) in _PLAIN for i in items):
            raise Garbled("an answer holds a plain list of other things")
        return items

    def _list(self, *items: Any) -> list[Any]:
        return [self.value(i) for i in items]

    def _tuple(self, *items: Any) -> tuple[Any, ...]:
        return tuple(self.value(i) for i in items)

    def _set(self, *items: Any) -> frozenset[Any]:
        return frozenset(self.value(i) for i in items)

    def _dict(self, pairs: Any) -> dict[Any, Any]:
        return {self.value(k): self.value(v) for k, v in pairs}

    def _bytes(self, place: int, size: int) -> bytes:
        return self._slice(place, size).tobytes()

    def _slice(self, place: int, size: int) -> np.ndarray:
        if place < 0 or size < 0 or place + size > len(self._block):
            raise Garbled("an answer points outside of its bytes")
        return self._block[place : place + size]

    def _array(self, kind: str, shape: list[int], turned: bool, place: int, size: int) -> np.ndarray:
        dtype = _dtype(kind)
        if min(shape, default=0) < 0 or size != math.prod(shape) * dtype.itemsize:
            raise Garbled("an array has another size than its shape says")
        flat = self._slice(place, size).view(dtype) if size else np.empty(0, dtype)
        return flat.reshape(shape[::-1]).T if turned else flat.reshape(shape)

    def _tensor(self, kind: str, shape: list[int], turned: bool, place: int, size: int, dtype: str) -> torch.Tensor:
        tensor = torch.from_numpy(self._array(kind, shape, turned, place, size))
        return tensor.view(torch.bfloat16) if dtype in _AS_INTEGERS else tensor

    def _scalar(self, kind: str, content: str) -> Any:
        return np.frombuffer(base64.b64decode(content, validate=True), _dtype(kind), 1)[0]

    def _error(self, name: str, message: str, code: str, source: str | None) -> InvalidInput:
        return _ERRORS[name](str(message), code=str(code), source=None if source is None else str(source))

    def _doubt(self, text: str, code: str) -> Doubt:
        return Doubt(str(text), str(code))

    def _file(self, name: str) -> Source:
        return Source(str(name))

    def _object(self, name: str, state: Any) -> Any:
        cls, fields = self._types.find(name)
        if not _sets_state(cls):
            raise Garbled("an answer gives a state to what has none")
        found: Any = object.__new__(cls)
        values = self.value(state)
        if not values.keys() <= set(fields):
            raise Garbled("an answer sets what is no field")
        found.__setstate__(values)
        return found

    def _record(self, name: str, *values: Any) -> Any:
        cls, fields = self._types.find(name)
        if len(values) != len(fields):
            raise Garbled("a record has another number of fields")
        decoded = [self.value(v) for v in values]
        if issubclass(cls, tuple):
            return tuple.__new__(cls, decoded)
        found = object.__new__(cls)
        for field, value in zip(fields, decoded, strict=True):
            object.__setattr__(found, field, value)
        return found

    def _graph(self, state: Any) -> Any:
        # Only where a domain has brought it along.
        from torch_geometric.data import Data

        return Data.from_dict(self.value(state))

    def _sparse(self, data: Any, indices: Any, indptr: Any, rows: int, columns: int) -> Any:
        from scipy.sparse import csr_array

        found: Any = csr_array((self.value(data), self.value(indices), self.value(indptr)), shape=(rows, columns))
        # Compiled code trusts the indices.
        found.check_format(full_check=True)
        return found


_TAGS = {
    "p": "plain_list", "q": "plain_tuple", "l": "list", "t": "tuple", "u": "set", "d": "dict", "b": "bytes",
    "a": "array", "T": "tensor", "s": "scalar", "e": "error", "f": "file", "o": "object", "r": "record", "g": "graph",
    "c": "sparse", "w": "doubt",
}  # fmt: skip


def _dtype(kind: Any) -> np.dtype[Any]:
    if not isinstance(kind, str) or not _NUMBERS.fullmatch(kind):
        raise Garbled("an array of something other than numbers")
    return np.dtype(kind)


def _is_record(cls: type) -> bool:
    return dataclasses.is_dataclass(cls) or (issubclass(cls, tuple) and hasattr(cls, "_fields"))


def _fields(cls: Any) -> tuple[str, ...]:
    return tuple(cls._fields) if issubclass(cls, tuple) else tuple(f.name for f in dataclasses.fields(cls))


def _own_state(value: Any) -> Any:
    """Return what a class with a way of its own to be sent sends; ``None`` of all others."""
    return value.__getstate__() if _sets_state(type(value)) else None


def _sets_state(cls: Any) -> bool:
    # Frozen dataclasses with slots have a method that the standard library made.
    return getattr(getattr(cls, "__setstate__", None), "__module__", "dataclasses") != "dataclasses"
