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
import pytest
import uvicorn
from conftest import model_of, settings

from serving.addresses import listening_socket
from serving.app import create_app
from serving.client import Client, ServiceError
from serving.engine import Engine


class Live:
    """The application under a real uvicorn in a thread."""

    def __init__(self) -> None:
        self.socket = listening_socket("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.ready = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self.thread.start()
        assert self.ready.wait(20)

    async def _serve(self) -> None:
        self.engine = Engine(settings("dummy", "org/other", max_body_bytes=200_000))
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
    with Client(f"http://127.0.0.1:{port}") as client, pytest.raises(ServiceError, match="no answer"):
        client.models()
