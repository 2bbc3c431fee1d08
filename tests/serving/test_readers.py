from __future__ import annotations

import asyncio
import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from arithmetic import expected, file_of
from conftest import running_app

from serving.engine import Engine
from serving.readers import launch, processes
from serving.readers.pool import ProcessPool

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reader processes need Linux")

MIB = 1 << 20
poisoned_app = partial(
    running_app,
    embedder_factory="poison:load_poisoned",
    reader_workers=2,
    reader_memory_bytes=256 * MIB,
    reader_output_bytes=16 * MIB,
    reader_timeout_s=3.0,
)


async def ask(client: httpx.AsyncClient, *values: Any) -> httpx.Response:
    return await client.post("/v1/embeddings", json={"model": "dummy", "input": list(values)})


def check(answer: httpx.Response, *samples: list[float]) -> None:
    assert answer.status_code == 200, answer.text
    vectors = [entry["embedding"] for entry in answer.json()["data"]]
    assert np.allclose(vectors, [expected(s) for s in samples], rtol=1e-5)


def restarts(engine: Engine) -> dict[str, float]:
    series = [s for m in engine.metrics.reader_restarts.collect() for s in m.samples if s.name.endswith("_total")]
    return {s.labels["reason"]: s.value for s in series}


def pids(engine: Engine) -> list[int]:
    assert isinstance(engine.pool, ProcessPool)
    return [r.process.pid for r in engine.pool._readers]


async def until(condition: Any, seconds: float = 5.0) -> None:
    stop = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < stop, "it did not come about"
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("kind", "status", "code", "deaths"),
    [
        ("exit", 422, "reader_crashed", {"exited": 2}),
        ("segfault", 422, "reader_crashed", {"crashed": 2}),
        ("abort", 422, "reader_crashed", {"crashed": 2}),
        ("kill", 422, "reader_crashed", {"killed": 3}),
        ("memory", 413, "too_much_memory", {}),
        ("tensor", 413, "too_much_memory", {}),
        ("disk", 413, "too_much_output", {}),
        ("huge", 413, "too_much_output", {}),
        ("sleep", 422, "reading_timeout", {"timeout": 1}),
        ("loop", 422, "reading_timeout", {"timeout": 1}),
        ("print", 200, None, {}),
        ("processes", 422, "reader_crashed", {"exited": 2}),
        ("pickle", 422, "reader_crashed", {"garbled": 2}),
        ("class", 422, "reader_crashed", {"garbled": 2}),
        ("terabyte", 422, "reader_crashed", {"garbled": 2}),
        ("unsendable", 500, "internal_error", {}),
    ],
)
def test_a_poisonous_input_costs_its_own_request(
    run: Any, tmp_path: Path, kind: str, status: int, code: str, deaths: Any
) -> None:
    async def main() -> None:
        async with poisoned_app(spool_dir=tmp_path) as (client, engine):
            poison, *good = await asyncio.gather(
                ask(client, "1 2", f"POISON {kind}", "3"), *(ask(client, [i, 2.0], [5.0]) for i in range(6))
            )
            for i, answer in enumerate(good):
                check(answer, [i, 2.0], [5.0])
            assert poison.status_code == status, poison.text
            if code is not None:
                error = poison.json()["error"]
                assert error["code"] == code and (error["param"] == "input[1]" or status == 500)
            assert restarts(engine) == deaths
            await until(lambda: len(pids(engine)) == 2)
            check(await ask(client, "7"), [7.0])
            engine.check()

    run(main())
    assert not Path("/tmp/fmhub-was-here").exists()
    # Neither a reader nor what it started is left: they would work in its folder.
    assert not [p for p in Path("/proc").iterdir() if p.name.isdecimal() and str(tmp_path) in place_of(p)]


def place_of(process: Path) -> str:
    try:
        return str((process / "cwd").readlink())
    except OSError:
        return ""


def test_a_process_that_dies_by_chance_costs_nothing(run: Any, tmp_path: Path) -> None:
    async def main() -> None:
        async with poisoned_app(reader_workers=1) as (client, engine):
            # A capture that is being read by the same process at the time.
            long = asyncio.create_task(
                client.post("/v1/models/dummy/embeddings", files={"file": file_of(*[[1e6, i] for i in range(200)])})
            )
            await asyncio.sleep(0.15)
            check(await ask(client, "8", f"POISON segfault once {tmp_path / 'once'}"), [8.0], [1.0])
            check(await long, *[[1e6, float(i)] for i in range(200)])
            assert restarts(engine) == {"crashed": 1}

    run(main())


def test_killed_processes_lose_no_request(run: Any) -> None:
    async def main() -> None:
        async with poisoned_app() as (client, engine):
            stop = time.monotonic() + 1.5

            async def many(number: int) -> int:
                count = 0
                while time.monotonic() < stop:
                    samples = [[float(number), float(count), float(i)] for i in range(40)]
                    answer = await client.post("/v1/models/dummy/embeddings", files={"file": file_of(*samples)})
                    check(answer, *samples)
                    count += 1
                return count

            clients = [asyncio.create_task(many(i)) for i in range(8)]
            killed = 0
            while time.monotonic() < stop - 0.4:
                await asyncio.sleep(0.3)
                for pid in pids(engine)[:1]:
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
            assert all(await asyncio.gather(*clients))
            await until(lambda: restarts(engine) == {"killed": killed} and len(pids(engine)) == 2)

    run(main())


