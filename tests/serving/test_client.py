from __future__ import annotations

import asyncio
import base64
import inspect
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from conftest import model_of, running_engine

from serving.app import create_app
from serving.client import AsyncClient, Client, Embeddings, Retries, ServiceError


class Service:
    """A service in a function: answers as told, and keeps what was asked."""

    def __init__(self, *outcomes: Any, max_body_bytes: int = 10**6, max_inputs: int = 2048, space: str = "s") -> None:
        self.outcomes = list(outcomes)
        self.limits = {"max_body_bytes": max_body_bytes, "max_inputs": max_inputs}
        self.space = space
        self.requests: list[httpx.Request] = []
        self.bodies: list[Any] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json={"id": "m", "request_limits": self.limits})
        self.requests.append(request)
        self.bodies.append(json.loads(request.content))
        outcome = self.outcomes.pop(0) if self.outcomes else None
        if isinstance(outcome, Exception):
            raise outcome
        if isinstance(outcome, httpx.Response):
            # A new one each time: a response belongs to the client that it was given to.
            return httpx.Response(outcome.status_code, content=outcome.content, headers=outcome.headers)
        return self.answer(self.bodies[-1]["input"])

    def answer(self, inputs: list[Any]) -> httpx.Response:
        """Embed each number as itself; 'bad' is refused."""
        for number, value in enumerate(inputs):
            if value == "bad":
                return problem(422, "invalid_input", f"input[{number}]", f"input[{number}]: no number")
        data = [
            {
                "embedding": base64.b64encode(np.array([float(value)], "<f4").tobytes()).decode(),
                "item": {"input": number, "key": ""},
            }
            for number, value in enumerate(inputs)
        ]
        body = {"model": "m", "revision": None, "weights": "w", "processor": "p", "embedding_space": self.space}
        return httpx.Response(200, json={**body, "data": data, "usage": {"total_tokens": len(data)}})

    def sync(self, **options: Any) -> Client:
        self.waits: list[float] = []
        options = {"retries": Retries(random=lambda: 1.0), "sleep": self.waits.append, **options}
        return Client("http://service", transport=httpx.MockTransport(self), **options)

    def embed(self, inputs: Any, **options: Any) -> Embeddings:
        with self.sync() as client:
            return client.embed("m", inputs, **options)

    def embed_async(self, inputs: Any, **options: Any) -> Embeddings:
        self.waits = []

        async def sleep(seconds: float) -> None:
            self.waits.append(seconds)
            await asyncio.sleep(0)

        async def main() -> Embeddings:
            transport = httpx.MockTransport(self)
            retries = Retries(random=lambda: 1.0)
            async with AsyncClient("http://service", transport=transport, retries=retries, sleep=sleep) as client:
                return await client.embed("m", inputs, **options)

        return asyncio.run(asyncio.wait_for(main(), 20))


def problem(status: int, code: str, param: str | None = None, message: str = "no", **headers: str) -> httpx.Response:
    body = {"error": {"type": "t", "message": message, "param": param, "code": code}}
    return httpx.Response(status, json=body, headers={"X-Request-Id": "r", **headers})


@pytest.fixture(params=["embed", "embed_async"])
def embed(request: Any) -> Callable[..., Embeddings]:
    """Both clients, by one call."""
    return lambda service, *args, **options: getattr(service, request.param)(*args, **options)


def test_passing_failures_are_tried_again_with_growing_waits(embed: Any) -> None:
    service = Service(
        problem(503, "not_ready"), httpx.ConnectError("refused"), httpx.ReadError("reset"),
        httpx.Response(502, text="Bad Gateway"), problem(429, "overloaded", **{"Retry-After": "7"}),
    )  # fmt: skip
    assert embed(service, "5").vectors.tolist() == [[5]]
    assert service.waits == [0.25, 0.5, 1.0, 2.0, 7 + 4.0]
    assert all(body == service.bodies[0] for body in service.bodies)


def test_after_the_last_attempt_the_reason_is_raised(embed: Any) -> None:
    service = Service(*[problem(429, "overloaded", **{"Retry-After": "1"}) for _ in range(9)])
    with pytest.raises(ServiceError) as failure:
        embed(service, "5")
    assert len(service.bodies) == 6 and len(service.waits) == 5
    error = failure.value
    assert (error.status, error.code, error.retry_after, error.request_id) == (429, "overloaded", 1, "r")
    dead = Service(*[httpx.ConnectError("refused") for _ in range(9)])
    with pytest.raises(ServiceError, match="no answer from http://service: refused"):
        embed(dead, "5")
    assert len(dead.bodies) == 6
    # A service that has been there is waited for, for a minute.
    gone = Service(problem(503, "not_ready"), *[httpx.ConnectError("refused") for _ in range(30)])
    with pytest.raises(ServiceError, match="no answer from http://service: refused"):
        embed(gone, "5")
    assert gone.waits[:5] == [0.25, 0.5, 1, 2, 4] and max(gone.waits) == 4 and sum(gone.waits) == 63.75


