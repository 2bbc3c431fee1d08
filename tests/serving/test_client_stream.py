from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from arithmetic import expected, file_of
from conftest import running_engine

from serving.app import create_app
from serving.client import AsyncClient, Client, Retries, ServiceError


def test_rows_of_several_requests(run: Callable[..., Any], tmp_path: Path) -> None:
    samples = [[[n + 0.5, i] for i in range(5)] for n in range(70)]
    for number, group in enumerate(samples):
        (tmp_path / f"{number:02}.num").write_bytes(file_of(*group) if number != 66 else b"damaged")
    files = sorted(tmp_path.iterdir())

    async def main() -> None:
        # An answer as a whole may hold 10 samples.
        async with running_engine(max_samples=10) as engine:
            transport = httpx.ASGITransport(app=create_app(engine))
            async with AsyncClient("http://service", transport=transport) as client:
                rows = []
                async with client.stream("dummy", files, on_error="collect") as stream:
                    async for row in stream:
                        rows.append(row)
                kept = [n for n in range(70) if n != 66]
                assert [(r.item.input, r.item.source, r.item.key) for r in rows] == [
                    (n, f"{n:02}.num", f"s{i}") for n in kept for i in range(5)
                ]
                wanted = [expected(v) for n in kept for v in samples[n]]
                np.testing.assert_allclose([r.vector for r in rows], wanted, rtol=1e-5)
                assert [(e.input, e.code) for e in stream.errors] == [(66, "unsupported_format")]
                assert stream.cost == 69 * 10 and len(stream.embedding_space) == 32
                with pytest.raises(ServiceError, match=r"66\.num: not a file of numbers") as refusal:
                    [row async for row in client.stream("dummy", files)]
                assert refusal.value.input == 66
                with pytest.raises(ServiceError, match="none, mean"):
                    [row async for row in client.stream("dummy", "1", pooling="median")]
                tokens = [row async for row in client.stream("dummy", "1 2", pooling="none")]
                assert tokens[0].vector.shape == (2, 4)
                async with client.stream("dummy", files) as stream:
                    async for _ in stream:
                        break
            assert engine.lane("dummy").pending == 0

    run(main())


class Breaking(httpx.SyncByteStream):
    def __init__(self, lines: list[dict[str, Any]], breaks: bool) -> None:
        self.lines, self.breaks = lines, breaks

    def __iter__(self) -> Iterator[bytes]:
        for line in self.lines:
            yield json.dumps(line).encode() + b"\n"
        if self.breaks:
            raise httpx.ReadError("reset")


def entry(number: int) -> dict[str, Any]:
    vector = base64.b64encode(np.array([number], "<f4").tobytes()).decode()
    return {"object": "embedding", "index": number, "embedding": vector, "item": {"input": 0, "key": str(number)}}


def test_a_broken_stream_goes_on_where_it_broke() -> None:
    refused = {"object": "error", "message": "bad", "code": "no_number", "item": {"input": 0, "key": "x"}}
    rows = [entry(0), refused, entry(1), entry(2)]
    end = {"object": "summary", "usage": {"total_tokens": 3}}
    stopping = {"object": "aborted", "error": {"message": "stops", "code": "shutting_down", "param": None}}
    plans: list[Any] = [429, (rows[:2], True), ([*rows[:3], stopping], False), ([*rows, end], False)]
    waits: list[float] = []

    def handle(request: httpx.Request) -> httpx.Response:
        assert request.headers["accept"] == "application/x-ndjson" and "model" not in json.loads(request.content)
        plan = plans.pop(0)
        if plan == 429:
            return httpx.Response(429, headers={"retry-after": "2"})
        return httpx.Response(200, headers={"x-fmhub-embedding-space": space}, stream=Breaking(*plan))

    space = "one"
    retries = Retries(random=lambda: 1.0)
    transport = httpx.MockTransport(handle)
    with Client("http://service", transport=transport, sleep=waits.append, retries=retries) as client:
        with client.stream("dummy", "1") as stream:
            assert [(row.vector[0], row.item.key) for row in stream] == [(0, "0"), (1, "1"), (2, "2")]
        assert stream.cost == 3 and [e.key for e in stream.errors] == ["x"] and len(waits) == 3 and waits[0] >= 2
        plans[:] = [(rows[:1], True), ([*rows, end], False)]
        rows_of = iter(client.stream("dummy", "1"))
        next(rows_of)
        space = "two"
        with pytest.raises(ServiceError, match="model changed"):
            list(rows_of)
        plans[:] = [([{**stopping, "error": {"message": "slow", "code": "timeout", "param": None}}], False)]
        with pytest.raises(ServiceError, match="slow"):
            list(client.stream("dummy", "1"))
