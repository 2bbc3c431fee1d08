from __future__ import annotations

import asyncio
import base64
from typing import Any

import httpx
import numpy as np
import pytest
from arithmetic import POISON, expected, file_of
from asking import FILE, matrix, post, problem, running_app
from conftest import model_of, settings

from serving.app import create_app
from serving.engine import Engine
from serving.schemas import EmbeddingAnswer, TaskAnswer


def test_one_and_many_inputs_of_each_form(run: Any) -> None:
    async def main() -> None:
        async with running_app() as (client, _):
            np.testing.assert_allclose(matrix(await post(client, "1 2 3")), [expected([1, 2, 3])])
            # An array is many inputs, each element one.
            two = await post(client, ["1 2 3", [4, 5]])
            np.testing.assert_allclose(matrix(two), [expected([1, 2, 3]), expected([4, 5])])
            mixed = await post(client, [{"data": FILE, "filename": "dir/a.num"}, "7", {"data": FILE}])
            assert mixed.status_code == 200
            answer = EmbeddingAnswer.model_validate(mixed.json())
            assert [e.index for e in answer.data] == [0, 1, 2, 3, 4]
            assert [(e.item.input, e.item.source, e.item.key) for e in answer.data] == [
                (0, "a.num", "s0"), (0, "a.num", "s1"), (1, None, ""), (2, None, "s0"), (2, None, "s1"),
            ]  # fmt: skip
            assert answer.usage.prompt_tokens == answer.usage.total_tokens == 5 + 1 + 5
            assert answer.model == "dummy"

    run(main())


def test_upload_gives_the_same_answer_as_json(run: Any) -> None:
    async def main() -> None:
        async with running_app() as (client, _):
            content = base64.b64decode(FILE)
            names = ["a.num", "b.num"]
            uploads = [("file", (n, content, "audio/wav")) for n in names]
            upload = await client.post("/v1/models/dummy/embeddings", files=uploads, data={"pooling": "max"})
            entries = [{"data": FILE, "filename": n} for n in names]
            plain = await post(client, entries, pooling="max")
            on_path = await client.post("/v1/models/dummy/embeddings", json={"input": entries, "pooling": "max"})
            assert upload.status_code == 200
            assert upload.json() == plain.json() == on_path.json()

    run(main())


def test_base64_and_floats_are_equal(run: Any) -> None:
    async def main() -> None:
        async with running_app() as (client, _):
            values = [0.1, 1 / 3, 1e-18, -7e10]
            floats = matrix(await post(client, [values]))
            answer = await post(client, [values], encoding_format="base64")
            decoded = np.frombuffer(base64.b64decode(answer.json()["data"][0]["embedding"]), "<f4")
            assert np.array_equal(floats[0], decoded)

    run(main())


def test_token_states(run: Any) -> None:
    async def main() -> None:
        async with running_app() as (client, _):
            floats = await post(client, ["1 2 3", "4"], pooling="none")
            first, second = (np.array(e["embedding"]) for e in floats.json()["data"])
            assert first.shape == (3, 4) and second.shape == (1, 4)
            answer = await post(client, "1 2 3", pooling="none", encoding_format="base64")
            entry = answer.json()["data"][0]
            assert entry["shape"] == [3, 4]
            decoded = np.frombuffer(base64.b64decode(entry["embedding"]), "<f4").reshape(3, 4)
            assert np.array_equal(decoded, first.astype(np.float32))

    run(main())


def test_dimensions_truncate_and_normalise(run: Any) -> None:
    async def main() -> None:
        async with running_app() as (client, _):
            got = matrix(await post(client, [[3.0, 3.0]], dimensions=2))[0]
            np.testing.assert_allclose(got, np.array([3, 9]) / np.hypot(3, 9), rtol=1e-6)
            whole = matrix(await post(client, [[3.0, 3.0]], dimensions=4))[0]
            assert np.linalg.norm(whole) == pytest.approx(1, abs=1e-6)
            zero = matrix(await post(client, [[0.0]], dimensions=1))[0]
            assert zero.tolist() == [0.0]
            for bad in (5, 0, -1, 1.5, "2", True):
                refusal = await post(client, "1", dimensions=bad)
                assert refusal.status_code == 422 and problem(refusal)["param"] == "dimensions"

    run(main())


