"""Rows as an Arrow IPC stream: a record batch for what is ready, the numbers as they lie in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from hub.doubts import codes_of
from serving.answers import shortened
from serving.jobs import Output
from serving.problems import ErrorReport, report
from serving.schemas import Options
from serving.streams import Row

ARROW = "application/vnd.apache.arrow.stream"

SUMMARY, ABORTED = "fmhub.summary", "fmhub.aborted"
"""Metadata of the last batch, which has no rows: what an answer came to, or why it breaks off. JSON."""


class ArrowRows:
    """Rows, and what ends them, to the bytes of an Arrow IPC stream."""

    media_type = ARROW

    def __init__(
        self, options: Options, request_id: str, dimension: int, tokens: bool, origin: Mapping[str, str | None]
    ) -> None:
        """Prepare to write.

        Args:
            options: How embeddings are sent.
            request_id: For messages about errors whose details stay in the log.
            dimension: Of each vector.
            tokens: Whether a sample has a list of vectors rather than one.
            origin: What made the embeddings; goes to the schema's metadata.
        """
        self._options = options
        self._id = request_id
        self._dimension = dimension
        vector = pa.list_(pa.field("item", pa.float32(), nullable=False), dimension)
        self._tokens = tokens
        self._type = pa.list_(vector) if tokens else vector
        metadata = {f"fmhub.{name}": value for name, value in origin.items() if value is not None}
        fields = [
            pa.field("embedding", self._type),
            pa.field("input", pa.int64(), nullable=False),
            pa.field("source", pa.string()),
            pa.field("key", pa.string()),
            pa.field("warnings", pa.list_(pa.string())),
            pa.field("error", pa.string()),
            pa.field("error_code", pa.string()),
        ]
        if options.sanity is not None:
            # Facts differ from domain to domain, and from sample to sample: text, so that every row has one type.
            fields += [pa.field("flags", pa.list_(pa.string())), pa.field("facts", pa.string())]
        self._schema = pa.schema(fields, metadata)
        self._sink = _Sink()
        self._writer = pa.ipc.new_stream(pa.PythonFile(self._sink, mode="w"), self._schema)

    def head(self) -> bytes:
        """Return the schema."""
        return self._sink.drain()

    def rows(self, rows: Sequence[Row]) -> bytes:
        """Return rows as a record batch; of a row without an embedding the error says why."""
        outcomes = [row.outcome for row in rows]
        values = [
            shortened(o.value, self._options.dimensions).astype(np.float32, copy=False)
            if isinstance(o, Output)
            else None
            for o in outcomes
        ]
        problems = [None if isinstance(o, Output) else report(o.error, self._id) for o in outcomes]
        columns = [
            self._embeddings(values),
            pa.array([row.index for row in rows], pa.int64()),
            pa.array([row.filename for row in rows], pa.string()),
            pa.array([o.key for o in outcomes], pa.string()),
            pa.array([list(o.warnings) if isinstance(o, Output) else [] for o in outcomes], pa.list_(pa.string())),
            pa.array([p and p.message for p in problems], pa.string()),
            pa.array([p and p.code for p in problems], pa.string()),
        ]
        if self._options.sanity is not None:
            good = [o if isinstance(o, Output) else None for o in outcomes]
            columns.append(pa.array([o and codes_of(o.warnings) for o in good], pa.list_(pa.string())))
            columns.append(pa.array([o and json.dumps(dict(o.facts), allow_nan=False) for o in good], pa.string()))
        self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=self._schema))
        return self._sink.drain()

    def _embeddings(self, values: Sequence[np.ndarray | None]) -> pa.Array:
        missing = pa.array([value is None for value in values])
        if self._tokens:
            counts = [0 if value is None else len(value) for value in values]
            offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
            flat = [value.reshape(-1) for value in values if value is not None]
            vectors = self._vectors(flat, self._type.value_type)
            return pa.ListArray.from_arrays(offsets, vectors, self._type, mask=missing)
        blank = np.zeros(self._dimension, np.float32)
        return self._vectors([blank if v is None else v for v in values], self._type, missing)

    def _vectors(self, values: Sequence[np.ndarray], kind: pa.DataType, missing: pa.Array | None = None) -> pa.Array:
        flat = np.concatenate(values) if values else np.zeros(0, np.float32)
        return pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float32()), type=kind, mask=missing)

    def end(self, summary: Mapping[str, object]) -> bytes:
        """Return what comes after the last row of a complete answer: a batch without rows, and the end's mark."""
        return self._last({SUMMARY: json.dumps(summary)})

    def broken(self, problem: ErrorReport) -> bytes:
        """Return what comes after the last row of an answer that cannot be completed."""
        return self._last({ABORTED: json.dumps(problem.own_form()[0]["error"])})

    def _last(self, metadata: dict[str, str]) -> bytes:
        self._writer.write_batch(pa.RecordBatch.from_pylist([], self._schema), custom_metadata=metadata)
        self._writer.close()
        return self._sink.drain()


class _Sink:
    """A file that is written and keeps nothing that has been drained."""

    closed = False

    def __init__(self) -> None:
        self._content = bytearray()

    def write(self, content: bytes) -> int:
        self._content += memoryview(content)
        return len(content)

    def drain(self) -> bytes:
        found, self._content = bytes(self._content), bytearray()
        return found

    def flush(self) -> None:
        """Be a file."""

    def close(self) -> None:
        """Be a file."""
