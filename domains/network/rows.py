"""Flows as netFound stores them: rows of an Arrow IPC stream, of which its published corpora are made."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from domains.network.flow import MAX_BURSTS, MAX_PACKETS, PACKET_TOKENS, Flow
from hub.errors import InvalidInput, TooLarge
from hub.reading import Source

SCHEMA = pa.schema(
    [
        ("flow_duration", pa.uint64()),
        ("burst_tokens", pa.list_(pa.list_(pa.uint16()))),
        ("directions", pa.list_(pa.bool_())),
        ("bytes", pa.list_(pa.uint32())),
        ("iats", pa.list_(pa.uint64())),
        ("counts", pa.list_(pa.uint32())),
        ("protocol", pa.uint16()),
        ("labels", pa.string()),
    ]
)
"""The stored row; ``labels`` may be missing or hold numbers."""
ROWS_PER_BATCH = 1_000
MAX_MESSAGE = 1 << 28
"""Longest batch of rows that is taken."""
_CONTINUATION = b"\xff\xff\xff\xff"
_REQUIRED = SCHEMA.names[:-1]


def is_rows(head: bytes) -> bool:
    """Return whether a file that begins so is an Arrow IPC stream."""
    return head.startswith(_CONTINUATION)


def flow_of(row: Any) -> Flow:
    """Return the flow of a stored row.

    Args:
        row: Values by column; ``labels`` is not looked at.

    Raises:
        InvalidInput: A field is missing, of another form, or contradicts another.
    """
    if not isinstance(row, Mapping) or not set(_REQUIRED) <= set(row):
        raise InvalidInput(f"a row of a flow has the fields {', '.join(_REQUIRED)}", code="bad_row")
    bursts, directions = row["burst_tokens"], row["directions"]
    if not isinstance(bursts, list) or not bursts:
        raise InvalidInput("burst_tokens must be a list of bursts", code="bad_row")
    if not isinstance(directions, list) or not all(isinstance(d, bool) for d in directions):
        raise InvalidInput("directions must be a list of true and false", code="bad_row")
    return _checked(
        [_numbers("burst_tokens", burst, np.uint16) for burst in bursts],
        np.array(directions, bool),
        _numbers("bytes", row["bytes"], np.uint32),
        _numbers("iats", row["iats"], np.uint64),
        _numbers("counts", row["counts"], np.uint32),
        int(_numbers("protocol", [row["protocol"]], np.uint16)[0]),
        int(_numbers("flow_duration", [row["flow_duration"]], np.uint64)[0]),
    )


def read_rows(source: Source) -> Iterator[tuple[Flow | InvalidInput, str]]:
    """Yield each row of an Arrow IPC stream, or why it cannot be used, and its label.

    It is read batch by batch, so memory follows the batch and not the file.

    Raises:
        InvalidInput: It is damaged or has other columns.
        TooLarge: A batch is longer than is taken.
    """
    try:
        with pa.memory_map(str(source.path)) if source.path is not None else pa.BufferReader(source.content) as buffer:
            messages = pa.ipc.MessageReader.open_stream(buffer)
            first = messages.read_next_message()
            if first.type != "schema":  # pyarrow takes the caller's word for it, and would crash
                raise InvalidInput("an Arrow stream that begins with no schema", code="corrupt_stream")
            schema = pa.ipc.read_schema(first)
            _check_schema(schema)
            for message in messages:
                yield from _batch(message, schema)
    except (pa.ArrowException, OSError, UnicodeDecodeError, StopIteration) as error:
        raise InvalidInput(f"a damaged Arrow stream ({type(error).__name__})", code="corrupt_stream") from None


def write_rows(path: Path, flows: Iterable[Flow], label: str = "") -> int:
    """Write flows as netFound stores them; return how many there were.

    Args:
        path: File to write; replaced if it exists, once all is written.
        flows: Taken one after the other, in batches of 1,000.
        label: What each row is labelled with.
    """
    partial, count = path.with_name(path.name + ".partial"), 0
    try:
        with pa.OSFile(str(partial), "wb") as file, pa.ipc.new_stream(file, SCHEMA) as writer:
            batch: list[dict[str, Any]] = []
            for flow in flows:
                batch.append({**row_of(flow), "labels": label})
                if len(batch) == ROWS_PER_BATCH:
                    writer.write_batch(pa.RecordBatch.from_pylist(batch, SCHEMA))
                    count, batch = count + len(batch), []
            if batch:
                writer.write_batch(pa.RecordBatch.from_pylist(batch, SCHEMA))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return count + len(batch)


def row_of(flow: Flow) -> dict[str, Any]:
    """Return a flow as a stored row, ``labels`` left out."""
    return {
        "flow_duration": flow.duration,
        "burst_tokens": [burst.tolist() for burst in flow.burst_tokens],
        "directions": flow.directions.tolist(),
        "bytes": flow.bytes.tolist(),
        "iats": flow.iats.tolist(),
        "counts": flow.counts.tolist(),
        "protocol": flow.protocol,
    }


def _checked(
    tokens: list[NDArray[np.uint16]],
    directions: NDArray[np.bool_],
    sizes: NDArray[np.uint32],
    iats: NDArray[np.uint64],
    counts: NDArray[np.uint32],
    protocol: int,
    duration: int,
) -> Flow:
    """Return a flow, or raise InvalidInput where its parts contradict one another."""
    if protocol not in PACKET_TOKENS:
        raise InvalidInput(f"protocol {protocol}; 1 (ICMP), 6 (TCP) and 17 (UDP) are read", code="bad_row")
    if not 1 <= len(tokens) <= MAX_BURSTS:
        raise InvalidInput(f"{len(tokens)} bursts; a flow has 1 to {MAX_BURSTS}", code="bad_row")
    if any(len(column) != len(tokens) for column in (directions, sizes, iats, counts)):
        raise InvalidInput("directions, bytes, iats and counts must have one entry a burst", code="bad_row")
    width = PACKET_TOKENS[protocol]
    for burst, count in zip(tokens, counts.tolist(), strict=True):
        if not 1 <= count <= MAX_PACKETS or len(burst) != width * count:
            raise InvalidInput(
                f"a burst of {len(burst)} tokens and {count} packets; of this protocol it has {width} tokens for each "
                f"of 1 to {MAX_PACKETS} packets (rows made with TCP options are not read)",
                code="bad_row",
            )
    return Flow(tokens, directions, sizes, iats, counts, protocol, duration, packets=int(counts.sum()))


def _numbers(name: str, values: Any, kind: type) -> NDArray:
    """Return a list of whole numbers as an array, or raise InvalidInput where it is none."""
    most = int(np.iinfo(kind).max)
    whole = isinstance(values, list) and all(isinstance(v, int) and not isinstance(v, bool) for v in values)
    if not whole or any(not 0 <= v <= most for v in values):
        raise InvalidInput(f"{name} must hold whole numbers from 0 to {most}", code="bad_row")
    return np.array(values, kind)


def _check_schema(schema: pa.Schema) -> None:
    missing = [name for name in _REQUIRED if schema.names.count(name) != 1]
    other = [name for name in _REQUIRED if name not in missing and schema.field(name).type != SCHEMA.field(name).type]
    if missing or other:
        raise InvalidInput(
            f"an Arrow stream of other rows than netFound's: {', '.join(missing + other)} missing or of another type",
            code="bad_schema",
        )


def _batch(message: pa.Message, schema: pa.Schema) -> Iterator[tuple[Flow | InvalidInput, str]]:
    """Yield the rows of one message."""
    if message.type != "record batch":
        raise InvalidInput("an Arrow stream with dictionaries; rows of plain columns are needed", code="bad_schema")
    if message.body is not None and message.body.size > MAX_MESSAGE:
        raise TooLarge(f"a batch of rows of {message.body.size:,} bytes; at most {MAX_MESSAGE:,} are read")
    if _compressed(message.metadata.to_pybytes()):
        # How much a compressed batch unpacks to is not known before it has been.
        raise InvalidInput("an Arrow stream with compressed batches; write it without compression", code="compressed")
    batch = pa.ipc.read_record_batch(message, schema)
    batch.validate(full=True)
    labelled = schema.names.count("labels") == 1
    labels = batch.column("labels").to_pylist() if labelled else [None] * len(batch)
    bursts, burst_edges = _lists(batch.column("burst_tokens"))
    tokens, token_edges = _lists(bursts)
    values = _plain(tokens)
    columns = {name: _lists(batch.column(name)) for name in ("directions", "bytes", "iats", "counts")}
    plain = {name: _plain(column) for name, (column, _) in columns.items()}
    protocols, durations = _plain(batch.column("protocol")).tolist(), _plain(batch.column("flow_duration")).tolist()
    for number, label in enumerate(labels):
        directions, sizes, iats, counts = (
            plain[name][ends[number] : ends[number + 1]] for name, (_, ends) in columns.items()
        )
        edges = token_edges[burst_edges[number] : burst_edges[number + 1] + 1]
        cut = [values[a:b] for a, b in itertools.pairwise(edges)]
        row: Flow | InvalidInput
        try:
            row = _checked(cut, directions, sizes, iats, counts, protocols[number], durations[number])
        except InvalidInput as error:
            row = error
        yield row, "" if label is None else str(label)


def _lists(column: pa.ListArray) -> tuple[pa.Array, list[int]]:
    """Return the entries of all lists, one after the other, and where in them each list begins and the last ends."""
    if column.null_count:
        raise InvalidInput("an Arrow stream with missing values", code="bad_row")
    return column.values, column.offsets.to_pylist()


def _plain(column: pa.Array) -> NDArray:
    if column.null_count:
        raise InvalidInput("an Arrow stream with missing values", code="bad_row")
    return column.to_numpy(zero_copy_only=False)


def _compressed(metadata: bytes) -> bool:
    """Return whether a batch's header names a compression: the fourth field of its table.

    Format: https://arrow.apache.org/docs/format/Columnar.html and Message.fbs, a flatbuffer.
    """

    def field(table: int, number: int) -> int:
        (back,) = struct.unpack_from("<i", metadata, table)
        (size,) = struct.unpack_from("<H", metadata, table - back)
        offset = 4 + 2 * number
        return struct.unpack_from("<H", metadata, table - back + offset)[0] if offset < size else 0

    try:
        (message,) = struct.unpack_from("<I", metadata)
        place = message + field(message, 2)
        header = place + struct.unpack_from("<I", metadata, place)[0]
        return field(header, 3) != 0
    except struct.error:
        raise InvalidInput("a damaged Arrow stream (its batch header)", code="corrupt_stream") from None
