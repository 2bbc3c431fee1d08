from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import running_app

from serving.config import KeySettings

SAFETENSORS = b"weights of a model" * 100


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "arithmetic"}')
    (folder / "model.safetensors").write_bytes(SAFETENSORS)
    (folder / "README.md").write_text("# A model")
    for name in ("optimizer.pt", "secrets.json", ".env"):
        (folder / name).write_text("classified")
    (folder / "folder").mkdir()
    (folder / "folder" / "model.safetensors").write_text("classified")
    (tmp_path / "outside.safetensors").write_text("classified")
    return folder


def models_of(checkpoint: Path) -> list[Any]:
    return [{"name": str(checkpoint), "alias": "org/mine"}, {"name": str(checkpoint), "revision": "v1"}, "dummy"]


def error_of(answer: httpx.Response, status: int) -> tuple[str | None, str]:
    assert answer.status_code == status, answer.text
    assert "classified" not in answer.text
    return answer.headers.get("x-error-code"), answer.json()["error"]


def test_what_a_repository_shows(run: Callable[..., Any], checkpoint: Path) -> None:
    async def main() -> None:
        async with running_app(*models_of(checkpoint), hub_endpoint=True) as (http, engine):
            names = ["README.md", "config.json", "model.safetensors"]
            facts = (await http.get("/api/models/org/mine")).json()
            assert facts["id"] == "org/mine" and [s["rfilename"] for s in facts["siblings"]] == names
            commit = facts["sha"]
            assert (await http.get("/api/models/mine")).json()["sha"] == commit
            tree = (await http.get(f"/api/models/org/mine/tree/{commit}?recursive=true")).json()
            assert [f["path"] for f in tree] == names
            sha256 = hashlib.sha256(SAFETENSORS).hexdigest()
            assert tree[2]["lfs"] == {"oid": sha256, "size": len(SAFETENSORS), "pointerSize": 134}
            git = subprocess.run(["git", "hash-object", checkpoint / "README.md"], capture_output=True, text=True)
            assert tree[0]["oid"] == git.stdout.strip() and "lfs" not in tree[0]
            asked = {"paths": ["config.json", "secrets.json", "../outside.safetensors"], "expand": "false"}
            paths = await http.post("/api/models/org/mine/paths-info/main", data=asked)
            assert [f["path"] for f in paths.json()] == ["config.json"]
            url = "/org/mine/resolve/main/model.safetensors"
            head, whole = await http.head(url), await http.get(url)
            assert whole.content == SAFETENSORS and head.content == b""
            for answer in (head, whole):
                assert answer.headers["etag"] == answer.headers["x-linked-etag"] == f'"{sha256}"'
                assert answer.headers["x-repo-commit"] == commit
                assert answer.headers["content-length"] == answer.headers["x-linked-size"] == str(len(SAFETENSORS))
            part = await http.get(url, headers={"range": "bytes=10-19"})
            assert part.status_code == 206 and part.content == SAFETENSORS[10:20]
            rest = await http.get(url, headers={"range": f"bytes={len(SAFETENSORS) - 3}-"})
            assert rest.content == SAFETENSORS[-3:]
            beyond = await http.get(url, headers={"range": "bytes=99999-"})
            assert beyond.status_code == 416
            small = await http.get("/mine/resolve/v1/README.md")
            assert small.text == "# A model" and small.headers["etag"] == f'"{tree[0]["oid"]}"'
            (checkpoint / "README.md").write_text("# Another text")
            os.utime(checkpoint / "README.md", (0, 0))
            assert (await http.get("/api/models/org/mine")).json()["sha"] != commit
            assert 'route="/{model}/resolve/{revision}/{filename}"' in engine.metrics.exposition()[0].decode()

    run(main())


