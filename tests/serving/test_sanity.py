"""What an answer says of its inputs when ``sanity`` asks for it."""

from __future__ import annotations

from typing import Any

import httpx
from arithmetic import file_of
from conftest import running_app

from serving.client import AsyncClient


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
