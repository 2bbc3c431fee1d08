from __future__ import annotations

import asyncio
import base64
import json
import shutil
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import hub
from hub.errors import InvalidCheckpoint
from hub.finetuning.model import class_for, task_model_class
from hub.finetuning.run import finetune


@pytest.fixture(scope="module")
def tuned(sets_in, quick, toy_checkpoint, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    options = {**quick, "task": "classification", "mode": "full", "labels": ("mid", "low", "high"), "epochs": 12}
    finetune(toy_checkpoint, sets_in(folder).levels(), folder / "levels", options)
    return folder / "levels"


def test_the_configuration_describes_the_head(tuned) -> None:
    config = json.loads((tuned / "config.json").read_text())
    assert config["finetuned"] == {
        "task": "classification", "labels": ["mid", "low", "high"], "pooling": "mean", "layer": -1, "hidden": 0,
        "dropout": 0.0,
    }  # fmt: skip
    assert config["model_type"] == "toy_sequences" and config["architectures"] == ["SequenceModel"]


def test_transformers_loads_the_encoder(tuned, toy) -> None:
    from transformers import AutoModel

    encoder = AutoModel.from_pretrained(tuned)
    model = hub.from_pretrained(tuned).model
    assert type(encoder) is toy.systems["sequences"].load("model") and isinstance(model, type(encoder))
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])


def test_saved_and_loaded_again_it_is_the_same(tuned, tmp_path) -> None:
    model = hub.from_pretrained(tuned).model
    model.save_pretrained(tmp_path / "again")
    again = task_model_class(type(model)).from_pretrained(tmp_path / "again").eval()
    batch = {"values": torch.randn(3, 5), "mask": torch.ones(3, 5, dtype=torch.bool)}
    with torch.inference_mode():
        assert torch.equal(again.logits(batch)[0], model.logits(batch)[0])


def test_it_embeds_and_answers_at_any_batch(tuned, toy_files) -> None:
    embedder = hub.from_pretrained(tuned)
    assert embedder.embed(toy_files).vectors.shape == (6, 8)
    assert set(embedder.model.tasks) == {"total", "table", "classify"}
    together = embedder.run("classify", toy_files)
    alone = [embedder.run("classify", {"numbers": s.data.tolist()})[0] for f in toy_files for s in embedder.read(f)]
    for one, other in zip(together, alone, strict=True):
        assert one["scores"] == pytest.approx(other["scores"], abs=1e-5)
    assert (
        hub.from_pretrained(tuned, dtype=torch.bfloat16).run("classify", {"numbers": [1.0] * 5})[0]["label"] == "high"
    )
    assert np.abs(embedder.random_twin(1).embed(toy_files).vectors - embedder.embed(toy_files).vectors).max() > 0.01


def test_a_tuned_checkpoint_can_be_tuned_again(tuned, sets, quick, tmp_path) -> None:
    rows = [{"values": sets.sequence(v), "label": str(v)} for v in np.tile([0.0, 1.0], 20)]
    finetune(tuned, sets.write(rows, "more"), tmp_path / "again", {**quick, "task": "regression", "epochs": 2})
    assert set(hub.from_pretrained(tmp_path / "again").model.tasks) == {"total", "table", "regress"}


def test_damaged_checkpoints_are_refused(tuned, toy_checkpoint, toy, tmp_path) -> None:
    base = toy.systems["sequences"].load("model")
    assert class_for(base, toy_checkpoint) is base
    assert class_for(base, tuned) is class_for(class_for(base, tuned), tuned)
    copy = tmp_path / "copy"
    shutil.copytree(tuned, copy)
    config = json.loads((copy / "config.json").read_text())
    for section, text in (
        ("classify", "does not describe a head"),
        ({"task": "classification"}, "does not describe a head"),
        ({**config["finetuned"], "task": "guessing"}, "'guessing' is none of"),
        ({**config["finetuned"], "labels": [1]}, "not a list of names"),
        ({**config["finetuned"], "labels": ["one", "too", "many", "names"]}, "could not be loaded"),
    ):
        (copy / "config.json").write_text(json.dumps({**config, "finetuned": section}))
        with pytest.raises(InvalidCheckpoint, match=text):
            hub.from_pretrained(copy)
    shutil.copy(toy_checkpoint / "model.safetensors", copy)
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidCheckpoint, match="task_head"):
        hub.from_pretrained(copy)


def test_it_classifies_over_http(tuned) -> None:
    from serving.app import create_app
    from serving.config import check_settings
    from serving.engine import Engine

    async def ask() -> tuple[httpx.Response, httpx.Response, httpx.Response]:
        engine = Engine(check_settings({"models": [f"levels={tuned}"], "torch_threads": 1, "reader_workers": 0}))
        await engine.wait_ready()
        transport = httpx.ASGITransport(app=create_app(engine))
        try:
            async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
                file = b"a: 1.0 1.1 0.9\nb: -1.0 -0.9"
                return (
                    await client.post("/v1/models/levels/classify", files={"file": ("x.num", file)}),
                    await client.post(
                        "/v1/models/levels/classify",
                        json={"input": [{"data": base64.b64encode(file).decode()}, {"numbers": [0.0, 0.1, -0.1]}]},
                    ),
                    await client.get("/v1/models/levels"),
                )
        finally:
            await engine.close()

    upload, mixed, described = asyncio.run(asyncio.wait_for(ask(), 30))
    assert upload.status_code == mixed.status_code == 200, (upload.text, mixed.text)
    data = upload.json()["data"]
    assert [(e["object"], e["result"]["label"], e["item"]["key"]) for e in data] == [
        ("classify", "high", "a"), ("classify", "low", "b"),
    ]  # fmt: skip
    assert list(data[0]["result"]["scores"]) == ["mid", "low", "high"]
    assert [e["result"]["label"] for e in mixed.json()["data"]] == ["high", "low", "mid"]
    assert "classify" in described.json()["tasks"]


def test_the_command(sets, toy_checkpoint, tmp_path) -> None:
    import typer

    from hub.cli.finetune import finetune as command

    app = typer.Typer()
    app.command()(command)
    arguments = [str(toy_checkpoint), "--manifest", str(sets.levels(60)), "--output-dir", str(tmp_path / "out")]
    arguments += ["--mode", "lora", "--epochs", "3", "--labels", "low,mid,high", "--learning-rate", "0.02"]
    arguments += ["--head-learning-rate", "0.05", "--class-weights", "balanced", "--layer", "-1"]
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 0, found.output
    assert "is ready" in found.output and "pass 3" in found.output and "test  loss" in found.output
    assert hub.from_pretrained(tmp_path / "out").model.spec.labels == ("low", "mid", "high")
