from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest
from arithmetic import expected, file_of
from conftest import model_of, running_app, running_engine, settings

from serving.inputs import PlainValue

LAZY = [{"name": name, "load": "first_use"} for name in ("a", "b", "c")]
SIZE = 4 * 4 * 4
"""Bytes of a dummy's weights: a float32 matrix, four by four."""


def one(*values: float) -> list[PlainValue]:
    return [PlainValue(list(values))]


def states(engine: Any) -> dict[str, str]:
    return {name: lane.state for name, lane in engine.lanes.items()}


def test_the_least_recently_used_idle_model_makes_room(run: Any) -> None:
    async def main() -> None:
        async with running_engine("dummy", *LAZY, memory_budget_bytes=3 * SIZE) as engine:
            assert engine.lane("dummy").bytes == SIZE
            for name in ("a", "b", "a"):
                await engine.embed(name, one(1.0))
            assert states(engine) == {"dummy": "ready", "a": "ready", "b": "ready", "c": "not_loaded"}
            gone = weakref.ref(engine.lane("b").embedder.model)
            await engine.embed("c", one(1.0))
            assert states(engine) == {"dummy": "ready", "a": "ready", "b": "not_loaded", "c": "ready"}
            for _ in range(50):
                await asyncio.sleep(0.01)
                gc.collect()
                if gone() is None:
                    break
            assert gone() is None, "the model's memory is still held"
            # It comes back when it is asked for, and the next in line goes.
            assert (await engine.embed("b", one(2.0)))[0][0].value[0] == 2
            assert states(engine) == {"dummy": "ready", "a": "not_loaded", "b": "ready", "c": "ready"}
            engine.check()

    run(main())


def test_a_model_at_work_stays_and_goes_when_it_falls_idle(run: Any, caplog: Any) -> None:
    async def main() -> None:
        async with running_engine(*LAZY, memory_budget_bytes=SIZE) as engine:
            await engine.embed("a", one(1.0))
            model = model_of(engine, "a")
            model.gate.clear()
            busy = asyncio.create_task(engine.embed("a", one(5.0)))
            await asyncio.to_thread(model.entered.wait, 5)
            await engine.embed("b", one(1.0))
            assert states(engine)["a"] == "ready" and "exceed memory_budget_bytes by 64" in caplog.text
            model.gate.set()
            assert (await busy)[0][0].value[0] == 5
            loaded = [name for name, state in states(engine).items() if state == "ready"]
            assert loaded == ["a"]

    run(main())


def test_a_model_with_a_batch_that_nobody_waits_for_is_not_let_go(run: Any) -> None:
    async def main() -> None:
        async with running_engine(*LAZY, memory_budget_bytes=SIZE) as engine:
            await engine.embed("a", one(1.0))
            model = model_of(engine, "a")
            model.entered.clear()
            model.gate.clear()
            left = asyncio.create_task(engine.embed("a", one(2.0)))
            await asyncio.to_thread(model.entered.wait, 5)
            left.cancel()
            await asyncio.gather(left, return_exceptions=True)
            await engine.embed("b", one(1.0))
            assert engine.lane("a").pending == 0 and states(engine)["a"] == "ready"
            model.gate.set()
            while not engine.lane("a").idle:
                await asyncio.sleep(0.01)
            await engine.embed("c", one(1.0))
            assert states(engine) == {"a": "not_loaded", "b": "not_loaded", "c": "ready"}
            assert (await engine.embed("a", one(3.0)))[0][0].value[0] == 3
            engine.check()

    run(main())


def test_models_of_the_start_are_never_evicted(run: Any) -> None:
    async def main() -> None:
        async with running_engine("dummy", *LAZY, memory_budget_bytes=1) as engine:
            for name in ("a", "b", "c"):
                await engine.embed(name, one(1.0))
            assert states(engine) == {"dummy": "ready", "a": "not_loaded", "b": "not_loaded", "c": "ready"}

    run(main())


def test_requests_for_more_models_than_fit_all_get_their_answer(run: Any) -> None:
    async def main() -> None:
        async with running_engine(*LAZY, memory_budget_bytes=SIZE) as engine:

            async def ask(number: int) -> float:
                outputs = await engine.embed("abc"[number % 3], one(float(number)))
                return float(outputs[0][0].value[0])

            assert await asyncio.gather(*(ask(n) for n in range(60))) == list(range(60))
            for n in range(9):
                assert await ask(n) == n
            assert sum(state == "ready" for state in states(engine).values()) == 1
            evictions = [engine.metrics.evictions.labels(name)._value.get() for name in "abc"]
            assert sum(evictions) >= 9

    run(main())


