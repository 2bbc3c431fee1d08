from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import get_wsd_schedule

import hub
from hub.errors import InvalidManifest, InvalidRecipe
from hub.training.collation import seeded_generator
from hub.training.lars import Lars
from hub.training.plan import BatchPlan
from hub.training.pretrain import pretrain
from hub.training.recipe import load_recipe
from hub.training.schedules import infinite_factor, phase, schedule_factor
from hub.training.trainer import TrainingDiverged, last_checkpoint


def log_of(run: Path) -> list[tuple[int, float]]:
    return [(p["step"], p["loss"]) for p in json.loads((run / "training_log.json").read_text())]


@pytest.fixture(scope="module")
def whole_run(recipe, toy_files, tmp_path_factory) -> Path:
    return pretrain(recipe, toy_files[0].parent, tmp_path_factory.mktemp("run") / "whole")


def test_falling_schedules_are_transformers_own_and_end_where_they_are_told() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs = get_wsd_schedule(optimizer, 10, 20, num_training_steps=100, min_lr_ratio=0.05)
    factor = schedule_factor("warmup-stable-decay", 100, 0.1, 0.2, 0.05)
    for step in range(10, 101):
        # Theirs counts from 0, which spends the first step on a rate of zero, and rises from the final rate.
        assert factor(step - 1) == pytest.approx(theirs.lr_lambdas[0](step), abs=1e-12), step
    assert schedule_factor("cosine", 50, 0.1, final=0.01)(49) == pytest.approx(0.01)
    assert schedule_factor("linear", 50, 0.1, final=0.01)(49) == pytest.approx(0.01)
    assert [phase("warmup-stable-decay", t, 100, 0.1, 0.2) for t in (5, 50, 85)] == ["warm-up", "constant", "decay"]


def test_a_run_leaves_a_checkpoint_that_loads(whole_run, toy_files) -> None:
    losses = [loss for _, loss in log_of(whole_run)]
    assert len(losses) == 60
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    embedder = hub.from_pretrained(whole_run)
    assert embedder.embed(toy_files).vectors.shape == (6, 8)
    assert (whole_run / "training_curve.png").read_bytes().startswith(b"\x89PNG")
    assert embedder.card.domain == "numbers" and "60 steps" in embedder.card.text
    assert sorted(p.name for p in whole_run.glob("checkpoint-*")) == ["checkpoint-50", "checkpoint-60"]


def test_killed_and_resumed_equals_uninterrupted(recipe, toy_files, toy_path, tmp_path) -> None:
    """SIGKILL at a random step, with a teacher, a queue, a codebook and dropout in the state; 50 further steps."""
    recipe = recipe.with_training(steps=90)
    kill_at = random.SystemRandom().randint(12, 39)
    output = tmp_path / "killed"
    command = [sys.executable, "-m", "hub.cli", "pretrain", "sequences/tiny", "--steps", "90"]
    command += ["--data", str(toy_files[0].parent), "--output-dir", str(output)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(toy_path), str(Path.cwd())])}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(f"step {kill_at}/"):
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    assert process.returncode == -signal.SIGKILL
    assert not (output / "model.safetensors").exists()
    # What a kill in the middle of writing leaves must not be taken for a checkpoint.
    (output / ".partial" / "checkpoint-80").mkdir(parents=True)
    saved = last_checkpoint(output)
    assert saved is not None
    pretrain(recipe, toy_files[0].parent, output, resume=True)
    whole = pretrain(recipe, toy_files[0].parent, tmp_path / "whole")
    assert log_of(output) == log_of(whole) and len(log_of(whole)) == 90, f"killed at step {kill_at}"
    assert f"From step {saved.rsplit('-', 1)[1]}, where it was resumed" in (output / "README.md").read_text()
    ends = [load_file(folder / "checkpoint-90" / "model.safetensors") for folder in (output, whole)]
    assert {"queue", "codebook.weight", "teacher.input.weight"} <= set(ends[0])
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_readers_do_not_change_the_masks(recipe, whole_run, toy_files, tmp_path) -> None:
    run = pretrain(recipe.with_training(readers=2, steps=12, save_every=12), toy_files[0].parent, tmp_path / "readers")
    other = pretrain(recipe.with_training(steps=12, save_every=12), toy_files[0].parent, tmp_path / "alone")
    assert log_of(run) == log_of(other)


def test_bfloat16_and_accumulation_train(recipe, toy_files, tmp_path) -> None:
    changed = recipe.with_training(precision="bf16", accumulation=2, steps=20, save_every=20)
    losses = [loss for _, loss in log_of(pretrain(changed, toy_files[0].parent, tmp_path / "bf16"))]
    assert all(map(torch.isfinite, torch.tensor(losses))) and losses[-1] < losses[0]


