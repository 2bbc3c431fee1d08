from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import torch

from hub.errors import InvalidRecipe
from hub.training.continuing import Start
from hub.training.pretrain import build_task, pretrain
from hub.training.schedules import phase


@pytest.fixture(scope="module")
def infinite_run(recipe, many_files, tmp_path_factory):
    changed = recipe.with_training(schedule="infinite", steps=20, save_every=5, warmup=0.1)
    return pretrain(changed, many_files, tmp_path_factory.mktemp("infinite") / "run")


def test_phases_by_step() -> None:
    taken = (0, 9, 10, 39, 40, 100)
    found = [phase("infinite", t, 100, 0.1) for t in taken]
    assert found == ["warm-up", "warm-up", "cool-down", "cool-down", "constant", "constant"]
    assert phase("linear", 50, 100, 0.1) == "decay" and phase("anneal", 1, 100, 0.1) == "anneal"
    assert phase("constant", 50, 100, 0.1) == "constant"


def test_annealing_goes_on_from_the_constant_phase_with_the_optimiser(
    recipe, infinite_run, many_files, points, tmp_path
):
    state = json.loads((infinite_run / "checkpoint-20" / "schedule.json").read_text())
    assert state == {"schedule": "infinite", "phase": "constant", "step": 20, "of": 20}
    changed = recipe.with_training(schedule="anneal", steps=10, save_every=10)
    run = pretrain(changed, many_files, tmp_path / "annealed", start=Start(infinite_run, optimizer=True))
    rates = [p["learning_rate"] for p in points(run)]
    peak = recipe.training.learning_rate
    assert rates[0] == pytest.approx(0.5 * peak * 0.2 ** (2 / 10), rel=0.2) and rates[-1] < 0.15 * peak
    assert points(run)[0]["loss"] < 1.5 * points(infinite_run)[-1]["loss"]
    optimizer = torch.load(run / "checkpoint-10" / "optimizer.pt", weights_only=True)
    assert {float(s["step"]) for s in optimizer["state"].values()} == {30.0}
    # Both ends are kept: the annealed one to publish, the constant one to go on from with new data.
    assert (infinite_run / "checkpoint-20" / "optimizer.pt").exists()


def test_weights_alone_start_the_optimiser_anew(recipe, infinite_run, many_files, tmp_path) -> None:
    run = pretrain(recipe.with_training(steps=4, save_every=4), many_files, tmp_path / "run", start=infinite_run)
    optimizer = torch.load(run / "checkpoint-4" / "optimizer.pt", weights_only=True)
    assert {float(s["step"]) for s in optimizer["state"].values()} == {4.0}


def test_a_teacher_stays_fixed_and_starts_as_the_student_where_none_is_saved(recipe, infinite_run, toy, tmp_path):
    """Loading makes every parameter trainable, and fills what is missing with noise: both would be silent."""
    task, processor = build_task(recipe, Start(infinite_run))
    teacher = {n: p for n, p in task.named_parameters() if n.startswith("teacher.")}
    assert teacher and not any(p.requires_grad for p in teacher.values())
    assert all(p.requires_grad for n, p in task.named_parameters() if n not in teacher)
    assert not torch.equal(task.teacher.input.weight, task.encoder.input.weight)
    task.encoder.save_pretrained(tmp_path / "encoder")
    processor.save_pretrained(tmp_path / "encoder")
    alone, _ = build_task(recipe, Start(tmp_path / "encoder"))
    assert torch.equal(alone.encoder.input.weight, task.encoder.input.weight)
    assert torch.equal(alone.teacher.input.weight, task.encoder.input.weight)
    assert torch.equal(alone.queue, torch.zeros(4, 8)) and torch.equal(alone.codebook.cluster_size, torch.ones(6))


def test_what_cannot_be_gone_on_from_is_refused(recipe, infinite_run, many_files, toy_checkpoint, tmp_path) -> None:
    short = recipe.with_training(steps=2, save_every=2)
    with pytest.raises(InvalidRecipe, match="holds no resumable checkpoint"):
        pretrain(short, many_files, tmp_path / "a", start=Start(toy_checkpoint / "none", optimizer=True))
    falling = pretrain(recipe.with_training(steps=4, save_every=4), many_files, tmp_path / "falling")
    with pytest.raises(InvalidRecipe, match="phase 'decay' of schedule 'linear'; annealing goes on from the constant"):
        anneal = short.with_training(schedule="anneal")
        pretrain(anneal, many_files, tmp_path / "b", start=Start(falling, optimizer=True))
    lars = short.with_training(optimizer="lars")
    with pytest.raises(InvalidRecipe, match="is a checkpoint of model_type 'tera'"):
        pretrain(short, many_files, tmp_path / "c", start="tera-tiny")
    with pytest.raises(InvalidRecipe, match="of another optimiser"):
        pretrain(lars, many_files, tmp_path / "d", start=Start(infinite_run, optimizer=True))
    wide = dataclasses.replace(short, model={"hidden_size": 16})
    elsewhere = pretrain(wide, many_files, tmp_path / "wide")
    shutil.copytree(infinite_run, tmp_path / "mixed")
    shutil.copy(elsewhere / "checkpoint-2" / "optimizer.pt", tmp_path / "mixed" / "checkpoint-20")
    with pytest.raises(InvalidRecipe, match="is of other parameters"):
        pretrain(short, many_files, tmp_path / "e", start=Start(tmp_path / "mixed", optimizer=True))
