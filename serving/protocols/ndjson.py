"""Inputs and rows as lines of JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from starlette.requests import Request

from hub.errors import HubError
from serving.answers import encoded, sample_entry, sanity_of
from serving.bodies import decoded_json
from serving.errors import BodyTooLarge, MalformedRequest
from serving.inputs import Input, as_inputs
from serving.jobs import Output
from serving.problems import ErrorReport, report
from serving.schemas import Options
from serving.streams import Row

NDJSON = "application/x-ndjson"


async def inputs_of_lines(
    request: Request, max_line_bytes: int, body_read: asyncio.Event
) -> AsyncIterator[Input | HubError]:
    """Yield the inputs of a body of one JSON value a line, as they arrive; empty lines are none.

    Args:
        request: Whose body; what is not asked for stays with the sender.
        max_line_bytes: Limit on one line.
        body_read: Set at the end of the body.

    Yields:
        An input, or why a line is none.

    Raises:
        BodyTooLarge: A line is longer, and what is behind it cannot be trusted to be a line.
    """
    number, rest = 0, bytearray()
    async for chunk in request.stream():
        start = len(rest)
        rest += chunk
        # Only what is new is searched, so that a long line does not cost its square.
        while (end := rest.find(b"\n", start)) >= 0:
            line, start = bytes(rest[:end]).strip(), 0
            del rest[: end + 1]
            number += 1
            _check_length(line, number, max_line_bytes)
            if line:
                yield _input_of(line, number)
        _check_length(rest, number + 1, max_line_bytes)
    body_read.set()
    if line := bytes(rest).strip():
        yield _input_of(line, number + 1)


def _check_length(line: bytes | bytearray, number: int, limit: int) -> None:
    if len(line) > limit:
        raise BodyTooLarge(f"line {number} is larger than {limit} bytes, which is the most that one input may have")


def _input_of(line: bytes, number: int) -> Input | HubError:
    try:
        return as_inputs([decoded_json(line, f"line {number}")])[0]
    except MalformedRequest as error:
        return error


class NdjsonRows:
    """Rows, and what ends them, to lines of JSON."""

    media_type = NDJSON

    def __init__(self, options: Options, request_id: str) -> None:
        """Prepare to write.

        Args:
            options: How embeddings are sent.
            request_id: For messages about errors whose details stay in the log.
        """
        self._options = options
        self._id = request_id
        self._index = 0

    def head(self) -> bytes:
        """Return what comes before the first row: nothing."""
        return b""

    def rows(self, rows: Sequence[Row]) -> bytes:
        """Return rows as lines."""
        return b"".join(_line(self._row(row)) for row in rows)

    def _row(self, row: Row) -> dict[str, Any]:
        item: dict[str, Any] = {"input": row.index}
        if row.filename is not None:
            item["source"] = row.filename
        outcome = row.outcome
        if outcome.key is not None:
            item["key"] = outcome.key
        if isinstance(outcome, Output):
            entry = {"object": "embedding", **encoded(outcome.value, self._options)}
            if self._options.sanity is not None:
                entry["sanity"] = sanity_of(outcome)
            self._index += 1
            return sample_entry(self._index - 1, entry, item, outcome)
        problem = report(outcome.error, self._id)
        return {"object": "error", "message": problem.message, "code": problem.code, "item": item}

    def end(self, summary: Mapping[str, Any]) -> bytes:
        """Return what comes after the last row of a complete answer."""
        return _line({"object": "summary", **summary})

    def broken(self, problem: ErrorReport) -> bytes:
        """Return what comes after the last row of an answer that cannot be completed."""
        return _line({"object": "aborted", **problem.own_form()[0]})


def _line(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode() + b"\n"
