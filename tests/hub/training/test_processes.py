"""The same recipe in one process, under torchrun and as a Ray Train job: one loss trace."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from hub.training.pretrain import pretrain
from hub.training.recipe import load_recipe

STEPS = 12


@pytest.fixture(scope="module")
def recipe_file(toy, tmp_path_factory) -> Path:
    """Without dropout, whose draws belong to a process; teacher, queue, codebook and masks stay."""
    path = tmp_path_factory.mktemp("recipe") / "quiet.yaml"
    training = {"steps": STEPS, "batch_size": 4, "learning_rate": 0.01, "log_every": 1, "save_every": 6}
    path.write_text(
        yaml.safe_dump({"system": "sequences", "model": {"hidden_size": 8, "dropout": 0.0}, "training": training})
    )
    return path


@pytest.fixture(scope="module")
def alone(recipe_file, many_files, tmp_path_factory) -> Path:
    return pretrain(load_recipe(recipe_file), many_files, tmp_path_factory.mktemp("alone") / "run")


def check_equal(run: Path, alone: Path, points) -> None:
    for name in ("loss", "grad_norm", "mask_ratio", "queue", "codebook_perplexity"):
        found, expected = ([p[name] for p in points(folder)] for folder in (run, alone))
        assert len(found) == STEPS
        # The mask ratio is a metric of each process's part, and only its mean is logged.
        tolerance = 0.15 if name == "mask_ratio" else 1e-5
        assert found == pytest.approx(expected, rel=tolerance), name
    ends = [load_file(folder / f"checkpoint-{STEPS}" / "model.safetensors") for folder in (run, alone)]
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], atol=1e-5, rtol=1e-5, msg=name)


def environment(toy_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(toy_path), str(Path.cwd())]),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }


def test_torchrun_with_two_processes(recipe_file, alone, many_files, toy_path, points, tmp_path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "hub.cli", "pretrain", str(recipe_file), "--data", str(many_files)]
    command += ["--output-dir", str(tmp_path / "run")]
    done = subprocess.run(command, env=environment(toy_path), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    check_equal(tmp_path / "run", alone, points)


@pytest.mark.ray
def test_ray_train_with_two_workers(recipe_file, alone, many_files, toy_path, points, tmp_path) -> None:
    run, data = tmp_path / "run", tmp_path / "data"
    data.mkdir()
    for file in many_files.iterdir():
        (data / file.name).write_text(file.read_text())
    (data / "bad.num").write_text("nonsense")
    command = [sys.executable, "-m", "hub.cli", "pretrain", str(recipe_file), "--data", str(data)]
    command += ["--output-dir", str(run), "--workers", "2"]
    done = subprocess.run(command, env=environment(toy_path), capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]
    check_equal(run, alone, points)
    assert f"step {STEPS}/{STEPS}" in done.stderr and "samples/s" in done.stderr
    assert "bad.num: a line is not" in done.stderr
    assert not (run / "ray").exists()
    again = subprocess.run(command, env=environment(toy_path), capture_output=True, text=True, timeout=400)
    assert again.returncode == 1 and "holds a run already" in again.stderr and "Traceback" not in again.stderr