def test_an_input_that_comes_again_costs_no_forward(run: Any) -> None:
    async def main() -> None:
        async with running_app("dummy", "org/other", cache_bytes=100_000) as (client, engine):
            model = model_of(engine)

            async def ask(value: Any, **options: Any) -> Any:
                body = {"model": "dummy", "input": value, **options}
                return (await client.post("/v1/embeddings", json=body)).json()

            first = await ask(["1 2", [3, 4]])
            again = await ask([[3, 4], "1 2", "5"])
            assert sum(model.batches) == 3
            assert [e["embedding"] for e in again["data"][:2]] == [e["embedding"] for e in first["data"]][::-1]
            assert again["usage"]["total_tokens"] == 5 and [e["item"]["input"] for e in again["data"]] == [0, 1, 2]
            # Nothing left to do at all, and other forms of sending and of writing the answer.
            assert len((await ask(["5", "5"], encoding_format="base64"))["data"]) == 2
            assert sum(model.batches) == 3
            # Options that change the vector are other entries; one that is applied afterwards is not.
            await ask("5", pooling="max")
            await ask("5", layer=0)
            assert sum(model.batches) == 5
            assert len((await ask("5", dimensions=2))["data"][0]["embedding"]) == 2 and sum(model.batches) == 5
            # A model with the same weights makes the same vectors.
            await ask("5", model="org/other")
            assert sum(model_of(engine, "org/other").batches) == 0
            metrics = (await client.get("/metrics")).text
            assert 'fmhub_cache_lookups_total{result="hit"} 6.0' in metrics

    run(main())


def test_files_hit_by_content_and_name_and_keep_their_refusals(run: Any) -> None:
    import base64

    content = file_of([1, 2], [3]) + b"\nbad: x"

    async def main() -> None:
        async with running_app(cache_bytes=100_000) as (client, engine):
            path = "/v1/models/dummy/embeddings"
            upload = await client.post(path, files={"file": ("a.num", content)})
            encoded = {"data": base64.b64encode(content).decode(), "filename": "a.num"}
            same = await client.post(path, json={"input": encoded})
            assert same.json() == upload.json() and len(same.json()["errors"]) == 1
            assert sum(model_of(engine).batches) == 2
            await client.post(path, files={"file": ("b.num", content)})
            assert sum(model_of(engine).batches) == 4
            # What fails is not kept, and fails again.
            for _ in range(2):
                assert (await client.post(path, files={"file": ("a.num", b"junk")})).status_code == 415
                assert (await client.post(path, json={"input": {"data": "?"}})).status_code == 422
            # Tasks are not cached.
            for _ in range(2):
                await client.post("/v1/models/dummy/total", json={"input": "1"})
            # The limit on samples counts what is known already.
            await engine.apply(settings(cache_bytes=100_000, max_samples=2))
            assert (await client.post(path, files={"file": ("a.num", content)})).status_code == 413

    run(main())


def test_the_cache_stays_within_its_bytes(run: Any) -> None:
    async def main() -> None:
        async with running_engine(cache_bytes=5000) as engine:
            for n in range(50):
                await engine.embed("dummy", one(float(n)))
            cache = engine._cache
            assert 5 <= len(cache) <= 12 and 0 < cache.bytes <= 5000
            # The oldest have gone.
            before = sum(model_of(engine).batches)
            await engine.embed("dummy", one(49.0))
            assert sum(model_of(engine).batches) == before
            await engine.embed("dummy", one(0.0))
            assert sum(model_of(engine).batches) == before + 1
            # Larger than all of it: not kept, nothing lost.
            await engine.embed("dummy", [PlainValue([1.0] * 2000)], pooling="none")
            assert len(cache) >= 5
            await engine.apply(settings(cache_bytes=0))
            assert len(cache) == cache.bytes == 0
            assert (await engine.embed("dummy", one(3.0)))[0][0].value == pytest.approx(expected([3.0]))
            assert len(cache) == 0

    run(main())
