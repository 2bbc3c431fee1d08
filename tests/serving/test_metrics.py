from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import model_of, running_app, settings
from prometheus_client.parser import text_string_to_metric_families

from serving.app import create_app
from serving.engine import Engine
from serving.keys import hash_of, new_key
from serving.metrics import Metrics


class Scrape:
    """What a Prometheus server makes of one answer of ``/metrics``."""

    def __init__(self, text: str) -> None:
        self.families = {f.name: f for f in text_string_to_metric_families(text)}

    def value(self, sample: str, **labels: str) -> float:
        found = [
            s.value
            for family in self.families.values()
            for s in family.samples
            if s.name == sample and labels.items() <= s.labels.items()
        ]
        return sum(found)

    def labels(self, sample: str, label: str) -> set[str]:
        return {s.labels[label] for f in self.families.values() for s in f.samples if s.name == sample}


async def scraped(client: Any, **headers: str) -> Scrape:
    answer = await client.get("/metrics", headers=headers)
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain")
    return Scrape(answer.text)


async def post(client: Any, value: Any, **options: Any) -> Any:
    return await client.post("/v1/embeddings", json={"model": "dummy", "input": value, **options})


def test_names_and_kinds_follow_the_convention(run: Any) -> None:
    async def main() -> None:
        async with running_app() as (client, _):
            await post(client, "1")
            found = await scraped(client)
            own = {n: f for n, f in found.families.items() if n.startswith("fmhub_")}
            assert len(own) >= 15
            for name, family in own.items():
                assert re.fullmatch(r"fmhub_[a-z_]+", name) and family.documentation and family.type != "unknown"
                if family.type == "counter":
                    assert all(s.name.endswith(("_total", "_created")) for s in family.samples)
                if family.type == "histogram" and "duration" in name:
                    assert name.endswith("_seconds")
            build = found.families["fmhub_build_info"].samples[0]
            assert build.value == 1 and set(build.labels) == {"version", "torch", "python"}
            assert found.value("process_resident_memory_bytes") > 1e6

    run(main())


def test_every_series_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"`(fmhub_[a-z_]+)`", text))
    metrics = Metrics()
    metrics.watch_models(list, [])
    families = [f for f in metrics.registry.collect() if f.name.startswith("fmhub_")]
    assert documented == {f.name + ("_total" if f.type == "counter" else "") for f in families}


def test_requests_bytes_and_rejections(run: Any) -> None:
    async def main() -> None:
        async with running_app({"name": "dummy", "max_queued_requests": 1}, max_body_bytes=5000) as (client, engine):
            await post(client, "1")
            await post(client, "x")
            await post(client, "1", pooling="median")
            await post(client, "1 " * 5000)
            await client.get("/secret/path")
            await client.put("/v1/models")
            model = model_of(engine)
            model.gate.clear()
            held = asyncio.create_task(post(client, "1"))
            await asyncio.to_thread(model.entered.wait, 5)
            assert (await post(client, "2")).status_code == 429
            model.gate.set()
            await held
            found = await scraped(client)
            route = "/v1/embeddings"
            assert found.value("fmhub_requests_total", route=route, model="dummy", status="200") == 2
            assert found.value("fmhub_request_duration_seconds_count", route=route, model="dummy") == 5
            for code in ("no_number", "unsupported_option", "body_too_large", "overloaded", "route_not_found",
                         "method_not_allowed"):  # fmt: skip
                assert found.value("fmhub_rejected_requests_total", code=code) == 1, code
            # What was received, not what was announced: the body that is too large was never read.
            assert 100 < found.value("fmhub_request_body_bytes_total", route=route) < 500
            assert found.value("fmhub_response_body_bytes_total", route=route) > 500
            assert found.labels("fmhub_requests_total", "route") == {route, "unmatched"}

    run(main())


def test_batches_and_the_share_of_padding(run: Any) -> None:
    async def main() -> None:
        async with running_app() as (client, engine):
            model = model_of(engine)
            model.gate.clear()
            first = asyncio.create_task(post(client, [[1.0] * 10]))
            await asyncio.to_thread(model.entered.wait, 5)
            second = asyncio.create_task(post(client, [[1.0] * 30, [2.0] * 20]))
            while (await scraped(client)).value("fmhub_queue_samples", model="dummy") < 2:
                await asyncio.sleep(0.01)
            model.gate.set()
            await asyncio.gather(first, second)
            found = await scraped(client)
            assert found.value("fmhub_forward_cost_total", kind="real") == 10 + 30 + 20
            assert found.value("fmhub_forward_cost_total", kind="padding") == 10
            assert found.value("fmhub_batch_samples_sum") == 3 and found.value("fmhub_batch_samples_count") == 2
            assert found.value("fmhub_batch_cost_sum") == 10 + 60
            for stage in ("read", "queue", "forward", "encode"):
                assert found.value("fmhub_stage_duration_seconds_count", model="dummy", stage=stage) >= 2

    run(main())


def test_model_states_and_loading(run: Any) -> None:
    async def main() -> None:
        import httpx

        engine = Engine(settings("dummy", {"name": "missing", "load": "first_use"}, {"name": "z", "load": "first_use"}))
        transport = httpx.ASGITransport(app=create_app(engine))
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            await engine.wait_ready()
            await client.post("/v1/embeddings", json={"model": "missing", "input": "1"})
            found = await scraped(client)
            for model, state in (("dummy", "ready"), ("missing", "failed"), ("z", "not_loaded")):
                assert found.value("fmhub_model_state", model=model, state=state) == 1
                assert found.value("fmhub_model_state", model=model) == 1
            assert 0 < found.value("fmhub_model_load_seconds", model="dummy") < 10
            await engine.apply(settings("dummy"))
            assert (await scraped(client)).labels("fmhub_model_state", "model") == {"dummy"}
        await engine.close()

    run(main())


def test_keys_are_counted_by_name(run: Any) -> None:
    key = new_key()

    async def main() -> None:
        async with running_app(keys=[{"name": "lab", "hash": hash_of(key)}]) as (client, _):
            await client.get("/v1/models")
            await client.get("/v1/models", headers={"Authorization": f"Bearer {key}"})
            found = await scraped(client, Authorization=f"Bearer {key}")
            assert found.value("fmhub_key_requests_total", key="lab") == 1
            assert found.value("fmhub_rejected_requests_total", code="missing_api_key") == 1
            assert found.labels("fmhub_key_requests_total", "key") == {"lab"}

    run(main())


def test_a_second_engine_in_the_process_counts_for_itself(run: Any) -> None:
    async def main() -> None:
        async with running_app() as (one, _), running_app() as (two, _):
            await post(one, "1")
            assert (await scraped(one)).value("fmhub_batch_samples_sum") == 1
            assert (await scraped(two)).value("fmhub_batch_samples_sum") == pytest.approx(0)

    run(main())
