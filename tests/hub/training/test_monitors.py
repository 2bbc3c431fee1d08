from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from hub.evaluation.geometry import off_diagonal_correlation, unit_spread
from hub.training.data import TrainingData
from hub.training.index import index_data
from hub.training.monitors import CollapseMonitor
from hub.training.pretrain import build_task, pretrain


def test_figures_of_known_matrices() -> None:
    generator = np.random.default_rng(0)
    even = generator.standard_normal((4000, 16))
    assert unit_spread(even) == pytest.approx(1.0, abs=0.02)
    assert off_diagonal_correlation(even) < 0.03
    assert unit_spread(np.ones((10, 4))) == 0.0
    line = generator.standard_normal((50, 1)) * [[1.0, -2.0, 3.0]]
    assert off_diagonal_correlation(line) == pytest.approx(1.0)
    assert off_diagonal_correlation(np.ones((10, 4))) == 1.0
    pair = generator.standard_normal((500, 2))
    assert off_diagonal_correlation(pair) == pytest.approx(abs(np.corrcoef(pair.T)[0, 1]))


def monitor_of(recipe, folder) -> tuple[CollapseMonitor, torch.nn.Module]:
    task, processor = build_task(recipe)
    collator = recipe.system.load("collator")(processor, task.config)
    reader = processor.reader()
    entries = index_data(folder, recipe.system.domain, reader, collator, on_error=lambda e: None)
    data = TrainingData(entries, reader, collator, 0)
    return CollapseMonitor(data, processor, seed=0), task.base_model


def test_a_collapse_is_seen_and_said(recipe, many_files, caplog) -> None:
    monitor, encoder = monitor_of(recipe, many_files)
    encoder.train()
    healthy = monitor.figures(encoder)
    assert encoder.training and healthy == monitor.figures(encoder)
    assert not caplog.records
    with torch.no_grad():
        encoder.layer.weight.zero_()
    with caplog.at_level(logging.WARNING):
        collapsed = monitor.figures(encoder)
    assert "collapsed" in caplog.text
    assert collapsed["rankme"] == pytest.approx(1, abs=1e-3) and healthy["rankme"] > 1.3
    assert collapsed["unit_std"] < 1e-3 < healthy["unit_std"]


def test_a_run_logs_them_and_the_codebook_without_changing_its_losses(recipe, many_files, points, tmp_path) -> None:
    changed = recipe.with_training(steps=6, save_every=6, monitor_every=2)
    watched = points(pretrain(changed, many_files, tmp_path / "watched"))
    plain = points(pretrain(changed.with_training(monitor_every=6), many_files, tmp_path / "plain"))
    assert [p["loss"] for p in watched] == [p["loss"] for p in plain]
    assert [p["step"] for p in watched if "rankme" in p] == [2, 4, 6]
    assert {"unit_std", "correlation", "codebook_perplexity", "mask_ratio"} <= set(watched[1])
    assert list((tmp_path / "watched" / "tensorboard").glob("events.out.tfevents.*"))


def test_tensorboard_holds_the_curve(recipe, many_files, points, tmp_path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = pretrain(recipe.with_training(steps=5, save_every=5), many_files, tmp_path / "run")
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    found = {e.step: e.value for e in events.Scalars("train/loss")}
    assert found == pytest.approx({p["step"]: p["loss"] for p in points(run)}, rel=1e-6)
