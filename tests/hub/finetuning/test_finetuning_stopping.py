from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import nn

import hub
from hub.finetuning.run import finetune
from hub.finetuning.trainer import KeepBest


def test_keeps_the_best_pass_and_stops() -> None:
    net = nn.Linear(1, 1, bias=False)
    keeper = KeepBest(net, "classification", patience=2, on_epoch=lambda number, metrics: None)
    control = SimpleNamespace(should_training_stop=False)
    stopped = []
    for number, score in enumerate((0.2, 0.6, 0.6, 0.5, 0.9)):
        net.weight.data.fill_(number)
        loss = 1.0 if number != 2 else 2.0  # an equal score with a higher loss is no better
        keeper.on_evaluate(None, None, control, {"eval_balanced_accuracy": score, "eval_loss": loss})
        stopped.append(control.should_training_stop)
        if stopped[-1]:
            break
    assert stopped == [False, False, False, True]
    keeper.restore()
    assert net.weight.item() == 1 and keeper.best_pass == 2


def test_a_run_ends_early_with_its_best_weights(sets, quick, toy_checkpoint, tmp_path) -> None:
    seen = []
    # Labels that mean nothing: what is learnt of them is soon of no use to the validation part.
    rows = [{"values": sets.sequence(0.0), "label": str(label)} for label in sets.random.permutation([0, 1] * 40)]
    outcome = finetune(
        toy_checkpoint,
        sets.write(rows),
        tmp_path / "out",
        {**quick, "task": "classification", "mode": "full", "epochs": 40, "patience": 2},
        on_epoch=lambda number, metrics: seen.append(metrics),
    )
    ran, kept = outcome.epochs
    assert ran == len(seen) == kept + 2 < 40
    best = max(seen, key=lambda m: (m["eval_balanced_accuracy"], -m["eval_loss"]))
    assert seen.index(best) == kept - 1
    assert abs(outcome.valid["loss"] - best["eval_loss"]) < 1e-6


def test_without_a_validation_part_a_run_goes_to_its_end(sets, quick, toy_checkpoint, tmp_path) -> None:
    outcome = finetune(
        toy_checkpoint, sets.levels(60), tmp_path / "out",
        {**quick, "task": "classification", "epochs": 3, "patience": 1, "valid_share": 0.0},
    )  # fmt: skip
    assert outcome.epochs == (3, 3) and outcome.valid == {} and outcome.test["accuracy"] > 0.4
    assert torch.isfinite(hub.from_pretrained(tmp_path / "out").model.task_head.output.weight).all()