@pytest.mark.parametrize(
    "outcome",
    [
        problem(422, "invalid_input", "input[0]"),
        problem(401, "invalid_api_key"),
        problem(403, "model_not_allowed", "model"),
        problem(404, "model_not_found", "model"),
        problem(500, "internal_error"),
        problem(503, "timeout"),
        problem(429, "rate_limited", **{"Retry-After": "3600"}),
        httpx.ReadTimeout("slow"),
        httpx.UnsupportedProtocol("no"),
    ],
)
def test_lasting_failures_are_raised_at_once(embed: Any, outcome: Any) -> None:
    service = Service(outcome)
    with pytest.raises(ServiceError):
        embed(service, "5")
    assert len(service.bodies) == 1 and service.waits == []


def test_waits_are_jittered_bounded_and_keep_to_dates() -> None:
    retries = Retries(attempts=50)
    waits = [retries.wait(n, httpx.Response(429)) for n in range(1, 50) for _ in range(20)]
    assert all(w is not None and 0 <= w <= 15 for w in waits) and len(set(waits)) > 900
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    for text, low, high in ((date, 28, 31), ("2", 2, 2.3), ("soon", 0, 0.3), ("-5", 0, 0.3)):
        wait = retries.wait(1, httpx.Response(429, headers={"Retry-After": text}))
        assert wait is not None and low <= wait <= high
    past = format_datetime(datetime.now(UTC) - timedelta(days=1), usegmt=True)
    assert (retries.wait(1, httpx.Response(429, headers={"Retry-After": past})) or 0) <= 0.3
    assert Retries(attempts=1).wait(1, httpx.Response(503)) is None
    assert Retries().wait(6, httpx.Response(503), 59, met=True) is not None
    assert Retries().wait(6, httpx.Response(429), 59, met=True) is None
    # Ray's proxy, whose replica died at work, has no words of ours.
    assert Retries().wait(1, httpx.Response(500, text="Internal Server Error")) is not None
    assert Retries().wait(1, problem(500, "internal_error")) is None


def test_many_inputs_are_dealt_to_requests_and_come_back_in_order(embed: Any) -> None:
    service = Service()
    values = [str(n) for n in range(200)]
    found = embed(service, values)
    assert found.vectors[:, 0].tolist() == list(range(200)) and [i.input for i in found.items] == list(range(200))
    assert sorted(len(b["input"]) for b in service.bodies) == [8, 64, 64, 64] and found.cost == 200
    narrow = Service(max_inputs=10)
    assert embed(narrow, values[:25]).vectors[:, 0].tolist() == list(range(25))
    assert sorted(len(b["input"]) for b in narrow.bodies) == [5, 10, 10]


def test_files_are_read_only_when_sent_and_bodies_stay_within_the_limit(embed: Any, tmp_path: Path) -> None:
    sent: list[int] = []

    class Files(Service):
        def answer(self, inputs: list[Any]) -> httpx.Response:
            sent.append(len(self.requests[-1].content))
            return super().answer([len(base64.b64decode(v["data"])) if isinstance(v, dict) else v for v in inputs])

    sizes = [10, 3000, 1, 40_000, 2500, 7, 9000]
    paths = []
    for number, size in enumerate(sizes):
        paths.append(tmp_path / f"ä{number}.bin")
        paths[-1].write_bytes(b"x" * size)
    service = Files(max_body_bytes=16_000)
    found = embed(service, [*paths, str(paths[0]), "12", b"abc", np.float64(3.0).item()])
    assert found.vectors[:, 0].tolist() == [*sizes, 10, 12, 3, 3]
    # Only the one that alone is larger than the limit makes a body beyond it.
    assert sum(size > 16_000 for size in sent) == 1 and len(sent) < len(sizes)
    names = [v.get("filename") for b in service.bodies for v in b["input"] if isinstance(v, dict)]
    assert {p.name for p in paths} <= set(names)
    with pytest.raises(FileNotFoundError):
        embed(service, [tmp_path / "none"])