def test_a_killed_process_leaves_no_descriptor(run: Any) -> None:
    def shown() -> int:
        maps = Path("/proc/self/maps").read_text()
        return maps.count("memfd:fmhub-reader")

    async def main() -> None:
        async with poisoned_app() as (client, engine):
            check(await ask(client, "1"), [1.0])
            before = shown()
            for _ in range(3):
                old = pids(engine)
                os.kill(old[0], signal.SIGKILL)
                await until(lambda gone=old[0]: gone not in pids(engine) and len(pids(engine)) == 2)
            await until(lambda: shown() == before)
        assert shown() == 0

    run(main())


@pytest.mark.slow
def test_the_nursery_can_die_too(run: Any) -> None:
    async def main() -> None:
        async with poisoned_app() as (client, engine):
            assert isinstance(engine.pool, ProcessPool) and engine.pool._nursery is not None
            before = pids(engine)
            os.kill(engine.pool._nursery.pid or 0, signal.SIGKILL)
            # Its children die with it.
            await until(lambda: not set(before) & set(pids(engine)), 20)
            check(await ask(client, "1", "2"), [1.0], [2.0])
            engine.check()

    run(main())


def test_a_turn_for_nobody_is_ended(run: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(processes, "ABANDONED_SECONDS", 0.1)

    async def main() -> None:
        async with poisoned_app(reader_workers=1, reader_timeout_s=100) as (client, engine):
            headers = {"X-Request-Timeout": "0.2"}
            body = {"model": "dummy", "input": "POISON loop"}
            answer = await client.post("/v1/embeddings", json=body, headers=headers)
            assert answer.status_code == 503
            check(await ask(client, "1"), [1.0])
            assert restarts(engine) == {"abandoned": 1}

    run(main())


def test_a_process_has_nothing_it_does_not_need(run: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hidden")
    monkeypatch.setenv("FMHUB_API_KEY", "hidden")
    assert "hidden" not in launch._environment().values() and "PATH" in launch._environment()

    async def main() -> None:
        async with poisoned_app() as (client, engine):
            told = (await ask(client, "POISON told")).json()["error"]
            # No input and output, the socket, what it shows to the server; and a folder of its own.
            wanted = "['/dev/null', '/dev/null', '/dev/null', '/memfd', 'socket'] [] 700"
            assert told["code"] == "told" and wanted in told["message"]
            for pid in pids(engine):
                limits = Path(f"/proc/{pid}/limits")
                # The other one may have been forked this moment.
                await until(lambda at=limits: f"{256 * MIB}" in at.read_text().partition("Max file size")[2][:40])
                assert "Max core file size        0 " in limits.read_text()

    run(main())


def test_processes_that_cannot_start_are_a_503_and_fail_the_health_check(run: Any, monkeypatch: Any) -> None:
    async def main() -> None:
        async with poisoned_app() as (client, engine):
            nursery = engine.pool._nursery  # type: ignore[attr-defined]
            with monkeypatch.context() as patch:
                patch.setattr(nursery, "fork", lambda *_: (_ for _ in ()).throw(OSError("no more processes")))
                for pid in pids(engine):
                    os.kill(pid, signal.SIGKILL)
                await until(lambda: not pids(engine))
                answer = await ask(client, "1")
                assert answer.status_code == 503 and answer.json()["error"]["code"] == "no_readers"
                assert (await client.get("/healthz")).status_code == 503
            await asyncio.sleep(1.05)  # it is not tried sooner
            check(await ask(client, "1"), [1.0])
            assert (await client.get("/healthz")).status_code == 200

    run(main())


def test_a_function_can_be_called_on_an_input(run: Any) -> None:
    from serving.errors import InputFailed
    from serving.inputs import PlainValue

    async def main() -> None:
        for workers in (0, 1):
            async with poisoned_app(reader_workers=workers) as (_, engine):
                call = partial(engine.lane("dummy").call_reader, "poison:first_number")
                found = await call(PlainValue("5 6"), "input", unit=" mm")
                assert found.content == b"5.0 mm" and found.filename == "serving.readers.wire.txt"
                codes = ["unlucky", "no_number"] + (["reader_crashed"] if workers else [])
                for value, code in zip(("13", "x", "14"), codes, strict=False):
                    with pytest.raises(InputFailed) as failure:
                        await call(PlainValue(value), "input")
                    assert failure.value.cause.code == code and failure.value.param == "input"  # type: ignore[attr-defined]

    run(main())


def test_what_cannot_be_sent_to_a_process_says_so(run: Any, monkeypatch: Any) -> None:
    import poison

    from hub.embedder import Intake
    from serving.errors import InvalidSettings

    async def main() -> None:
        async with poisoned_app() as (_, engine):
            reader = poison.PoisonReader()
            reader.max_numbers = lambda: 5  # type: ignore[assignment]
            with pytest.raises(InvalidSettings, match="reader_workers: 0"):
                await engine.pool.add(Intake(reader, poison.PoisonProcessor()), [])

    run(main())
