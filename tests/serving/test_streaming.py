from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
from arithmetic import POISON, expected, file_of
from conftest import model_of, running_app

from serving import streams
from serving.app import create_app

PATH = "/v1/models/dummy/embeddings"
NDJSON, ARROW = "application/x-ndjson", "application/vnd.apache.arrow.stream"


async def post(http: httpx.AsyncClient, accept: str = NDJSON, path: str = PATH, **content: Any) -> httpx.Response:
    return await http.post(path, headers={"accept": accept}, **content)


def lines(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == NDJSON
    return [json.loads(line) for line in answer.text.splitlines()]


def upload(*contents: bytes) -> list[Any]:
    return [("file", (f"{number}.num", content)) for number, content in enumerate(contents)]


class Connection:
    """An ASGI connection whose two ends move when the test says so."""

    def __init__(self, app: Any, body: AsyncIterator[bytes], content_type: str, query: bytes = b"") -> None:
        self.sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue(1)
        self.gone = asyncio.Event()
        self._body = body
        scope = {
            "type": "http", "method": "POST", "path": PATH, "raw_path": PATH.encode(), "query_string": query,
            "headers": [(b"content-type", content_type.encode()), (b"accept", NDJSON.encode())],
            "http_version": "1.1", "scheme": "http", "server": ("service", 80), "client": ("me", 1), "root_path": "",
            "asgi": {"version": "3.0"},
        }  # fmt: skip
        self.task = asyncio.create_task(app(scope, self._receive, self.sent.put))

    async def _receive(self) -> dict[str, Any]:
        chunk = await anext(self._body, None)
        if chunk is not None:
            return {"type": "http.request", "body": chunk, "more_body": True}
        if not hasattr(self, "_ended"):
            self._ended = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def lines(self) -> list[dict[str, Any]]:
        """The lines of the next piece of the answer."""
        message = await self.sent.get()
        return [json.loads(line) for line in message.get("body", b"").splitlines()]


def test_rows_of_many_samples_in_order_with_what_went_wrong(run: Callable[..., Any]) -> None:
    files = [file_of([1], ["x"], [POISON], [2, 3]), b"damaged", file_of([0], *([i] for i in range(1001, 1600)))]

    async def main() -> None:
        async with running_app() as (http, engine):
            rows = lines(answer := await post(http, files=upload(*files)))
            *rows, summary = rows
            assert [(r["item"]["input"], r["item"].get("key")) for r in rows] == [
                (0, "s0"), (0, "s1"), (0, "s2"), (0, "s3"), (1, None), *((2, f"s{i}") for i in range(600)),
            ]  # fmt: skip
            assert [r["code"] for r in rows if r["object"] == "error"] == [
                "no_number", "internal_error", "unsupported_format",
            ]  # fmt: skip
            assert "secret" not in answer.text
            good = [r for r in rows if r["object"] == "embedding"]
            assert [r["index"] for r in good] == list(range(602)) and good[0]["item"]["source"] == "0.num"
            wanted = [expected(v) for v in ([1], [2, 3], [0], *([i] for i in range(1001, 1600)))]
            np.testing.assert_allclose([r["embedding"] for r in good], wanted, rtol=1e-6)
            assert "warnings" in good[2]  # of zeros
            whole = (await http.post(PATH, files=upload(file_of([1])))).json()
            origin = {name: whole[name] for name in ("model", "revision", "weights", "processor", "embedding_space")}
            usage = {"prompt_tokens": 603, "total_tokens": 603}
            assert summary == {"object": "summary", **origin, "samples": 602, "errors": 3, "usage": usage}
            assert answer.headers["x-fmhub-embedding-space"] == origin["embedding_space"]
            text = engine.metrics.exposition()[0].decode()
            assert 'fmhub_requests_total{model="dummy",route="/v1/models/{model}/embeddings",status="200"} 2.0' in text
            assert engine.lane("dummy").pending == 0

    run(main())


def test_arrow(run: Callable[..., Any]) -> None:
    async def main() -> None:
        async with running_app() as (http, _):
            answer = await post(http, ARROW, files=upload(file_of([1], ["x"], [2]), b"?"))
            reader = pa.ipc.open_stream(answer.content)
            assert reader.schema.field("embedding").type.list_size == 4
            told = {k.decode(): v.decode() for k, v in reader.schema.metadata.items()}
            assert told["fmhub.model"] == "dummy" and len(told["fmhub.embedding_space"]) == 32
            batches, metadata = [], None
            for batch, metadata in reader.iter_batches_with_custom_metadata():  # noqa: B007
                batches.append(batch)
            assert metadata is not None
            summary = json.loads(metadata["fmhub.summary"])
            assert (summary["samples"], summary["errors"]) == (2, 2) and summary["weights"] == told["fmhub.weights"]
            table = pa.Table.from_batches(batches)
            assert table["key"].to_pylist() == ["s0", "s1", "s2", None]
            assert table["error_code"].to_pylist() == [None, "no_number", None, "unsupported_format"]
            good = table.filter(pa.compute.is_valid(table["embedding"])).combine_chunks()
            vectors = good["embedding"].chunk(0).flatten().to_numpy().reshape(-1, 4)
            np.testing.assert_allclose(vectors, [expected([1]), expected([2])], rtol=1e-6)
            tokens = await post(http, ARROW, json={"input": ["1 2", "x", "3"], "pooling": "none", "dimensions": 2})
            column = pa.ipc.open_stream(tokens.content).read_all()["embedding"].to_pylist()
            assert [None if c is None else len(c) for c in column] == [2, None, 1]
            assert np.allclose(np.linalg.norm(column[0], axis=1), 1)

    run(main())


def test_lines_in_lines_out(run: Callable[..., Any]) -> None:
    async def main() -> None:
        async with running_app(max_body_bytes=3000, max_inputs=2, max_samples=2) as (http, _):
            content = [json.dumps({"numbers": [i + 0.25], "scale": 2}) for i in range(300)]
            content[7], content[9], content[11] = '{"bad', "[404]", ""
            body = "\r\n".join(content).encode()
            # Limits on a request's body, inputs and samples are for answers that are held as a whole.
            assert len(body) > 3000
            answer = await http.post(
                f"{PATH}?pooling=max&encoding_format=float", content=body, headers={"content-type": NDJSON}
            )
            *rows, summary = lines(answer)
            assert len(rows) == 299 and summary["samples"] == 297
            assert [r["embedding"][0] for r in rows if "embedding" in r] == [
                2 * i + 0.5 for i in range(300) if i not in (7, 9, 11)
            ]
            assert rows[7]["code"] == "invalid_json" and rows[7]["message"].startswith("line 8 is not JSON")
            assert rows[9]["code"] == "internal_error" and rows[9]["item"] == {"input": 9}
            for query, words in (
                ("?pooling=median", "none, mean"),
                ("?x=1", "no field 'x'"),
                ("?layer=1&layer=1", "twice"),
            ):
                answer = await http.post(PATH + query, content=b"[1]", headers={"content-type": NDJSON})
                assert answer.status_code == 422 and words in answer.json()["error"]["message"]
            long = await http.post(PATH, content=b"[1]\n" + b" " * 3001, headers={"content-type": NDJSON})
            assert [r["object"] for r in lines(long)] == ["embedding", "aborted"]
            assert lines(long)[1]["error"]["code"] == "body_too_large"

    run(main())


def test_the_requests_own_errors_have_their_status(run: Callable[..., Any]) -> None:
    async def main() -> None:
        async with running_app("dummy", {"name": "missing", "load": "first_use"}, max_inputs=2) as (http, _):
            for content, status, path in (
                ({"json": {"input": "1", "pooling": "median"}}, 422, PATH),
                ({"json": {"input": "1", "dimensions": 5}}, 422, PATH),
                ({"json": {"input": []}}, 422, PATH),
                ({"json": {"input": ["1", "2", "3"]}}, 413, PATH),
                ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, PATH),
                ({"json": {"input": "1"}}, 404, "/v1/models/nope/embeddings"),
                ({"json": {"input": "1"}}, 503, "/v1/models/missing/embeddings"),
            ):
                headers = {"accept": NDJSON} | content.pop("headers", {})  # type: ignore[attr-defined]
                answer = await http.post(path, headers=headers, **content)
                assert answer.status_code == status and "code" in answer.json()["error"], answer.text

    run(main())