def test_warnings_travel_with_their_sample(run: Any) -> None:
    async def main() -> None:
        async with running_app() as (client, _):
            data = (await post(client, ["1 2", "0 0"])).json()["data"]
            assert "warnings" not in data[0] and data[1]["warnings"] == ["all numbers are zero"]

    run(main())


def test_one_bad_item_among_concurrent_requests(run: Any) -> None:
    async def main() -> None:
        async with running_app() as (client, _):
            values = [[n, n + 1, n + 2] for n in range(40)]
            tasks = [post(client, [v, v[:1]]) for v in values]
            bad = [post(client, ["1", "x"]), post(client, [[POISON], "2"]), post(client, {"data": "QQ=="})]
            answers = await asyncio.gather(*tasks, *bad)
            for value, answer in zip(values, answers, strict=False):
                np.testing.assert_allclose(matrix(answer), [expected(value), expected(value[:1])], rtol=1e-5)
            assert [a.status_code for a in answers[40:]] == [422, 500, 415]

    run(main())


def test_padding_does_not_change_an_embedding(run: Any) -> None:
    async def main() -> None:
        async with running_app({"name": "dummy", "batch_cost": 100_000}) as (client, engine):
            short, long = [0.5, 0.25], [7.0] * 2000
            alone = matrix(await post(client, [short]))
            model_of(engine).batches.clear()
            beside = matrix(await post(client, [short, long]))
            assert np.abs(beside[:1] - alone).max() <= 1e-5

    run(main())


def test_tasks(run: Any) -> None:
    async def main() -> None:
        async with running_app("dummy", "org/other") as (client, _):
            totals = await client.post("/v1/models/org/other/total", json={"input": ["1 2", "3"]})
            answer = TaskAnswer.model_validate(totals.json())
            assert [e.result for e in answer.data] == [{"total": 3.0}, {"total": 3.0}]
            assert answer.data[0].object == "total"
            file = await client.post("/v1/models/dummy/table", files={"file": ("a.num", file_of([1, 2]))})
            assert file.content == b"1.0,2.0" and file.headers["content-type"].startswith("text/csv")
            assert file.headers["content-disposition"] == "attachment; filename*=UTF-8''s0.csv"
            files = await client.post("/v1/models/dummy/table", json={"input": ["1", "2"]})
            results = [e["result"] for e in files.json()["data"]]
            assert base64.b64decode(results[1]["data"]) == b"2.0" and results[1]["media_type"] == "text/csv"
            extra = await client.post(
                "/v1/models/dummy/total", files={"file": ("a.num", file_of([1]))}, data={"pooling": "mean"}
            )
            assert extra.status_code == 422 and problem(extra)["param"] == "pooling"
            broken = await client.post("/v1/models/dummy/broken", json={"input": "1"})
            assert broken.status_code == 500 and "secret" not in broken.text
            unknown = await client.post("/v1/models/dummy/fly", json={"input": "1"})
            assert unknown.status_code == 404 and problem(unknown)["code"] == "task_not_found"

    run(main())


def test_models_are_listed_and_described(run: Any) -> None:
    async def main() -> None:
        async with running_app("dummy", "org/other", {"name": "lazy", "load": "first_use"}) as (client, _):
            listed = (await client.get("/v1/models")).json()
            assert listed["object"] == "list"
            assert [(m["id"], m["state"]) for m in listed["data"]] == [
                ("dummy", "ready"), ("org/other", "ready"), ("lazy", "not_loaded"),
            ]  # fmt: skip
            found = (await client.get("/v1/models/org/other")).json()
            assert found["id"] == "org/other" and found["dimension"] == 4 and found["owned_by"] == "org"
            assert found["inputs"]["files"] == [".num"] and "numbers" in found["inputs"]["plain"]
            assert found["limits"]["max_numbers"] == 5000 and found["request_limits"]["max_inputs"] == 2048
            assert found["poolings"] == ["none", "mean", "max", "sum"] and found["license"] == "apache-2.0"
            assert found["tasks"] == ["total", "table", "broken"] and found["summary"] == "Adds numbers."
            assert (await client.get("/v1/models/org%2Fother")).json() == found
            lazy = (await client.get("/v1/models/lazy")).json()
            assert lazy["state"] == "not_loaded" and "dimension" not in lazy

    run(main())