def test_going_on_from_a_checkpoint(recipe, whole_run, toy_files, tmp_path) -> None:
    changed = recipe.with_training(steps=4, save_every=4)
    further = pretrain(changed, toy_files[0].parent, tmp_path / "further", start=whole_run)
    assert log_of(further)[0][1] < log_of(whole_run)[0][1]


def test_an_output_folder_is_never_overwritten(recipe, whole_run, toy_files) -> None:
    with pytest.raises(InvalidRecipe, match="holds a run already"):
        pretrain(recipe, toy_files[0].parent, whole_run)
    with pytest.raises(InvalidRecipe, match="is not this recipe"):
        pretrain(recipe.with_training(seed=1), toy_files[0].parent, whole_run, resume=True)


def test_bad_files_are_left_out_and_nothing_is_an_error(recipe, toy_files, tmp_path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "good.num").write_text("a: 1 2 3\nb: 3 2 1 0\nc: 1\nd: nan")
    (data / "bad.num").write_text("nonsense")
    told: list[str] = []
    run = pretrain(
        recipe.with_training(steps=2, save_every=2), data, tmp_path / "run", on_error=lambda e: told.append(str(e))
    )
    assert len(told) == 2 and "bad.num" in told[0] and "good.num[d]: a number is not finite" in told[1]
    assert len(json.loads((run / "data_index.json").read_text())) == 2  # "c" is too short to train on
    (data / "good.num").unlink()
    with pytest.raises(InvalidManifest, match="nothing to train on"):
        pretrain(recipe, data, tmp_path / "empty")


def test_a_loss_that_is_not_finite_names_the_files(toy, recipe, toy_files, tmp_path, monkeypatch) -> None:
    from toy_domain.sequences.pretraining import SequenceForPreTraining

    forward = SequenceForPreTraining.forward

    def broken(self, **batch):
        output = forward(self, **batch)
        output.loss = output.loss * float("nan")
        return output

    monkeypatch.setattr(SequenceForPreTraining, "forward", broken)
    with pytest.raises(TrainingDiverged, match=r"step 1; the batch held samples of .*\.num"):
        pretrain(recipe, toy_files[0].parent, tmp_path / "nan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"system": "unknown"}, "no system 'unknown'"),
        ({"extra": 1}, "unknown key 'extra'"),
        ({"training": {"steps": 0, "batch_size": 1}}, "steps is 0"),
        ({"training": {"batch_size": 1}}, "steps is missing"),
        ({"training": {"steps": 5}}, "needs batch_size or batch_cost"),
        ({"training": {"steps": 5, "batch_size": 1, "learning_rate": "2e-4"}}, "write 2.0e-4"),
        (
            {"training": {"steps": 5, "batch_size": 1, "schedule": "step"}},
            "none of linear, cosine, constant, warmup-stable-decay",
        ),
        ({"training": {"steps": 5, "batch_size": 1, "log_every": 3, "save_every": 10}}, "multiple of log_every"),
        ({"training": {"steps": 5, "batch_size": 1, "monitor_every": 7, "log_every": 5}}, "monitor_every .7. must be"),
        ({"training": {"steps": 5, "batch_size": 1, "compile": "yes"}}, "'yes' is not of type bool"),
        ({"curation": {"by": "balanced", "keep": 0.5}}, "curation.every is None"),
        ({"curation": {"every": 5, "by": "nothing"}}, "curation.by is 'nothing'"),
        ({"model": {"hidden": 8}}, "has no field 'hidden'"),
        ({"training": {"steps": 5, "batch_size": 1, "optimizer": "sequences.none:Adam"}}, "dino-adamw nor"),
    ],
)
def test_bad_recipes_are_named(toy, toy_files, tmp_path, change, message) -> None:
    base = {"system": "sequences", "training": {"steps": 5, "batch_size": 1}}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**base, **change}))
    with pytest.raises((InvalidRecipe, LookupError), match=message):
        pretrain(load_recipe(path), toy_files[0].parent, tmp_path / "run")


@settings(max_examples=60, deadline=None)
@given(
    costs=st.lists(st.integers(1, 500), min_size=1, max_size=80),
    size=st.integers(0, 9),
    cost=st.integers(0, 2000),
    seed=st.integers(0, 5),
)
def test_every_pass_sees_every_sample_once(costs, size, cost, seed) -> None:
    one_pass = BatchPlan(costs, 10_000, size, cost, seed)._one_pass(0)
    assert sorted(i for b in one_pass for i in b) == list(range(len(costs)))
    for batch in one_pass:
        assert not size or len(batch) <= size
        assert not cost or len(batch) == 1 or max(costs[i] for i in batch) * len(batch) <= cost
    plan = list(BatchPlan(costs, 2 * len(one_pass), size, cost, seed))
    assert len(plan) == 2 * len(one_pass)
    assert [[p.index for p in b] for b in plan[: len(one_pass)]] == one_pass