def test_the_first_rows_come_before_the_last_input(run: Callable[..., Any]) -> None:
    async def main() -> None:
        async with running_app() as (_, engine):
            more: asyncio.Queue[bytes | None] = asyncio.Queue()

            async def body() -> AsyncIterator[bytes]:
                while (chunk := await more.get()) is not None:
                    yield chunk

            connection = Connection(create_app(engine), body(), NDJSON)
            await more.put(b"[1]\n[2")
            assert (await connection.sent.get())["status"] == 200
            assert await connection.lines() == []
            (first,) = await connection.lines()
            assert first["embedding"][0] == 1
            await more.put(b"]\n")
            (second,) = await connection.lines()
            assert second["embedding"][0] == 2
            await more.put(None)
            (last,) = await connection.lines()
            assert last["object"] == "summary"
            await connection.task

    run(main())


def test_a_client_that_takes_nothing_stops_the_reading(run: Callable[..., Any], monkeypatch: Any) -> None:
    monkeypatch.setattr(streams, "HELD_SAMPLES", 8)

    async def main() -> None:
        async with running_app(reader_workers=3) as (_, engine):
            taken = 0

            async def body() -> AsyncIterator[bytes]:
                nonlocal taken
                for number in range(2000):
                    taken += 1
                    yield f"[{number}.5]\n".encode()

            connection = Connection(create_app(engine), body(), NDJSON)
            await asyncio.sleep(0.5)
            held = taken
            # What is held, one piece on its way, and what each reader has in hand.
            assert held < 60
            await asyncio.sleep(0.3)
            assert taken == held
            rows: list[dict[str, Any]] = []
            while not rows or rows[-1]["object"] != "summary":
                rows += await connection.lines()
            assert [r["embedding"][0] for r in rows[:-1]] == [i + 0.5 for i in range(2000)]
            await connection.task

    run(main())


