from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from arithmetic import file_of
from conftest import running_app

from hub.embedder import from_pretrained
from serving.app import create_app
from serving.config import check_settings
from serving.engine import Engine
from serving.jobs import Work
from serving.provenance import provenance_of
from serving.schemas import EmbeddingAnswer, TaskAnswer


async def served(folder: Path, **model: Any) -> dict[str, Any]:
    """The answer of a service with this checkpoint, beside the model's description."""
    entry = {"name": str(folder), "alias": "toy", **model}
    engine = Engine(check_settings({"models": [entry], "torch_threads": 1, "reader_workers": 0}))
    await engine.wait_ready()
    transport = httpx.ASGITransport(app=create_app(engine))
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            answer = await client.post("/v1/embeddings", json={"model": "toy", "input": {"numbers": [1.0, 2.0, 3.0]}})
            assert answer.status_code == 200, answer.text
            metrics = (await client.get("/metrics")).text
            described = (await client.get("/v1/models/toy")).json()
            return {"answer": answer.json(), "described": described, "metrics": metrics}
    finally:
        await engine.close()


def test_hashes_are_those_of_the_checkpoints_files(toy_checkpoint: Path, run: Any) -> None:
    def sha256(name: str) -> str:
        return hashlib.sha256((toy_checkpoint / name).read_bytes()).hexdigest()

    found = run(served(toy_checkpoint))
    origin = {"weights": sha256("model.safetensors"), "processor": sha256("preprocessor_config.json"), "revision": None}
    for place in (found["answer"], found["described"]):
        assert {name: place[name] for name in origin} == origin
    assert found["answer"]["model"] == "toy"
    assert found["answer"]["embedding_space"] == found["described"]["embedding_space"]
    assert f'weights="{origin["weights"]}"' in found["metrics"]


def test_the_space_changes_with_what_changes_vectors_and_with_nothing_else(
    toy_checkpoint: Path, tmp_path: Path, run: Any
) -> None:
    def changed(name: str, change: Callable[[dict[str, Any]], Any]) -> str:
        folder = tmp_path / f"copy{len(list(tmp_path.iterdir()))}"
        shutil.copytree(toy_checkpoint, folder)
        values = json.loads((folder / name).read_text())
        change(values)
        (folder / name).write_text(json.dumps(values))
        return space(folder)

    def space(folder: Path, arithmetic: str = "float32", **work: Any) -> str:
        given = {"pooling": "mean", "layer": -1, **work}
        dimensions = given.pop("dimensions", None)
        return provenance_of(from_pretrained(folder), folder, arithmetic).space(Work(**given), dimensions)

    original = space(toy_checkpoint)
    assert space(toy_checkpoint) == original and len(original) == 32
    # Another default and another version of a library make the same vectors, where the options say the same.
    assert changed("config.json", lambda v: v.update(pooling="max", transformers_version="0")) == original
    others = [
        space(toy_checkpoint, pooling="max"),
        space(toy_checkpoint, layer=0),
        space(toy_checkpoint, layer="all"),
        space(toy_checkpoint, dimensions=2),
        space(toy_checkpoint, arithmetic="bfloat16"),
        changed("config.json", lambda v: v.update(initializer_range=v.get("initializer_range", 0.02) + 1)),
        changed("preprocessor_config.json", lambda v: v.update(extra=1)),
    ]
    twin = tmp_path / "twin"
    from_pretrained(toy_checkpoint).random_twin(seed=5).model.save_pretrained(twin)
    for name in ("preprocessor_config.json", "README.md"):
        shutil.copy(toy_checkpoint / name, twin)
    others.append(space(twin))
    assert len({original, *others}) == len(others) + 1


def test_several_files_of_weights_have_one_hash(toy_checkpoint: Path, tmp_path: Path) -> None:
    embedder = from_pretrained(toy_checkpoint)
    for name in ("a.safetensors", "b.safetensors"):
        shutil.copy(toy_checkpoint / "model.safetensors", tmp_path / name)
    one = provenance_of(embedder, toy_checkpoint, "float32").weights
    two = provenance_of(embedder, tmp_path, "float32").weights
    assert one != two == provenance_of(embedder, tmp_path, "float32").weights
    (tmp_path / "b.safetensors").rename(tmp_path / "c.safetensors")
    assert provenance_of(embedder, tmp_path, "float32").weights != two


def test_every_answer_says_where_it_came_from(run: Any) -> None:
    async def main() -> None:
        async with running_app({"name": "dummy", "revision": "abc123"}, "org/other") as (client, _):
            body = {"model": "dummy", "input": ["1 2", "3"]}
            one = (await client.post("/v1/embeddings", json=body)).json()
            EmbeddingAnswer.model_validate(one)
            assert one["revision"] == "abc123" and len(one["weights"]) == len(one["processor"]) == 64
            space = one["embedding_space"]
            for options, same in (
                ({"pooling": "mean"}, True),
                ({"layer": -1, "encoding_format": "base64"}, True),
                ({"pooling": "max"}, False),
                ({"layer": 0}, False),
                ({"dimensions": 2}, False),
                ({"pooling": "none"}, False),
            ):
                answer = (await client.post("/v1/embeddings", json={**body, **options})).json()
                assert (answer["embedding_space"] == space) is same, options
            described = (await client.get("/v1/models/dummy")).json()
            assert described["embedding_space"] == space and described["dtype"] == "float32"
            # Of the same weights under another name the vectors can be compared.
            other = (await client.post("/v1/embeddings", json={**body, "model": "org/other"})).json()
            assert other["embedding_space"] == space and other["revision"] is None
            total = (await client.post("/v1/models/dummy/total", json={"input": "1"})).json()
            TaskAnswer.model_validate(total)
            assert total["weights"] == one["weights"] and "embedding_space" not in total
            file = await client.post("/v1/models/dummy/table", files={"file": ("a", file_of([1]))})
            assert file.headers["x-fmhub-weights"] == one["weights"] and file.headers["x-fmhub-revision"] == "abc123"
        async with running_app("modèle: 模") as (client, _):
            path = "/v1/models/mod%C3%A8le%3A%20%E6%A8%A1/table"
            file = await client.post(path, files={"file": ("a", file_of([1]))})
            assert file.status_code == 200 and file.headers["x-fmhub-model"] == "mod%C3%A8le%3A%20%E6%A8%A1"

    run(main())
