from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import http_checks
import httpx
import numpy as np
import pytest
import uvicorn
from arithmetic import expected, file_of
from conftest import model_of, settings

from serving.addresses import listening_socket
from serving.app import create_app
from serving.client import AsyncClient, Client, Embeddings, Retries, ServiceError
from serving.engine import Engine


class Live:
    """The application under a real uvicorn in a thread."""

    def __init__(self) -> None:
        self.socket = listening_socket("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.ready = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self.thread.start()
        assert self.ready.wait(60)

    async def _serve(self) -> None:
        self.engine = Engine(settings("dummy", "org/other", max_body_bytes=200_000, reader_workers=1))
        config = uvicorn.Config(create_app(self.engine), lifespan="on", log_level="warning")
        self.server = uvicorn.Server(config)
        await self.engine.wait_ready()
        self.ready.set()
        await self.server.serve(sockets=[self.socket])

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(10)
        assert not self.thread.is_alive()
        self.socket.close()


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    service = Live()
    yield service
    service.stop()


def test_routes(live: Live) -> None:
    http_checks.check_routes(live.url)


def test_errors(live: Live) -> None:
    http_checks.check_errors(live.url)


def test_openai_client(live: Live) -> None:
    http_checks.check_openai(live.url)


def test_own_client(live: Live, tmp_path: Any) -> None:
    http_checks.check_client(live.url, str(tmp_path))


def test_concurrency(live: Live) -> None:
    http_checks.check_concurrency(live.url)


def test_a_client_that_leaves_costs_no_forward(live: Live) -> None:
    model, lane = model_of(live.engine), live.engine.lane("dummy")
    model.gate.clear()
    model.entered.clear()

    def ask(value: str, timeout: float) -> httpx.Response:
        body = {"model": "dummy", "input": value}
        return httpx.post(f"{live.url}/v1/embeddings", json=body, timeout=timeout)

    with ThreadPoolExecutor(1) as threads:
        stays = threads.submit(ask, "1", 20)
        assert model.entered.wait(5)
        before = len(model.batches)
        for _ in range(5):
            with pytest.raises(httpx.ReadTimeout):
                ask("2", 0.1)
        deadline = time.monotonic() + 5
        while lane.pending > 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert lane.pending == 1
        model.gate.set()
        assert stays.result().status_code == 200
    assert len(model.batches) == before


def test_chunked_and_lying_bodies(live: Live) -> None:
    host = live.url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=10)
    body = json.dumps({"model": "dummy", "input": "1 2"}).encode()
    connection.request(
        "POST", "/v1/embeddings", iter([body[:5], body[5:]]), {"Content-Type": "application/json"},
        encode_chunked=True,
    )  # fmt: skip
    assert connection.getresponse().status == 200
    connection.close()
    claimed = http.client.HTTPConnection(host, timeout=10)
    claimed.putrequest("POST", "/v1/embeddings")
    claimed.putheader("Content-Type", "application/json")
    claimed.putheader("Content-Length", str(2 * 1024**3))
    claimed.endheaders()
    # Answered without waiting for two gigabytes.
    assert claimed.getresponse().status == 413
    claimed.close()


def test_client_says_when_nobody_answers() -> None:
    with listening_socket("127.0.0.1", 0) as found:
        port = found.getsockname()[1]
    with (
        Client(f"http://127.0.0.1:{port}", retries=Retries(attempts=2)) as client,
        pytest.raises(ServiceError, match="no answer"),
    ):
        client.models()


def test_async_client_sends_a_folder_within_the_limits(live: Live, tmp_path: Any) -> None:
    rng = np.random.default_rng(0)
    samples = [rng.normal(size=int(n)).round(3).tolist() for n in rng.choice([3, 300, 3000], size=150)]
    for number, sample in enumerate(samples):
        (tmp_path / f"{number:03}.num").write_bytes(file_of(sample) if number not in (20, 90) else b"damaged")
    files = sorted(tmp_path.iterdir())
    # Together they are larger than one body may be.
    assert sum(f.stat().st_size for f in files) > 2 * 200_000

    async def main() -> Embeddings:
        async with AsyncClient(live.url, concurrency=3) as client:
            assert [m["id"] for m in await client.models()] == ["dummy", "org/other"]
            assert await client.run("dummy", "total", ["1 2"]) == [{"total": 3.0}]
            with pytest.raises(ServiceError) as refusal:
                await client.embed("dummy", files)
            assert refusal.value.input in (20, 90) and refusal.value.status == 415 and refusal.value.request_id
            return await client.embed("dummy", files, on_error="collect")

    found = asyncio.run(asyncio.wait_for(main(), 30))
    kept = [n for n in range(150) if n not in (20, 90)]
    assert [i.input for i in found.items] == kept and [i.source for i in found.items] == [files[n].name for n in kept]
    wanted = [expected(samples[n]) for n in kept]
    np.testing.assert_allclose(found.vectors, wanted, rtol=1e-4, atol=1e-4)
    assert [(e.input, e.source) for e in found.errors] == [(20, "020.num"), (90, "090.num")]
    assert {e.code for e in found.errors} == {"unsupported_format"}
    assert len(found.weights) == 64 and found.embedding_space and found.model == "dummy"
    with Client(live.url) as client:
        same = client.embed("dummy", files, on_error="collect", progress=True)
        np.testing.assert_allclose(same.vectors, found.vectors, rtol=1e-5)
        assert same.errors == found.errors and same.embedding_space == found.embedding_space
