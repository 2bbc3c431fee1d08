"""Embeddings as a stream of rows: sent as they are done, in bounded memory, however many samples there are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from typing import Any, Protocol
from urllib.parse import quote

from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hub.errors import HubError, UnsupportedOption
from serving.answers import BIG_ANSWER, check_dimensions, count_flags, embedding_origin
from serving.bodies import MULTIPART, BodyReader
from serving.errors import InvalidRequest, Unavailable
from serving.front import Front
from serving.handling import Encoding, call_of, unless_gone
from serving.inputs import Input, as_inputs
from serving.jobs import Call, Output
from serving.problems import ErrorReport, report
from serving.protocols.arrow import ARROW, ArrowRows
from serving.protocols.ndjson import NDJSON, NdjsonRows, inputs_of_lines
from serving.schemas import ModelEmbeddingRequest, Options, form_values, parse_request
from serving.streams import Row, SampleStream

ROWS = 256
"""Of one piece of the answer at most."""


LINES_BODY: dict[str, Any] = {NDJSON: {"schema": {"type": "string", "description": "One input a line, as JSON."}}}
"""What the OpenAPI document says of a body of lines; its options stand in the query."""

STREAMED: dict[str, Any] = {
    "content": {
        NDJSON: {"schema": {"type": "string", "description": "A row a line; the last says that it is the last."}},
        ARROW: {"schema": {"type": "string", "format": "binary", "description": "An Arrow IPC stream of rows."}},
    },
}
"""What it says of a streamed answer, beside the whole one."""


class Rows(Protocol):
    """Writes rows in one format."""

    media_type: str

    def head(self) -> bytes:
        """Return what comes before the first row."""

    def rows(self, rows: Sequence[Row]) -> bytes:
        """Return rows."""

    def end(self, summary: dict[str, Any]) -> bytes:
        """Return what comes after the last row of a complete answer."""

    def broken(self, problem: ErrorReport) -> bytes:
        """Return what comes after the last row of an answer that cannot be completed."""


def stream_format(request: Request) -> str | None:
    """Return the media type of the stream that a request asks for; ``None`` when it asks for a whole answer."""
    for accepted in request.headers.get("accept", "").lower().split(","):
        kind = accepted.partition(";")[0].strip()
        if kind in (NDJSON, ARROW):
            return kind
    sent = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return NDJSON if sent == NDJSON else None


class StreamedEmbeddings(Response):
    """The answer to an embedding request as a stream of rows.

    The request's own errors are answered with their status. Once that is 200, what is wrong with an input or a sample
    is a row, and what ends the stream early is its last record.
    """

    def __init__(self, front: Front, request: Request, model: str, media_type: str) -> None:
        """Prepare to answer.

        Args:
            front: The rules, and the engine.
            request: It; its body has not been read.
            model: Id of the model; the request may use it.
            media_type: Of the answer: NDJSON or Arrow.
        """
        self._front = front
        self._request = request
        self._model = model
        self._kind = media_type
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        body_read = asyncio.Event()
        with self._front.body(self._request) as body:
            inputs, options, kind = await self._inputs(body, body_read)
            if options.sanity not in (None, "flags"):
                raise UnsupportedOption(
                    f"rows of a stream have no {options.sanity}: ask for sanity 'flags', or for a whole answer",
                    param="sanity",
                )
            call = call_of(self._request)
            answer = _Answer(self._front, self._request, self._model, self._kind, options, call, send)
            await unless_gone(self._request, answer.send(inputs, kind), body_read)

    async def _inputs(
        self, body: BodyReader, body_read: asyncio.Event
    ) -> tuple[AsyncIterator[Input | HubError], Options, str]:
        limit = self._front.engine.settings.max_body_bytes
        if body.content_type == NDJSON:
            options = parse_request(Options, form_values(_single(self._request.query_params)))
            return inputs_of_lines(self._request, limit, body_read), options, "input"
        given: Sequence[Input]
        if body.content_type == MULTIPART:
            form = await body.form()
            given, options, kind = form.files, parse_request(Options, form_values(form.fields)), "file"
        else:
            spec = parse_request(ModelEmbeddingRequest, await body.json())
            given, options, kind = as_inputs(spec.input), spec, "input"
        self._front.check_count(given, kind)
        body_read.set()
        return _each(given), options, kind


class _Answer:
    """Rows from the engine to the connection."""

    def __init__(
        self, front: Front, request: Request, model: str, media_type: str, options: Options, call: Call, send: Send
    ) -> None:
        self._front = front
        self._request = request
        self._model = model
        self._kind = media_type
        self._options = options
        self._call = call
        self._send = send
        self._patience = front.engine.patience(call)
        self._samples = self._errors = self._cost = 0

    async def send(self, inputs: AsyncIterator[Input | HubError], kind: str) -> None:
        self._front.lane(self._request, self._model)
        lane = self._front.engine.chosen(self._model, self._call)
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(self._patience):
                    stream = await stack.enter_async_context(
                        lane.stream(
                            inputs, pooling=self._options.pooling, layer=self._options.layer, kind=kind, call=self._call
                        )
                    )
            except TimeoutError:
                raise self._silence() from None
            assert lane.embedder is not None
            work = self._call.work
            width = lane.embedder.model.embedding_dimension(work.pooling, work.layer)
            check_dimensions(self._options.dimensions, width)
            origin = embedding_origin(self._model, self._call, self._options)
            rows: Rows
            if self._kind == ARROW:
                tokens = work.pooling == "none"
                width = self._options.dimensions or width
                rows = ArrowRows(self._options, self._call.id, width, tokens, origin)
            else:
                rows = NdjsonRows(self._options, self._call.id)
            await self._start(rows, origin)
            await self._rest(stream, rows, origin)

    async def _start(self, rows: Rows, origin: dict[str, str | None]) -> None:
        told = {f"X-Fmhub-{n.replace('_', '-').title()}": quote(v) for n, v in origin.items() if v is not None}
        headers = {"Content-Type": rows.media_type, **told}
        await self._send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
            }
        )
        await self._pass_on(rows.head())

    async def _rest(self, stream: SampleStream, rows: Rows, origin: dict[str, str | None]) -> None:
        try:
            while found := await self._next(stream):
                await self._pass_on(await self._written(rows, found))
        except ClientDisconnect:
            raise
        except Exception as error:
            problem = report(error, self._call.id)
            # The status has gone out; the log and the metrics tell by the code.
            self._request.state.error_code = problem.code
            last = rows.broken(problem)
        else:
            usage = {"prompt_tokens": self._cost, "total_tokens": self._cost}
            last = rows.end({**origin, "samples": self._samples, "errors": self._errors, "usage": usage})
        await self._pass_on(last, more=False)

    async def _next(self, stream: SampleStream) -> list[Row]:
        try:
            async with asyncio.timeout(self._patience):
                return await stream.rows(ROWS)
        except TimeoutError:
            raise self._silence() from None

    def _silence(self) -> Unavailable:
        return Unavailable(f"no row within {self._patience:g} s; try again later", code="timeout")

    async def _written(self, rows: Rows, found: list[Row]) -> bytes:
        done = [row.outcome for row in found if isinstance(row.outcome, Output)]
        count_flags(self._front.engine.metrics, self._model, [done])
        self._samples += len(done)
        self._errors += len(found) - len(done)
        self._cost += sum(output.cost for output in done)
        with Encoding(self._front.engine.metrics, self._model, self._call):
            big = sum(output.value.size for output in done) > BIG_ANSWER
            return await asyncio.to_thread(rows.rows, found) if big else rows.rows(found)

    async def _pass_on(self, content: bytes, more: bool = True) -> None:
        try:
            # Waits while the client does not take what was sent before: the reading pauses with it.
            async with asyncio.timeout(self._patience):
                await self._send({"type": "http.response.body", "body": content, "more_body": more})
        except TimeoutError:
            self._request.state.error_code = "client_stalled"
            raise ClientDisconnect from None


async def _each(inputs: Sequence[Input]) -> AsyncIterator[Input | HubError]:
    for item in inputs:
        yield item


def _single(query: QueryParams) -> dict[str, str]:
    """Return a query's fields; the body holds inputs alone, so the options stand there.

    Raises:
        InvalidRequest: One is given twice.
    """
    items = query.multi_items()
    fields = dict(items)
    if len(fields) < len(items):
        twice = next(name for name in fields if len(query.getlist(name)) > 1)[:100]
        raise InvalidRequest(f"{twice} is given twice", param=twice)
    return fields
