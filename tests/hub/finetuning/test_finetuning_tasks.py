from __future__ import annotations

import json

import numpy as np
import pytest

import hub
from hub.finetuning.run import finetune


def files_of(sets, *levels):
    path = sets.folder / "new.num"
    path.write_text("\n".join(f"n{i}: " + " ".join(map(str, v)) for i, v in enumerate(levels)))
    return path


@pytest.mark.parametrize("mode", ["frozen", "full", "layerwise", "lora"])
def test_classification_is_learnt_in_every_mode(sets, quick, toy_checkpoint, tmp_path, mode) -> None:
    outcome = finetune(
        toy_checkpoint, sets.levels(), tmp_path / "out", {**quick, "task": "classification", "mode": mode, "epochs": 10}
    )
    assert outcome.test["balanced_accuracy"] > 0.8 and outcome.test["accuracy"] > 0.8  # by chance 1 in 3
    found = hub.from_pretrained(tmp_path / "out").run("classify", files_of(sets, [1.0, 1.1, 0.9], [-1.0] * 20))
    assert [f["label"] for f in found] == ["high", "low"]
    assert list(found[0]["scores"]) == ["high", "low", "mid"]
    assert sum(found[0]["scores"].values()) == pytest.approx(1, abs=1e-5)


def test_multilabel_with_gaps_is_learnt(sets, quick, toy_checkpoint, tmp_path) -> None:
    rows = []
    for level in np.tile([-1.0, 0.0, 1.0], 40):
        # A third of the labels is not known.
        cells = [str(int(level > 0.5)), str(int(level < -0.5)), str(int(abs(level) > 0.5))]
        told = [cell if sets.random.random() > 0.33 else "" for cell in cells]
        rows.append({"values": sets.sequence(level), "label": ";".join(told)})
    rows = [r for r in rows if r["label"] != ";;"]
    outcome = finetune(
        toy_checkpoint,
        sets.write(rows),
        tmp_path / "out",
        {**quick, "task": "multilabel", "mode": "full", "labels": ("up", "down", "away"), "class_weights": "balanced"},
    )
    assert outcome.test["macro_auc"] > 0.9 and outcome.test["labels_scored"] == 3
    found = hub.from_pretrained(tmp_path / "out").run("classify", files_of(sets, [1.0] * 5, [0.0] * 5))
    assert found[0]["labels"] == ["up", "away"] and found[1]["labels"] == []
    assert list(found[0]["scores"]) == ["up", "down", "away"]


def test_regression_answers_in_units(sets, quick, toy_checkpoint, tmp_path) -> None:
    levels = sets.random.uniform(-1, 1, 120)
    rows = [{"values": sets.sequence(v, 6), "label": f"{500 + 100 * v:.2f};{v:.3f}"} for v in levels]
    rows[3]["label"] = ";0.5"
    outcome = finetune(
        toy_checkpoint, sets.write(rows), tmp_path / "out",
        {**quick, "task": "regression", "mode": "full", "labels": ("hertz", "level")},
    )  # fmt: skip
    assert outcome.test["r2"] > 0.8
    (found,) = hub.from_pretrained(tmp_path / "out").run("regress", files_of(sets, [0.5] * 6))
    assert found["values"]["hertz"] == pytest.approx(550, abs=25)
    assert found["values"]["level"] == pytest.approx(0.5, abs=0.25)


def test_frames_are_labelled(sets, quick, toy_checkpoint, tmp_path) -> None:
    rows = []
    for number in range(60):
        signs = sets.random.choice([-1, 1], size=6)
        values = [float(s) + 0.1 * sets.random.normal() for s in signs]
        cells = ["up" if s > 0 else "down" for s in signs]
        if number % 3 == 0:  # each number stands for two tokens, and the last is not known
            values, cells = np.repeat(values, 2).tolist(), [*cells[:-1], ""]
        rows.append({"values": values, "label": ";".join(cells)})
    outcome = finetune(toy_checkpoint, sets.write(rows), tmp_path / "out", {**quick, "task": "frames", "mode": "full"})
    assert outcome.test["accuracy"] > 0.95
    found = hub.from_pretrained(tmp_path / "out").run("label_tokens", files_of(sets, [1.0, -1.0, 1.0], [-1.0] * 9))
    assert found[0]["labels"] == ["up", "down", "up"] and found[1]["labels"] == ["down"] * 9
    assert len(found[1]["scores"]) == 9


@pytest.mark.parametrize("mode", ["frozen", "full"])
def test_dense_numbers_are_learnt(sets, quick, toy_checkpoint, tmp_path, mode) -> None:
    rows = []
    for length in sets.random.integers(3, 9, size=80):
        values = sets.random.uniform(-1, 1, int(length))
        rows.append({"values": values.tolist(), "label": ";".join(f"{10 + 3 * v:.3f}" for v in values)})
    outcome = finetune(toy_checkpoint, sets.write(rows), tmp_path / "out", {**quick, "task": "dense", "mode": mode})
    assert outcome.test["r2"] > 0.8
    (found,) = hub.from_pretrained(tmp_path / "out").run("regress_tokens", files_of(sets, [-0.5, 0.0, 0.5]))
    np.testing.assert_allclose(found["values"], [8.5, 10, 11.5], atol=1.0)


def test_a_hidden_layer_and_every_layer(sets, quick, toy_checkpoint, tmp_path) -> None:
    options = {**quick, "task": "classification", "mode": "frozen", "hidden": 7, "layer": "all", "pooling": "max"}
    outcome = finetune(toy_checkpoint, sets.levels(60), tmp_path / "out", options)
    head = hub.from_pretrained(tmp_path / "out").model.task_head
    assert head.hidden.weight.shape == (7, 16) and outcome.test["accuracy"] > 0.8


def test_the_run_is_reported(sets, quick, toy_checkpoint, tmp_path) -> None:
    out = tmp_path / "out"
    seen = []
    outcome = finetune(
        toy_checkpoint, sets.levels(60), out, {**quick, "task": "classification", "epochs": 4},
        on_epoch=lambda number, metrics: seen.append((number, metrics["eval_accuracy"])),
    )  # fmt: skip
    assert sorted(p.name for p in out.iterdir()) == [
        "README.md", "config.json", "finetuning.json", "model.safetensors", "preprocessor_config.json",
        "training_curve.png",
    ]  # fmt: skip
    assert [number for number, _ in seen] == [1, 2, 3, 4]
    report = json.loads((out / "finetuning.json").read_text())
    assert report["test"] == outcome.test and report["options"]["mode"] == "frozen"
    card = hub.from_pretrained(out).card
    assert card.metadata["fmhub"]["finetuned"] == {
        "from": "toy-random", "task": "classification", "mode": "frozen", "serves": "classify",
    }  # fmt: skip
    assert f"{outcome.test['macro_f1']:.4f}" in card.text and card.metadata["license"] == "apache-2.0"
    assert card.metadata["model-index"][0]["results"][0]["metrics"][0]["type"] == "accuracy"


def test_two_runs_are_equal(sets, quick, toy_checkpoint, tmp_path) -> None:
    manifest = sets.levels(60)
    options = {**quick, "task": "classification", "mode": "full", "epochs": 3, "dropout": 0.3}
    one, two = (finetune(toy_checkpoint, manifest, tmp_path / name, options) for name in ("one", "two"))
    assert one.history == two.history and one.test == two.test
