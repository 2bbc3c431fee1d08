from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from arithmetic import POISON
from conftest import model_of, running_app, settings

from serving.canary import HEADER, share
from serving.client import AsyncClient, ServiceError
from serving.config import check_settings
from serving.errors import InvalidSettings
from serving.keys import hash_of, new_key

MODEL = {"name": "dummy", "canary": {"name": "newer", "revision": "r2", "weight": 0.5}}


async def ask(client: httpx.AsyncClient, model: str = "dummy", value: Any = "1 2", **headers: str) -> httpx.Response:
    return await client.post("/v1/embeddings", json={"model": model, "input": value}, headers=headers)


def test_places_are_even_fixed_and_different_for_each_model() -> None:
    places = [share("dummy", f"key k{i}") for i in range(2000)]
    assert all(0 <= p < 1 for p in places) and abs(sum(p < 0.3 for p in places) / 2000 - 0.3) < 0.04
    assert places[0] == share("dummy", "key k0") and len({share(f"m{i}", "key k0") for i in range(50)}) == 50


def test_a_client_stays_with_one_checkpoint_and_the_weight_decides_with_which(run: Any) -> None:
    names = [f"lab{i}" for i in range(12)]
    keys = {name: new_key() for name in names}
    entries = [{"name": name, "hash": hash_of(key), "models": ["dummy"]} for name, key in keys.items()]

    async def main() -> None:
        async with running_app(MODEL, "other", keys=entries) as (client, engine):
            found: dict[str, set[str]] = {}
            for name, key in keys.items():
                answers = [await ask(client, Authorization=f"Bearer {key}") for _ in range(3)]
                found[name] = {a.json()["model"] for a in answers}
                spaces = {a.json()["embedding_space"] for a in answers}
                assert len(found[name]) == len(spaces) == 1
            wanted = {n: {"dummy@canary" if share("dummy", f"key {n}") < 0.5 else "dummy"} for n in names}
            assert found == wanted and len({next(iter(m)) for m in found.values()}) == 2
            # A heavier weight moves nobody back.
            heavier = {**MODEL, "canary": {**MODEL["canary"], "weight": 0.8}}  # type: ignore[dict-item]
            before = [lane.embedder for lane in engine.lanes.values()]
            await engine.apply(settings(heavier, "other", keys=entries))
            assert [lane.embedder for lane in engine.lanes.values()] == before
            for name, key in keys.items():
                model = (await ask(client, Authorization=f"Bearer {key}")).json()["model"]
                assert model == ("dummy@canary" if share("dummy", f"key {name}") < 0.8 else "dummy")
            # What may be asked is decided by the model's own name.
            headers = {"Authorization": f"Bearer {keys['lab0']}"}
            listed = (await client.get("/v1/models", headers=headers)).json()["data"]
            assert [m["id"] for m in listed] == ["dummy", "dummy@canary"]
            assert (await ask(client, "other", **headers)).status_code == 403

    run(main())


def test_the_header_forces_either_and_the_id_names_the_canary(run: Any) -> None:
    async def main() -> None:
        async with running_app({**MODEL, "canary": {"name": "newer", "weight": 0}}, "other") as (client, engine):
            for headers, model in (({}, "dummy"), ({HEADER: "true"}, "dummy@canary"), ({HEADER: "False"}, "dummy")):
                answer = await ask(client, **headers)
                assert answer.json()["model"] == model
            # Every route goes the same way.
            answer = await client.post("/v1/models/dummy/total", json={"input": "1 2"}, headers={HEADER: "true"})
            assert answer.json()["model"] == "dummy@canary" and answer.json()["data"][0]["result"] == {"total": 3.0}
            assert (await ask(client, "dummy@canary")).json()["model"] == "dummy@canary"
            assert len(model_of(engine, "dummy@canary").batches) == 2 and len(model_of(engine).batches) == 2
            wrong = await ask(client, **{HEADER: "yes"})
            assert wrong.status_code == 422 and wrong.json()["error"]["param"] == HEADER
            none = await ask(client, "other", **{HEADER: "true"})
            assert none.status_code == 404 and "other has no canary" in none.json()["error"]["message"]

    run(main())