def test_a_long_file_does_not_wait_for_those_behind_it(run: Callable[..., Any], monkeypatch: Any) -> None:
    monkeypatch.setattr(streams, "HELD_SAMPLES", 4)

    async def main() -> None:
        async with running_app(reader_workers=3) as (http, _):
            files = [file_of(*([i, number] for i in range(50))) for number in range(7)]
            *rows, _ = lines(await post(http, files=upload(*files)))
            assert [(r["item"]["input"], r["item"]["key"]) for r in rows] == [
                (n, f"s{i}") for n in range(7) for i in range(50)
            ]

    run(main())


def test_who_leaves_ends_the_work(run: Callable[..., Any]) -> None:
    async def main() -> None:
        async with running_app() as (_, engine):
            model = model_of(engine)
            model.delay = 0.01

            async def endless() -> AsyncIterator[bytes]:
                while not connection.gone.is_set():
                    yield b"[1]\n"

            connection = Connection(create_app(engine), endless(), NDJSON)
            await connection.lines()
            await connection.lines()
            assert await connection.lines() and engine.lane("dummy").pending == 1
            connection.gone.set()
            while not connection.task.done():
                connection.sent.get_nowait() if connection.sent.full() else await asyncio.sleep(0.01)
            assert engine.lane("dummy").pending == 0
            done = len(model.batches)
            await asyncio.sleep(0.1)
            assert len(model.batches) <= done + 1

    run(main())


@pytest.mark.parametrize("stuck", ["model", "client"])
def test_time_between_rows_runs_out(run: Callable[..., Any], stuck: str) -> None:
    async def main() -> None:
        async with running_app(request_timeout_s=0.3) as (http, engine):
            model = model_of(engine)
            if stuck == "model":
                model.gate.clear()
                answer = lines(await post(http, json={"input": ["1"]}))
                assert answer[0]["object"] == "aborted" and answer[0]["error"]["code"] == "timeout"
                model.gate.set()
                # As long as rows come in time, the whole may take longer.
                model.delay = 0.1
                files = upload(file_of(*([1.0] * 400 for _ in range(8))))
                assert lines(await post(http, files=files))[-1]["samples"] == 8
            else:

                async def body() -> AsyncIterator[bytes]:
                    yield b"[1]\n[2]\n"

                connection = Connection(create_app(engine), body(), NDJSON)
                await asyncio.wait_for(connection.task, 5)
                assert 'code="client_stalled"' in engine.metrics.exposition()[0].decode()
            assert engine.lane("dummy").pending == 0

    run(main())


def test_a_service_that_stops_says_so_in_the_stream(run: Callable[..., Any]) -> None:
    async def main() -> None:
        async with running_app(shutdown_grace_s=0.1) as (http, engine):
            model_of(engine).gate.clear()
            waiting = asyncio.create_task(post(http, json={"input": ["1"]}))
            while not model_of(engine).entered.is_set():
                await asyncio.sleep(0.01)
            model = model_of(engine)
            await engine.lane("dummy").close()
            assert lines(await waiting)[0]["error"]["code"] == "shutting_down"
            model.gate.set()

    run(main())
