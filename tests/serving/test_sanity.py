"""What an answer says of its inputs when ``sanity`` asks for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import arithmetic
import httpx
import numpy as np
import pyarrow as pa
import pytest
from arithmetic import file_of
from conftest import model_of, running_app

from hub.manifest import Row
from hub.neighbourhood import FILE, VIEWS
from hub.reference_set import make_reference_set, write_reference_set
from serving.client import AsyncClient, ServiceError

NDJSON, ARROW = "application/x-ndjson", "application/vnd.apache.arrow.stream"

STRANGER = " ".join(["1 2 3"] * 300)
"""Alike in all but the count, which no reference sample varies."""


def test_flags_and_facts_come_when_asked_for(run: Any) -> None:
    async def main() -> None:
        async with running_app() as (client, _):
            body = {"model": "dummy", "input": ["1 2", "0 0 0"]}
            plain = (await client.post("/v1/embeddings", json=body)).json()["data"]
            assert all("sanity" not in entry for entry in plain)
            asked = (await client.post("/v1/embeddings", json={**body, "sanity": "flags"})).json()["data"]
            assert [entry.pop("sanity") for entry in asked] == [
                {"flags": [], "facts": {"numbers": 2}},
                {"flags": ["silent"], "facts": {"numbers": 3}},
            ]
            assert asked == plain
            files = [("file", ("a.num", file_of([0], [3])))]
            form = await client.post("/v1/models/dummy/embeddings", files=files, data={"sanity": "flags"})
            assert [entry["sanity"]["flags"] for entry in form.json()["data"]] == [["silent"], []]
            refused = await client.post("/v1/embeddings", json={**body, "sanity": "all"})
            assert refused.status_code == 422 and refused.json()["error"]["param"] == "sanity"
            counted = (await client.get("/metrics")).text
            assert 'fmhub_input_flags_total{flag="silent",model="dummy"} 3.0' in counted

    run(main())


def test_flags_come_from_the_results_cache_too(run: Any) -> None:
    async def main() -> None:
        async with running_app(cache_bytes=10_000) as (client, _):
            body = {"model": "dummy", "input": "0", "sanity": "flags"}
            first, again = [(await client.post("/v1/embeddings", json=body)).json()["data"] for _ in range(2)]
            assert first == again and again[0]["sanity"] == {"flags": ["silent"], "facts": {"numbers": 1}}

    run(main())


def test_the_client_gives_flags_in_its_items(run: Any) -> None:
    async def main() -> None:
        async with running_app() as (http, _):
            transport = http._transport
            assert isinstance(transport, httpx.ASGITransport)
            async with AsyncClient("http://service", transport=transport) as client:
                found = await client.embed("dummy", ["0", "5"], sanity="flags")
                assert [(i.flags, i.facts) for i in found.items] == [
                    (("silent",), {"numbers": 1}),
                    ((), {"numbers": 1}),
                ]
                assert (await client.embed("dummy", "0")).items[0].flags == ()

    run(main())


def test_rows_of_a_stream_carry_flags(run: Any) -> None:
    path = "/v1/models/dummy/embeddings"
    file = [("file", ("a.num", file_of([0, 0], ["x"], [3])))]

    async def main() -> None:
        async with running_app() as (client, _):
            asked: dict[str, Any] = {"files": file, "data": {"sanity": "flags"}}
            lines = (await client.post(path, headers={"accept": NDJSON}, **asked)).text.splitlines()
            zero, bad, good, _ = map(json.loads, lines)
            assert zero["sanity"] == {"flags": ["silent"], "facts": {"numbers": 2}}
            assert good["sanity"] == {"flags": [], "facts": {"numbers": 1}} and "sanity" not in bad
            query = {"params": {"sanity": "flags"}, "content": b'"0"\n', "headers": {"content-type": NDJSON}}
            assert json.loads((await client.post(path, **query)).text.splitlines()[0])["sanity"]["flags"] == ["silent"]
            table = pa.ipc.open_stream((await client.post(path, headers={"accept": ARROW}, **asked)).content).read_all()
            assert table["flags"].to_pylist() == [["silent"], None, []]
            assert [f and json.loads(f) for f in table["facts"].to_pylist()] == [{"numbers": 2}, None, {"numbers": 1}]
            plain = await client.post(path, headers={"accept": ARROW}, files=file)
            assert "flags" not in pa.ipc.open_stream(plain.content).schema.names
            counted = (await client.get("/metrics")).text
            assert 'fmhub_input_flags_total{flag="silent",model="dummy"} 4.0' in counted
            for accept in (NDJSON, ARROW):
                for kind in ("neighbourhood", "stability"):
                    body = {"input": "1", "sanity": kind}
                    refused = await client.post(path, headers={"accept": accept}, json=body)
                    error = refused.json()["error"]
                    assert (refused.status_code, error["param"]) == (422, "sanity") and kind in error["message"]
            transport = client._transport
            assert isinstance(transport, httpx.ASGITransport)
            async with AsyncClient("http://service", transport=transport) as sdk:
                items = [row.item async for row in sdk.stream("dummy", ["0", "5"], sanity="flags")]
                assert [(i.input, i.flags, i.facts) for i in items] == [
                    (0, ("silent",), {"numbers": 1}),
                    (1, (), {"numbers": 1}),
                ]
                with pytest.raises(ServiceError, match="no stability"):
                    [row async for row in sdk.stream("dummy", "0", sanity="stability")]

    run(main())


@pytest.fixture
def referenced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, the dummy checkpoint's own, with a reference set of two hundred samples like (1, 2, 3)."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    file = tmp_path / "like.num"
    file.write_bytes(file_of(*([1, 2, 3] * (1 + 0.1 * rng.normal(size=(200, 3))))))
    embedder = arithmetic.load("dummy")
    write_reference_set(make_reference_set(embedder, [Row(file)], "numbers, CC0"), embedder, tmp_path)
    return tmp_path


def test_a_stranger_is_told_from_one_of_the_kind(run: Any, referenced: Path) -> None:
    async def main() -> None:
        async with running_app(cache_bytes=100_000, max_samples=4) as (client, engine):
            body = {"model": "dummy", "input": ["1 2 3", STRANGER], "sanity": "neighbourhood", "dimensions": 2}
            answer = (await client.post("/v1/embeddings", json=body)).json()
            known, stranger = (entry["sanity"]["neighbourhood"] for entry in answer["data"])
            assert known["percentile"] > 5 > stranger["percentile"] == 0
            assert known == arithmetic.load("dummy").neighbourhood([[1, 2, 3]])[0], "as in Python"
            assert answer["usage"]["total_tokens"] == 3 + 900
            assert sum(model_of(engine).batches) == 2, "no further forward"
            assert (await client.post("/v1/embeddings", json=body)).json() == answer
            assert sum(model_of(engine).batches) == 2, "the second time from the results cache"
            asked = {**body, "sanity": "stability"}
            steady, _ = (
                e["sanity"]["neighbourhood"] for e in (await client.post("/v1/embeddings", json=asked)).json()["data"]
            )
            assert sum(model_of(engine).batches) == 2 + 2 * (1 + VIEWS)
            assert steady == arithmetic.load("dummy").neighbourhood([[1, 2, 3]], stability=True)[0]
            assert steady.items() > known.items() and -1 <= steady["stability"] <= 1
            plain = (await client.post("/v1/embeddings", json={**body, "sanity": "flags"})).json()
            assert "neighbourhood" not in plain["data"][0]["sanity"], "kept apart from those with figures"
            assert [e["embedding"] for e in plain["data"]] == [e["embedding"] for e in answer["data"]]

    run(main())


def test_figures_stay_with_their_samples(run: Any, referenced: Path) -> None:
    """Samples that cannot be used stand between others, and views are counted as no samples of their own."""

    async def main() -> None:
        async with running_app(max_samples=5) as (client, _):
            lines = [b"NUM1", b"a: 1 2 3", b"b: no", b"c: " + STRANGER.encode(), b"d: 1 2 3"]
            files = [("file", ("mixed.num", b"\n".join(lines)))]
            fields = {"sanity": "stability"}
            answer = (await client.post("/v1/models/dummy/embeddings", files=files, data=fields)).json()
            found = {e["item"]["key"]: e["sanity"]["neighbourhood"] for e in answer["data"]}
            assert list(found) == ["a", "c", "d"] and [e["item"]["key"] for e in answer["errors"]] == ["b"]
            assert found["a"] == found["d"] and found["c"]["percentile"] == 0
            many = [("file", ("many.num", file_of([1], [2], [3], [4], [5], [6])))]
            refused = await client.post("/v1/models/dummy/embeddings", files=many, data=fields)
            assert refused.status_code == 413 and "more than 5 samples" in refused.json()["error"]["message"]

    run(main())


def test_the_inference_protocol_says_the_same(run: Any, referenced: Path) -> None:
    values = {"name": "json", "datatype": "BYTES", "shape": [2], "data": ['"1 2 3"', '"0"']}

    async def main() -> None:
        async with running_app() as (client, _):

            async def ask(outputs: tuple[str, ...] = (), **parameters: str) -> httpx.Response:
                body = {"inputs": [values], "parameters": parameters, "outputs": [{"name": n} for n in outputs]}
                return await client.post("/v2/models/dummy/infer", json=body)

            for kind in ("flags", "neighbourhood", "stability"):
                body = {"model": "dummy", "input": ["1 2 3", "0"], "sanity": kind}
                wanted = [entry["sanity"] for entry in (await client.post("/v1/embeddings", json=body)).json()["data"]]
                for outputs in ((), ("sanity", "embedding")):
                    found = {o["name"]: o["data"] for o in (await ask(outputs, sanity=kind)).json()["outputs"]}
                    assert [json.loads(text) for text in found["sanity"]] == wanted and "embedding" in found
            assert "sanity" not in {o["name"] for o in (await ask()).json()["outputs"]}
            for answer in (await ask(("sanity",)), await ask(("total",), sanity="flags"), await ask(sanity="all")):
                assert answer.status_code == 422 and "sanity" in answer.json()["error"]

    run(main())


def test_what_cannot_be_judged_is_refused_clearly(run: Any, referenced: Path) -> None:
    async def main() -> None:
        async with running_app() as (client, _):
            body = {"model": "dummy", "input": "1", "sanity": "neighbourhood"}
            other = await client.post("/v1/embeddings", json={**body, "pooling": "max"})
            assert other.status_code == 422 and "own pooling" in other.json()["error"]["message"]
            (referenced / FILE).write_bytes(b"damaged")
            damaged = (await client.post("/v1/embeddings", json=body)).json()["error"]
            assert damaged["code"] == "no_neighbourhood" and str(referenced) not in damaged["message"]
            (referenced / FILE).unlink()
            absent = await client.post("/v1/embeddings", json=body)
            assert absent.status_code == 422 and "fmhub neighbourhood" in absent.json()["error"]["message"]

    run(main())