def test_both_are_counted_apart_described_and_part_of_health(run: Any) -> None:
    async def main() -> None:
        async with running_app({**MODEL, "canary": {"name": "newer", "weight": 0}}) as (client, _):
            await ask(client)
            await ask(client, **{HEADER: "true"})
            await ask(client, value=[[POISON]], **{HEADER: "true"})
            text = (await client.get("/metrics")).text
            for sample in (
                'fmhub_requests_total{model="dummy",route="/v1/embeddings",status="200"} 1.0',
                'fmhub_requests_total{model="dummy@canary",route="/v1/embeddings",status="200"} 1.0',
                'fmhub_rejected_requests_total{code="internal_error",model="dummy@canary"} 1.0',
                'fmhub_stage_duration_seconds_count{model="dummy@canary",stage="encode"} 1.0',
                'fmhub_batch_samples_count{model="dummy"} 1.0',
            ):
                assert sample in text
            assert (await client.get("/readyz")).json()["models"] == {"dummy": "ready", "dummy@canary": "ready"}
            described = (await client.get("/v1/models/dummy@canary")).json()
            assert described["id"] == "dummy@canary" and len(described["embedding_space"]) == 32

    run(main())


def test_promotion_swaps_the_names_of_what_is_loaded(run: Any) -> None:
    async def main() -> None:
        async with running_app(MODEL) as (client, engine):
            old, new = (engine.lane(name).embedder for name in ("dummy", "dummy@canary"))
            back = {"name": "newer", "revision": "r2", "alias": "dummy", "canary": {"name": "dummy", "weight": 0.1}}
            model_of(engine).gate.clear()
            waiting = asyncio.create_task(ask(client, **{HEADER: "false"}))
            while not engine.lane("dummy").pending:
                await asyncio.sleep(0.01)
            await engine.apply(settings(back))
            assert engine.lane("dummy").embedder is new and engine.lane("dummy@canary").embedder is old
            model_of(engine, "dummy@canary").gate.set()
            # A request under way keeps the checkpoint that it was given.
            assert (await waiting).json()["revision"] is None
            assert (await ask(client, **{HEADER: "false"})).json()["revision"] == "r2"
            alone = {"name": "newer", "revision": "r2", "alias": "dummy"}
            await engine.apply(settings(alone))
            assert engine.lane("dummy").embedder is new and list(engine.lanes) == ["dummy"]
            await asyncio.sleep(0.05)
            text = (await client.get("/metrics")).text
            assert 'fmhub_pending_requests{model="dummy"} 0.0' in text
            assert 'fmhub_pending_requests{model="dummy@canary"}' not in text

    run(main())


def test_a_client_notices_when_the_weight_moves_it_in_the_middle(run: Any, monkeypatch: Any) -> None:
    import serving.client.clients as clients

    monkeypatch.setattr(clients, "REQUEST_INPUTS", 1)

    async def main() -> None:
        one = {"name": "dummy", "canary": {"name": "newer", "revision": "r2", "weight": 0, "dtype": "bfloat16"}}
        async with running_app(one) as (http, engine):
            transport = http._transport
            async with AsyncClient("http://service", transport=transport, concurrency=1) as client:
                assert (await client.embed("dummy", ["1", "2"])).model == "dummy"
                other = {**one, "canary": {**one["canary"], "weight": 1}}  # type: ignore[dict-item]
                model_of(engine).gate.clear()
                sent = asyncio.create_task(client.embed("dummy", ["1", "2"]))
                while not engine.lane("dummy").pending:
                    await asyncio.sleep(0.01)
                await engine.apply(settings(other))
                model_of(engine).gate.set()
                with pytest.raises(ServiceError) as changed:
                    await sent
                assert changed.value.code == "embedding_space_changed"

    run(main())


def test_settings_of_a_canary() -> None:
    found = settings({"name": "a", "dtype": "bfloat16", "revision": "r1", "canary": {"name": "b", "weight": 0.1}})
    second = found.checkpoints[1]
    assert (second.id, second.name, second.dtype, second.revision) == ("a@canary", "b", "bfloat16", None)
    for wrong in ({"name": "b"}, {"name": "b", "weight": 1.1}, {"weight": 1}, {"name": "b", "weight": 0, "alias": "x"}):
        with pytest.raises(InvalidSettings, match="canary"):
            check_settings({"models": [{"name": "a", "canary": wrong}]})