def test_health_readiness_and_the_page(run: Any) -> None:
    async def main() -> None:
        engine = Engine(settings("unready-<b>"))
        lane = engine.lane("unready-<b>")
        made, factory = [], lane._factory
        lane._factory = lambda *a, **k: made.append(factory(*a, **k)) or made[0]
        engine.start()
        transport = httpx.ASGITransport(app=create_app(engine))
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            assert (await client.get("/healthz")).status_code == 200
            not_ready = await client.get("/readyz")
            assert not_ready.status_code == 503 and problem(not_ready)["code"] == "not_ready"
            page = await client.get("/")
            assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
            while not made:
                await asyncio.sleep(0.01)
            made[0].warm_up_gate.set()
            await engine.wait_ready()
            assert (await client.get("/readyz")).json()["status"] == "ready"
            await engine.close()
            for path in ("/healthz", "/readyz"):
                assert (await client.get(path)).status_code == 503

    run(main())


def test_request_ids(run: Any) -> None:
    async def main() -> None:
        async with running_app() as (client, _):
            given = await client.get("/healthz", headers={"x-request-id": "abc-1.2_3"})
            assert given.headers["x-request-id"] == "abc-1.2_3"
            for bad in ("a b", "x" * 65, 'a"b', "a:b", "a\tb", "\u00e4".encode(), ""):
                made = (await client.get("/nope", headers={"x-request-id": bad})).headers["x-request-id"]
                assert made != bad and len(made) == 32
            failed = await post(client, [[POISON]])
            assert failed.headers["x-request-id"] in problem(failed)["message"]

    run(main())


def test_metrics(run: Any) -> None:
    async def main() -> None:
        async with running_app() as (client, _):
            await post(client, ["1", "2"])
            await post(client, "x")
            await post(client, "1", model="unheard-of")
            await client.get("/secret/path")
            answer = await client.get("/metrics")
            assert answer.headers["content-type"].startswith("text/plain")
            text = answer.text
            counted = 'fmhub_requests_total{model="%s",route="%s",status="%s"} 1.0'
            for labels in (
                ("dummy", "/v1/embeddings", 200),
                ("dummy", "/v1/embeddings", 422),
                ("", "/v1/embeddings", 404),
                ("", "unmatched", 404),
            ):
                assert counted % labels in text
            for stage in ("read", "queue", "forward", "encode"):
                assert f'fmhub_stage_duration_seconds_count{{model="dummy",stage="{stage}"}}' in text
            assert 'fmhub_batch_samples_sum{model="dummy"} 2.0' in text
            assert 'fmhub_pending_requests{model="dummy"} 0.0' in text
            assert "secret" not in text and "unheard-of" not in text

    run(main())


def test_the_openapi_document_names_all_routes(run: Any) -> None:
    async def main() -> None:
        async with running_app() as (client, _):
            document = (await client.get("/openapi.json")).json()
            assert set(document["paths"]) == {
                "/", "/healthz", "/readyz", "/metrics", "/v1/models", "/v1/models/{model}", "/v1/embeddings",
                "/v1/models/{model}/embeddings", "/v1/models/{model}/{task}", "/v1/models/{model}/preview",
                "/v1/models/{model}/neighbours", "/v1/models/{model}/examples", "/v1/models/{model}/examples/{name}",
                "/v1/models/{model}/examples/{name}/preview",
                "/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/stats", "/v2/repository/index",
                *(
                    f"/v2/models/{{model}}{version}{rest}"
                    for version in ("", "/versions/{version}")
                    for rest in ("", "/ready", "/config", "/stats", "/infer")
                ),
            }  # fmt: skip
            body = document["paths"]["/v1/embeddings"]["post"]["requestBody"]["content"]["application/json"]
            assert set(body["schema"]["required"]) == {"model", "input"}
            task = document["paths"]["/v1/models/{model}/{task}"]["post"]["responses"]["200"]["content"]
            assert set(task) == {"application/json", "*/*"}, "a task may answer with a file"
            assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"

    run(main())
