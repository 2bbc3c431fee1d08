"""Self-distillation, dynamic curation, and torch.compile."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import signal
import subprocess
import sys

import pytest
import torch
import yaml

from hub.errors import InvalidRecipe
from hub.modeling import PretextOutput
from hub.training.pretrain import build_task, pretrain
from hub.training.recipe import load_recipe
from hub.training.self_distillation import Distillation, Distiller, state_distance


def batch() -> dict[str, torch.Tensor]:
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]], dtype=torch.bool)
    values = torch.tensor([[1.0, -2.0, 3.0, 0.5], [2.0, 1.0, 0.0, 0.0]])
    return {"values": values, "mask": mask, "hidden": mask & (values > 0)}


def test_the_distance_is_over_real_tokens_and_draws_the_student() -> None:
    states = torch.zeros(2, 3, 4, requires_grad=True)
    target = torch.ones(2, 3, 4)
    target[1, 2] = 100.0
    mask = torch.tensor([[True, True, True], [True, True, False]])
    distance = state_distance(states, target, mask)
    assert distance.item() == 1.0
    distance.backward()
    assert states.grad is not None
    assert torch.equal(states.grad[1, 2], torch.zeros(4)) and (states.grad[0] < 0).all()


def test_a_student_equal_to_its_teacher_is_at_distance_zero(recipe) -> None:
    student, _ = build_task(recipe)
    distiller = Distiller(copy.deepcopy(student), weight=2.0)
    distiller.check_fits(student)
    student.eval()
    output = student(**batch())
    alone = output.loss.item()
    distiller.add_to(output, batch())
    assert float(output.loss) == pytest.approx(alone) and float(output.metrics["distillation"]) == 0.0
    with torch.no_grad():
        student.encoder.layer.bias.add_(0.5)
    output = student(**batch())
    alone = output.loss.item()
    distiller.add_to(output, batch())
    assert float(output.loss) == pytest.approx(alone + 2 * float(output.metrics["distillation"]))
    with pytest.raises(InvalidRecipe, match="returns no token states"):
        distiller.add_to(PretextOutput(loss=output.loss), batch())


def test_self_distillation_keeps_the_student_near_its_teacher(recipe, many_files, points, tmp_path) -> None:
    steps = recipe.with_training(steps=40, save_every=40)
    original = pretrain(steps, many_files, tmp_path / "original")
    further = pretrain(steps.with_training(seed=1), many_files, tmp_path / "further", start=original)
    last = {}
    for weight in (0.0, 10.0):
        run = pretrain(
            steps, many_files, tmp_path / f"student-{weight}", start=original,
            distillation=Distillation(further, weight),
        )  # fmt: skip
        last[weight] = sum(p["distillation"] for p in points(run)[-10:])
    assert last[10.0] < 0.5 * last[0.0]
    wide = dataclasses.replace(steps, model={"hidden_size": 16})
    with pytest.raises(InvalidRecipe, match="of width 8, the student a SequenceForPreTraining of width 16"):
        pretrain(wide, many_files, tmp_path / "wide", distillation=Distillation(further))


@pytest.fixture(scope="module")
def curated(toy, tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "curated.yaml"
    training = {"steps": 30, "batch_size": 4, "learning_rate": 0.01, "log_every": 1, "save_every": 5}
    curation = {"every": 10, "subset": 30, "by": "prototype", "keep": 0.5, "clusters": 3}
    path.write_text(yaml.safe_dump({"system": "sequences", "training": training, "curation": curation}))
    return path


def test_a_curated_run_trains_on_what_it_selected_and_resumes(
    curated, many_files, toy_path, points, tmp_path, monkeypatch
) -> None:
    from hub.training.data import TrainingData

    seen: list[tuple[int, int]] = []
    view = TrainingData.__getitem__

    def noted(self, pick):
        seen.append((pick.batch // 10, pick.index))
        return view(self, pick)

    monkeypatch.setattr(TrainingData, "__getitem__", noted)
    whole = pretrain(load_recipe(curated), many_files, tmp_path / "whole")
    chosen = [json.loads((whole / "selections" / f"selection-{n}.json").read_text()) for n in (1, 2)]
    assert [c["step"] for c in chosen] == [10, 20] and [len(c["samples"]) for c in chosen] == [15, 15]
    pools = [sorted({index for part, index in seen if part == number}) for number in range(3)]
    assert pools == [list(range(40)), chosen[0]["samples"], chosen[1]["samples"]]
    assert chosen[0]["samples"] != chosen[1]["samples"]

    output = tmp_path / "killed"
    command = [sys.executable, "-m", "hub.cli", "pretrain", str(curated), "--data", str(many_files)]
    environment = {"PYTHONPATH": f"{toy_path}:."}
    process = subprocess.Popen(
        [*command, "--output-dir", str(output)],
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("step 17/"):
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    pretrain(load_recipe(curated), many_files, output, resume=True)
    assert [p["loss"] for p in points(output)] == [p["loss"] for p in points(whole)]


@pytest.mark.slow
def test_a_compiled_task_has_the_same_losses(recipe, many_files, points, tmp_path) -> None:
    quiet = dataclasses.replace(recipe, model={"dropout": 0.0}).with_training(steps=6, save_every=6)
    plain = points(pretrain(quiet, many_files, tmp_path / "plain"))
    compiled = points(pretrain(quiet.with_training(compile=True), many_files, tmp_path / "compiled"))
    assert [p["loss"] for p in compiled] == pytest.approx([p["loss"] for p in plain], rel=1e-4)