def test_a_bad_input_is_named_by_its_own_number_or_collected(embed: Any) -> None:
    values: list[Any] = [str(n) for n in range(150)]
    for bad in (3, 70, 71, 149):
        values[bad] = "bad"
    with pytest.raises(ServiceError) as failure:
        embed(Service(), values)
    assert failure.value.input in (3, 70, 149) and f"input[{failure.value.input}]" in str(failure.value)
    service = Service()
    found = embed(service, values, on_error="collect")
    assert [e.input for e in found.errors] == [3, 70, 71, 149] and "input[149]" in found.errors[3].message
    assert found.vectors[:, 0].tolist() == [n for n in range(150) if n not in (3, 70, 71, 149)]
    assert len(embed(Service(), ["bad", "bad"], on_error="collect").errors) == 2
    # What is wrong with the request as a whole is no input's fault.
    for refusal in (problem(422, "unsupported_option", "pooling"), problem(401, "invalid_api_key")):
        with pytest.raises(ServiceError):
            embed(Service(refusal), ["1", "2"], on_error="collect")
        with pytest.raises(ServiceError):
            embed(Service(refusal), "1", on_error="collect")


def test_a_request_with_too_many_samples_is_halved(embed: Any) -> None:
    class Few(Service):
        def answer(self, inputs: list[Any]) -> httpx.Response:
            if len(inputs) > 5 or "99" in inputs:
                return problem(413, "too_many_samples")
            return super().answer(inputs)

    values = [str(n) for n in range(33)]
    assert embed(Few(), values).vectors[:, 0].tolist() == list(range(33))
    with pytest.raises(ServiceError):
        embed(Few(), [*values, "99"])
    found = embed(Few(), [*values, "99"], on_error="collect")
    assert [e.input for e in found.errors] == [33] and len(found.items) == 33


def test_vectors_of_two_models_are_never_mixed(embed: Any) -> None:
    class Changing(Service):
        def answer(self, inputs: list[Any]) -> httpx.Response:
            self.space = f"space {len(self.bodies)}"
            return super().answer(inputs)

    with pytest.raises(ServiceError) as failure:
        embed(Changing(), [str(n) for n in range(100)])
    assert failure.value.code == "embedding_space_changed"


def test_where_the_vectors_came_from_and_options(embed: Any) -> None:
    service = Service()
    found = embed(service, ["1", "2"], pooling="max", layer="all", dimensions=3, deadline=2.5)
    origin = (found.model, found.revision, found.weights, found.processor, found.embedding_space)
    assert origin == ("m", None, "w", "p", "s")
    options = {"pooling": "max", "layer": "all", "dimensions": 3, "encoding_format": "base64", "model": "m"}
    assert service.bodies[0] == {**options, "input": ["1", "2"]}
    assert service.requests[0].headers["x-request-timeout"] == "2.500000"


def test_no_inputs_need_no_request(embed: Any) -> None:
    service = Service()
    found = embed(service, [])
    assert len(found.vectors) == 0 and found.items == [] and service.bodies == []


def test_the_key_comes_from_the_argument_or_the_environment(monkeypatch: Any) -> None:
    monkeypatch.setenv("FMHUB_API_KEY", "from-environment")
    for options, key in (({}, "from-environment"), ({"key": "given"}, "given")):
        service = Service()
        with service.sync(**options) as client:
            client.embed("m", "1")
        assert service.requests[0].headers["authorization"] == f"Bearer {key}"
    monkeypatch.delenv("FMHUB_API_KEY")
    service = Service()
    service.embed("1")
    assert "authorization" not in service.requests[0].headers


def test_a_bar_is_drawn_where_it_is_asked_for(embed: Any, capsys: Any) -> None:
    embed(Service(), [str(n) for n in range(100)], progress=True)
    drawn = capsys.readouterr()
    assert "100%" in drawn.err and drawn.out == ""
    embed(Service(), ["1", "2"])
    assert capsys.readouterr().err == ""


def test_both_clients_offer_the_same() -> None:
    for name in ("models", "model", "embed", "run", "close"):
        one, two = inspect.signature(getattr(Client, name)), inspect.signature(getattr(AsyncClient, name))
        assert one == two and inspect.iscoroutinefunction(getattr(AsyncClient, name))


def test_no_request_is_lost_to_a_full_queue() -> None:
    refused: list[int] = []

    async def main() -> None:
        async with running_engine({"name": "dummy", "max_queued_requests": 2}) as engine:
            model_of(engine).delay = 0.01

            async def sleep(seconds: float) -> None:
                refused.append(1)
                # As if the time had passed.
                await asyncio.sleep(seconds / 20)

            transport = httpx.ASGITransport(app=create_app(engine))
            async with AsyncClient(
                "http://service", transport=transport, sleep=sleep, retries=Retries(attempts=60)
            ) as client:
                found = await asyncio.gather(*(client.embed("dummy", [[n]]) for n in range(45)))
            assert [f.vectors[0, 0] for f in found] == list(range(45))

    asyncio.run(asyncio.wait_for(main(), 30))
    assert refused
