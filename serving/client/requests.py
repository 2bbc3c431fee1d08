"""Inputs to request bodies: encoded one by one, and dealt to requests under the service's limits."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ENVELOPE_BYTES = 2048
"""Kept free in a body for everything but its inputs."""


@dataclass(frozen=True)
class Part:
    """One input on its way: its number for the caller, its size in a body, and how to make it.

    A file is read when its request is sent, not before, so that a folder of any size can be sent.
    """

    number: int
    size: int
    value: Any = field(repr=False)

    @property
    def name(self) -> str | None:
        """The file's name, if it is one."""
        return self.value.name if isinstance(self.value, Path) else None

    def json(self) -> bytes:
        """Return the input as JSON.

        Raises:
            OSError: The file cannot be read.
        """
        if isinstance(self.value, Path):
            return _file_json(self.value.read_bytes(), self.value.name)
        return self.value


def parts_of(inputs: Any) -> list[Part]:
    """Return one input or many as parts.

    Args:
        inputs: One input or an iterable of them: a path, a file's bytes, or the domain's plain form. A text is a path
            when such a file exists, and a plain value otherwise; a ``Path`` is always a file. A list, a tuple or a
            generator is many inputs; an array is one.

    Raises:
        OSError: A file does not exist.
        ValueError: A plain value holds NaN or infinity, which JSON does not have.
    """
    one = isinstance(inputs, str | bytes | Path | dict | np.ndarray) or not isinstance(inputs, Iterable)
    return [_part(number, value) for number, value in enumerate([inputs] if one else inputs)]


def _part(number: int, value: Any) -> Part:
    if isinstance(value, str) and _is_file(value):
        value = Path(value)
    if isinstance(value, Path):
        return Part(number, 4 * (value.stat().st_size // 3 + 1) + 40 + 6 * len(value.name), value)
    if isinstance(value, bytes):
        content = _file_json(value, None)
    else:
        plain = value.tolist() if isinstance(value, np.ndarray) else value
        content = json.dumps(plain, allow_nan=False, separators=(",", ":")).encode()
    return Part(number, len(content) + 1, content)


def _file_json(content: bytes, name: str | None) -> bytes:
    head = b'{"data":"' + base64.b64encode(content) + b'"'
    return head + (b"}" if name is None else b',"filename":' + json.dumps(name).encode() + b"}")


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):
        # A long plain value, or one with a NUL, is no file name.
        return False


def deal(parts: Sequence[Part], max_bytes: int, max_inputs: int) -> Iterator[list[Part]]:
    """Yield the parts of one request after another, in order; one that is too large is sent alone, to be refused."""
    batch: list[Part] = []
    size = 0
    for part in parts:
        if batch and (len(batch) >= max_inputs or size + part.size > max_bytes - ENVELOPE_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(part)
        size += part.size
    if batch:
        yield batch


def body_of(parts: Iterable[Part], fields: dict[str, Any]) -> bytes:
    """Return a request's body: the fields that are given, and the inputs."""
    given = {name: value for name, value in fields.items() if value is not None}
    head = json.dumps(given, allow_nan=False)[:-1].encode()
    return head + (b"," if given else b"") + b'"input":[' + b",".join(part.json() for part in parts) + b"]}"