def test_generators_depend_on_every_number() -> None:
    draws = {
        float(torch.rand((), generator=seeded_generator(*numbers)))
        for numbers in ((0,), (0, 0), (0, 1), (1, 0), (0, 1, 2), (0, 2, 1), (1, 1))
    }
    assert len(draws) == 7


def test_schedules_by_value() -> None:
    linear = schedule_factor("linear", 100, 0.1)
    assert [round(linear(t), 6) for t in (0, 4, 9, 54, 99)] == [0.1, 0.5, 1.0, 0.5, 0.0]
    cosine = schedule_factor("cosine", 100, 0.0)
    assert [round(cosine(t), 6) for t in (49, 99)] == [0.5, 0.0]
    assert schedule_factor("constant", 100, 0.1)(60) == 1.0


def test_the_infinite_schedule_has_four_phases() -> None:
    infinite = schedule_factor("infinite", 100, 0.1)
    assert [round(infinite(t), 6) for t in (0, 9, 24, 39, 70, 99)] == [0.1, 1.0, 0.75, 0.5, 0.5, 0.5]
    assert {schedule_factor("hold", 50, 0.1)(t) for t in (0, 20, 49)} == {infinite(99)}
    anneal = schedule_factor("anneal", 100, 0.1)
    assert [round(anneal(t), 6) for t in (-1, 49, 99)] == [0.5, round((0.5 * 0.1) ** 0.5, 6), 0.1]


def golden_of_training() -> dict[str, torch.Tensor]:
    path = Path(__file__).resolve().parents[3].parent / "shared/golden/ssl_losses/io.safetensors"
    if not path.exists():
        pytest.skip("no golden values beside this checkout")
    return load_file(path)


def test_golden_infinite_schedule() -> None:
    expected = golden_of_training()["schedule/infinite_by_formula"]
    found = [3e-4 * infinite_factor(step, 10, 40, 80, 100) for step in range(len(expected))]
    torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), expected, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("lars", lambda p: Lars(p, lr=0.3, weight_decay=1e-4)),
        ("lars_nowd", lambda p: Lars(p, lr=0.3, weight_decay=0.0)),
        ("adamw", lambda p: torch.optim.AdamW(p, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05)),
    ],
)
def test_golden_optimiser_steps(name, make) -> None:
    golden = golden_of_training()
    parameter = torch.nn.Parameter(golden[f"{name}/param0"].clone())
    optimizer = make([parameter])
    for step in range(3):
        parameter.grad = golden[f"{name}/grad{step}"].clone()
        optimizer.step()
        torch.testing.assert_close(parameter.data, golden[f"{name}/param{step + 1}"], atol=1e-6, rtol=1e-6)


def test_lars_moves_every_layer_by_the_same_share() -> None:
    """Whatever the gradient's scale, a decayed layer moves by lr * coefficient * its norm."""
    for scale in (1e-3, 1.0, 1e3):
        weight = torch.nn.Parameter(torch.ones(4, 4))
        weight.grad = torch.full((4, 4), scale)
        Lars([weight], lr=1.0, weight_decay=1e-9, trust_coefficient=0.01).step()
        assert (1 - weight.data).norm() == pytest.approx(0.01 * 4.0, rel=1e-4)
    empty = torch.nn.Parameter(torch.zeros(3))
    empty.grad = torch.ones(3)
    Lars([empty], lr=0.1, weight_decay=0.1).step()
    assert torch.equal(empty.data, torch.full((3,), -0.1))


def test_a_torchaudio_that_does_not_fit_is_one_sentence(tmp_path) -> None:
    """As the CUDA build is beside a CPU-only torch: its import raises OSError."""
    (tmp_path / "torchaudio").mkdir()
    (tmp_path / "torchaudio/__init__.py").write_text("raise OSError('libc10_cuda.so: cannot open shared object file')")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path.cwd())])}
    for code in (
        "import hub; hub.from_pretrained",
        "import hub.training.pretrain",
        "import sys; sys.argv = ['fmhub', 'evaluate', 'x', '--manifest', 'y']; from hub.cli import main; main()",
    ):
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert done.returncode == 1
        last = done.stderr.strip().splitlines()[-1]
        assert "cannot be loaded beside torch" in last and "pip install" in last


def test_start_up_time_is_not_spent_on_import() -> None:
    started = time.process_time()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import hub"], capture_output=True, text=True, check=True
    )
    assert time.process_time() - started < 1.0
    for heavy in ("torch", "transformers", "numpy", "huggingface_hub"):
        assert f" {heavy}\n" not in done.stderr
