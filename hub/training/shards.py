"""Shards: Parquet and WebDataset tar files whose members are native files, read in place.

A member is named by where it lies (bytes of a tar, row of a Parquet row group), so that it can be read at random
without unpacking the shard. Training takes a few neighbouring blocks at a time (`hub.training.plan`).
"""

from __future__ import annotations

import tarfile
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from hub.errors import InvalidInput, InvalidManifest
from hub.reading import Reader, Sample, Source, has_suffix

SUFFIXES = (".parquet", ".tar")
TAR_BLOCK = 64
"""Members of a tar that count as one block: they lie beside each other on disk."""

CACHED_GROUPS = 8


@dataclass(frozen=True)
class Member:
    """One native file, or one plain value, in a shard.

    Attributes:
        place: Where: ``offset+size`` in a tar, ``group/row`` in a Parquet file.
        name: What messages call it.
        block: Number of the part of the shard that is read at once.
    """

    place: str
    name: str
    block: int


def is_shard(path: Path) -> bool:
    """Return whether a file is one whose members are native files."""
    return path.suffix.lower() in SUFFIXES


def members(shard: Path, suffixes: Collection[str], column: str = "") -> Iterator[Member]:
    """Yield what a shard holds, from its headers alone.

    Args:
        shard: A ``.tar`` (WebDataset: one native file a member; other members are left out) or ``.parquet``.
        suffixes: Lower-case file suffixes of the domain, with the dot.
        column: Of a Parquet file; found by itself where there is one that can hold native files.

    Raises:
        InvalidInput: The shard is damaged.
        InvalidManifest: A Parquet file has no column, or several, that could be meant.
    """
    if shard.suffix.lower() == ".tar":
        yield from _tar_members(shard, suffixes)
        return
    table = _parquet(shard)
    _column_of(table.schema_arrow, shard, column)
    for group in range(table.num_row_groups):
        for row in range(table.metadata.row_group(group).num_rows):
            yield Member(f"{group}/{row}", f"{shard.name}[{group}/{row}]", group)


def _tar_members(shard: Path, suffixes: Collection[str]) -> Iterator[Member]:
    try:
        with tarfile.open(shard, "r:") as archive:
            count = 0
            for info in archive:
                if info.isfile() and has_suffix(info.name, suffixes):
                    yield Member(f"{info.offset_data}+{info.size}", PurePosixPath(info.name).name, count // TAR_BLOCK)
                    count += 1
    except tarfile.TarError as error:
        raise InvalidInput(f"the tar is damaged or compressed: {error}", source=str(shard)) from None


def _parquet(shard: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(shard)
    except (pa.ArrowInvalid, OSError) as error:
        raise InvalidInput(f"not a Parquet file that can be read: {error}", source=str(shard)) from None


def _column_of(schema: Any, shard: Path, wanted: str) -> str:
    """Return the column of native files: a struct with ``bytes`` as the datasets library writes, or binary."""
    import pyarrow as pa

    if wanted:
        if wanted not in schema.names:
            raise InvalidManifest(f"{shard} has no column {wanted!r}; it has {', '.join(schema.names)}")
        return wanted
    held = [
        field.name
        for field in schema
        if pa.types.is_binary(field.type)
        or pa.types.is_large_binary(field.type)
        or (pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0)
    ]
    if len(held) != 1:
        raise InvalidManifest(
            f"{shard}: {len(held)} of the columns {', '.join(schema.names)} hold files; name the one that is meant "
            "with --column (a column of plain values can be named too)"
        )
    return held[0]


class ShardReader:
    """Reads members of shards; keeps the row groups it read last, for its neighbours."""

    def __init__(self, reader: Reader, column: str = "") -> None:
        """Keep how to read.

        Args:
            reader: Of the native files within.
            column: See `members`.
        """
        self.reader = reader
        self.column = column
        self._groups: OrderedDict[tuple[str, int], list[Any]] = OrderedDict()
        self._lock = threading.Lock()

    def samples(self, shard: Path, place: str, name: str) -> Iterator[Sample]:
        """Yield the samples of one member.

        Raises:
            InvalidInput: It cannot be read.
        """
        if "+" in place:
            offset, size = (int(part) for part in place.split("+"))
            with shard.open("rb") as stream:
                stream.seek(offset)
                yield from self.reader.read(Source.from_bytes(stream.read(size), name))
            return
        group, row = (int(part) for part in place.split("/"))
        value = self._group(shard, group)[row]
        if isinstance(value, dict) and "bytes" in value:
            name = value.get("path") or name
            value = value["bytes"]
        if value is None:
            raise InvalidInput("the row is empty", source=name)
        if isinstance(value, bytes):
            yield from self.reader.read(Source.from_bytes(value, name))
        else:
            yield from self.reader.parse(value, name)

    def _group(self, shard: Path, group: int) -> list[Any]:
        key = (str(shard), group)
        with self._lock:
            if key not in self._groups:
                table = _parquet(shard)
                column = _column_of(table.schema_arrow, shard, self.column)
                self._groups[key] = table.read_row_group(group, columns=[column]).column(0).to_pylist()
                if len(self._groups) > CACHED_GROUPS:
                    self._groups.popitem(last=False)
            self._groups.move_to_end(key)
            return self._groups[key]

    def __getstate__(self) -> dict[str, Any]:
        """Leave cache and lock behind: each reading process has its own."""
        return {"reader": self.reader, "column": self.column}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Start with an empty cache."""
        self.__init__(state["reader"], state["column"])  # type: ignore[misc]
