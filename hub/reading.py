"""Native files to samples: the only code that meets untrusted bytes.

A domain implements one `Reader`. It is given a `Source` (a path, or bytes with the name they came under)
or a plain JSON value, and yields `Sample` objects, lazily: a capture or a molecule file holds thousands.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from hub.doubts import codes_of
from hub.errors import InvalidInput, UnsupportedFormat


@dataclass(frozen=True)
class Source:
    """One native file as it arrived: on disk, or as bytes.

    Attributes:
        name: What results and messages call it. For an upload the bare file name, never a path.
        path: Where it lies, or ``None`` for bytes.
        content: The bytes, or ``None`` for a file on disk.
    """

    name: str
    path: Path | None = None
    content: bytes | None = field(default=None, repr=False)

    @classmethod
    def from_path(cls, path: str | Path, name: str | None = None) -> Source:
        """Return the source of a file on disk.

        Raises:
            InvalidInput: There is no such file.
        """
        path = Path(path)
        if not path.exists():
            raise InvalidInput("no such file", code="file_not_found", source=str(name or path))
        return cls(name=name or str(path), path=path)

    @classmethod
    def from_bytes(cls, content: bytes, name: str = "upload") -> Source:
        """Return the source of bytes that came under ``name``; any folder part of the name is dropped."""
        return cls(name=name.replace("\\", "/").rsplit("/", 1)[-1] or "upload", content=content)

    @property
    def size(self) -> int:
        """Number of bytes; for a folder (a series, a SAFE scene) the sum over its files."""
        if self.content is not None:
            return len(self.content)
        assert self.path is not None
        if self.path.is_dir():
            return sum(f.stat().st_size for f in self.path.rglob("*") if f.is_file())
        return self.path.stat().st_size

    @property
    def suffix(self) -> str:
        """Lower-case suffix of the name, a hint for messages only: readers look at the content."""
        return Path(self.name).suffix.lower()

    def open(self) -> BinaryIO:
        """Return a seekable binary stream at the start of the content."""
        if self.content is not None:
            return io.BytesIO(self.content)
        assert self.path is not None
        return self.path.open("rb")

    def head(self, size: int = 512) -> bytes:
        """Return the first ``size`` bytes, for telling formats apart by content."""
        if self.path is not None and self.path.is_dir():
            return b""
        with self.open() as stream:
            return stream.read(size)


@dataclass(frozen=True)
class Span:
    """A part of a recording in seconds; ``None`` leaves that end open."""

    start: float | None = None
    stop: float | None = None

    def __post_init__(self) -> None:
        """Raise InvalidInput when the span is empty or negative."""
        start = self.start or 0.0
        if start < 0 or (self.stop is not None and self.stop <= start):
            raise InvalidInput(
                f"the span from {self.start} s to {self.stop} s is empty; start must be >= 0 and stop > start",
                code="empty_span",
            )


@dataclass(frozen=True)
class Sample:
    """One thing that gets one embedding.

    Attributes:
        data: The domain's own type (a waveform with its rate, a molecule's graph, a volume with its spacing).
        key: Which sample of its file this is (a flow id, a molecule's name); empty when a file holds one.
        warnings: What a user should know about the input although it was accepted, one sentence each: a `Doubt`, whose
            code programs read.
        metadata: Facts read with it that are safe to return (never patient or host identity).
        error: Why this one sample of its file cannot be used, where the others can; then ``data`` is ``None``.
    """

    data: Any = field(repr=False)
    key: str = ""
    warnings: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    error: InvalidInput | None = None

    @property
    def flags(self) -> tuple[str, ...]:
        """Codes of the warnings, each once; see `hub.doubts.FLAGS`."""
        return codes_of(self.warnings)

    def checked(self, source: str) -> Sample:
        """Return the sample itself, if it can be used.

        Raises:
            InvalidInput: It cannot; the error names the source and the sample.
        """
        if self.error is not None:
            raise self.error.at(f"{source}[{self.key}]" if self.key else source)
        return self


def has_suffix(name: str, suffixes: Collection[str]) -> bool:
    """Return whether a file's name ends with one of the suffixes, which may be double (``.nii.gz``).

    Args:
        name: With or without folders.
        suffixes: Lower-case, with the dot.
    """
    return name.lower().endswith(tuple(suffixes))


class Reader(ABC):
    """Native files, or a plain JSON form, to samples. One class a domain.

    Subclasses are plain dataclasses of their limits, so that ``limits()`` can tell them to a user. Several threads read
    with one reader at once, so it keeps no state of a file.
    """

    plain_form: ClassVar[str] = ""
    """One line describing the JSON form that `parse` takes, with an example; empty when there is none."""

    reads_text: ClassVar[bool] = False
    """Whether a string is a plain form of its own (a SMILES string), and not only ever a path."""

    @abstractmethod
    def read(self, source: Source, span: Span | None = None) -> Iterator[Sample]:
        """Yield the samples of one file, at least one.

        One bad sample of many (a line of a molecule file) is yielded with its ``error``, so that the others are used.

        Args:
            source: The file. Its suffix is a hint at most; the content decides.
            span: Only this part, for recordings with a time axis.

        Raises:
            UnsupportedFormat: The content is not of a kind this reader knows.
            TooLarge: The header announces more than the limits allow.
            InvalidInput: The content is damaged, empty, not finite, or has no time axis to cut ``span`` from.
        """

    def parse(self, value: Any, name: str = "input") -> Iterator[Sample]:
        """Yield the samples of a plain JSON value (already decoded); see ``plain_form``.

        A numpy array may stand where the form has a list of numbers, so that tensors need not become lists.

        Raises:
            InvalidInput: The value does not have that form.
        """
        raise UnsupportedFormat("this model takes files, not plain JSON values", source=name)

    def find(self, folder: Path, suffixes: Collection[str]) -> list[Path]:
        """Return what to read below a folder, sorted; hidden files are left out.

        A domain whose samples are folders (a series of slices, a scene of several rasters) returns those.

        Args:
            folder: Walked recursively.
            suffixes: Lower-case file suffixes of the domain, with the dot.
        """
        return sorted(
            path
            for path in folder.rglob("*")
            if has_suffix(path.name, suffixes)
            and path.is_file()
            and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        )

    def limits(self) -> dict[str, int | float]:
        """Return the limits that this reader enforces, by name."""
        return {k: v for k, v in vars(self).items() if isinstance(v, int | float) and not isinstance(v, bool)}
