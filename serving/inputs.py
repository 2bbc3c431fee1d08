"""One input of a request, as it arrived: a file as base64, an uploaded file, or a plain JSON value.

Nothing is decoded here: ``samples`` does it where inputs are read. A text that a client sent is never taken for a
path, so no request can name a file of the server.
"""

from __future__ import annotations

import binascii
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from pickle import PickleBuffer
from typing import Any

from hub.embedder import Intake
from hub.errors import InvalidInput
from hub.reading import Sample, Source


class Input(ABC):
    """What one entry of ``input``, or one uploaded file, holds."""

    @property
    def filename(self) -> str | None:
        """The name that the client gave it, if any."""
        return None

    @abstractmethod
    def fingerprint(self) -> bytes | None:
        """Return a hash of the content and the file's name, or ``None`` when the content cannot be made out."""

    @abstractmethod
    def samples(self, intake: Intake, place: str) -> Iterator[Sample]:
        """Read the samples, lazily.

        Args:
            intake: Reads it.
            place: Where in the request it stands, for messages.

        Raises:
            InvalidInput: It cannot be read.
        """


@dataclass(frozen=True)
class UploadedFile(Input):
    """A file's bytes, as multipart brings them."""

    content: bytes = field(repr=False)
    name: str | None

    @property
    def filename(self) -> str | None:
        """The bare file name: a folder part is dropped."""
        return Source.from_bytes(b"", self.name).name if self.name else None

    def fingerprint(self) -> bytes:
        """Return a hash of the bytes and the name, which a reader may use in keys."""
        found = _hash_of(self.filename)
        found.update(self.content)
        return found.digest()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Be sent without the content being copied, where pickle can do that."""
        return UploadedFile, (PickleBuffer(self.content) if protocol >= 5 else self.content, self.name)

    def samples(self, intake: Intake, place: str) -> Iterator[Sample]:
        """Read the file by its content."""
        if not self.content:
            raise InvalidInput("the file is empty", code="empty_input")
        return intake.read(Source.from_bytes(self.content, self.filename or place))


@dataclass(frozen=True)
class SpooledUpload(Input):
    """An uploaded file that was too large to keep in memory."""

    path: Path = field(repr=False)
    name: str | None

    @property
    def filename(self) -> str | None:
        """The bare file name: a folder part is dropped."""
        return UploadedFile(b"", self.name).filename

    def fingerprint(self) -> bytes | None:
        """Return the hash that the same file has when it is kept in memory."""
        found = _hash_of(self.filename)
        try:
            with self.path.open("rb") as stream:
                while chunk := stream.read(1 << 20):
                    found.update(chunk)
        except OSError:
            return None  # its request is gone
        return found.digest()

    def samples(self, intake: Intake, place: str) -> Iterator[Sample]:
        """Read the file by its content."""
        return intake.read(Source.from_path(self.path, self.filename or place))


@dataclass(frozen=True)
class EncodedFile(Input):
    """A file's bytes as base64 text in JSON."""

    data: str = field(repr=False)
    name: str | None

    @property
    def filename(self) -> str | None:
        """The bare file name: a folder part is dropped."""
        return UploadedFile(b"", self.name).filename

    def fingerprint(self) -> bytes | None:
        """Return the hash that the same file has as an upload."""
        try:
            return UploadedFile(self._decoded(), self.name).fingerprint()
        except ValueError:
            return None

    def _decoded(self) -> bytes:
        return binascii.a2b_base64(self.data, strict_mode=True)

    def samples(self, intake: Intake, place: str) -> Iterator[Sample]:
        """Decode the text and read the file."""
        try:
            content = self._decoded()
        except ValueError:
            message = "'data' is not base64 (standard alphabet, padded, no line breaks)"
            raise InvalidInput(message, code="invalid_base64") from None
        return UploadedFile(content, self.name).samples(intake, place)


@dataclass(frozen=True)
class PlainValue(Input):
    """The domain's plain JSON form."""

    value: Any = field(repr=False)

    def fingerprint(self) -> bytes:
        """Return a hash of the value."""
        return hashlib.sha256(b"plain\0" + json.dumps(self.value, sort_keys=True).encode()).digest()

    def samples(self, intake: Intake, place: str) -> Iterator[Sample]:
        """Parse the value."""
        # Not intake.read: it would take a text for the path of a file on this machine.
        return intake.reader.parse(self.value, place)


def _hash_of(filename: str | None) -> Any:
    return hashlib.sha256(f"file {filename or ''}\0".encode())


def as_inputs(value: Any) -> list[Input]:
    """Return the inputs of a JSON ``input`` field.

    The rule that tells one from many: an array is many inputs, one an element; anything else (an object, a string)
    is one. So a plain form that is itself an array goes into an array of its own: ``[[0.1, 0.2]]`` is one input.
    An object whose only keys are ``data`` (a string) and ``filename`` is a file; every other value is plain.
    """
    return [_as_input(v) for v in value] if isinstance(value, list) else [_as_input(value)]


def _as_input(value: Any) -> Input:
    if isinstance(value, dict) and isinstance(value.get("data"), str) and value.keys() <= {"data", "filename"}:
        name = value.get("filename")
        if name is None or isinstance(name, str):
            return EncodedFile(value["data"], name)
    return PlainValue(value)