def test_nothing_but_the_checkpoint_can_be_reached(run: Callable[..., Any], checkpoint: Path) -> None:
    async def main() -> None:
        async with running_app(*models_of(checkpoint), hub_endpoint=True) as (http, _):
            for name in (
                "optimizer.pt", "secrets.json", ".env", "folder/model.safetensors", "folder", "",
                "../outside.safetensors", "..%2Foutside.safetensors", "%2e%2e/outside.safetensors",
                "x%2F..%2Fconfig.json", ".%2Fconfig.json", f"{checkpoint}/config.json", "config.json%00",
                "config.json/",
            ):  # fmt: skip
                answer = await http.get(f"/org/mine/resolve/main/{name}", follow_redirects=False)
                # httpx itself shortens what has dots; whatever arrives, nothing else comes back.
                code, message = error_of(answer, 404)
                assert code in ("EntryNotFound", "RepoNotFound", None)
                assert str(checkpoint) not in message or str(checkpoint) in name
            for url, wanted in (
                ("/org/mine/resolve/v9/config.json", "RevisionNotFound"),
                ("/org/mine/resolve/v1/config.json", "RevisionNotFound"),
                ("/api/models/org/mine/revision/v9", "RevisionNotFound"),
                ("/nope/resolve/main/config.json", "RepoNotFound"),
                ("/api/models/nope", "RepoNotFound"),
                ("/api/models/org/mine/tree/main/additional_chat_templates", "EntryNotFound"),
                # An embedder that did not come from files.
                ("/dummy/resolve/main/config.json", "RepoNotFound"),
            ):
                code, message = error_of(await http.get(url), 404)
                assert code == wanted, url
                head = await http.head(url)
                assert head.status_code in (404, 405) and head.content == b""
            assert (await http.post("/api/models/org/mine/paths-info/main", json={})).status_code == 415

    run(main())


def test_keys_and_scopes(run: Callable[..., Any], checkpoint: Path) -> None:
    keys = [
        {"name": name, "hash": f"sha256:{hashlib.sha256(name.encode()).hexdigest()}", "models": models}
        for name, models in (("all", None), ("mine", ["mine"]))
    ]
    assert all(KeySettings.model_validate(key) for key in keys)

    async def main() -> None:
        async with running_app(*models_of(checkpoint), hub_endpoint=True, keys=keys) as (http, _):
            urls = ("/org/mine/resolve/main/config.json", "/nope/resolve/main/config.json", "/api/models/org/mine")
            for url in urls:
                assert error_of(await http.get(url), 401)[1].startswith("no Authorization header")
                hidden = await http.get(url, headers={"authorization": "Bearer mine"})
                # A model that is there and one that is not look the same.
                assert error_of(hidden, 403)[1].startswith("this key may not use")
            for url in ("/mine/resolve/main/config.json", "/api/models/mine"):
                assert (await http.get(url, headers={"authorization": "Bearer mine"})).status_code == 200
            v2 = await http.get("/v2/models/dummy", headers={"authorization": "Bearer mine"})
            assert v2.status_code == 403 and isinstance(v2.json()["error"], str)
            index = await http.post("/v2/repository/index", headers={"authorization": "Bearer mine"})
            assert [m["name"] for m in index.json()] == ["mine"]
            assert (await http.get("/v2")).status_code == 401
            assert (await http.get("/v2/health/ready")).json() == {"ready": True}

    run(main())


def test_it_is_off_unless_it_is_switched_on(run: Callable[..., Any], checkpoint: Path) -> None:
    async def main() -> None:
        async with running_app(*models_of(checkpoint)) as (http, _):
            answer = await http.get("/org/mine/resolve/main/config.json")
            assert answer.status_code == 404 and answer.json()["error"]["code"] == "route_not_found"
            assert not any("resolve" in path for path in (await http.get("/openapi.json")).json()["paths"])

        async with running_app(*models_of(checkpoint), hub_endpoint=True) as (http, _):
            document = json.dumps((await http.get("/openapi.json")).json()["paths"])
            assert "/{model}/resolve/{revision}/{filename}" in document

    run(main())
