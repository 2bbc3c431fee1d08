from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hub.finetuning.losses import TaskLoss, masked_binary_cross_entropy, weighted_cross_entropy
from hub.finetuning.metrics import class_metrics, multilabel_metrics, number_metrics, ranking
from hub.finetuning.targets import UNKNOWN, Targets, align
from hub.manifest import Row

NAN = math.nan


def targets(task: str, *labels: str) -> Targets:
    from pathlib import Path

    return Targets.from_rows([Row(Path("a"), label=label) for label in labels], task)


def test_class_weights_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    classes = torch.tensor([0, 0, 1])
    losses = [math.log(1 + math.exp(-2)), math.log(2), math.log(1 + math.exp(-1))]
    assert weighted_cross_entropy(logits, classes).item() == pytest.approx(sum(losses) / 3)
    weights = targets("classification", "a", "a", "b").weights([0, 1, 2])
    assert weights.tolist() == pytest.approx([3 / (2 * 2), 3 / (2 * 1)])
    by_hand = (0.75 * losses[0] + 0.75 * losses[1] + 1.5 * losses[2]) / 3
    assert weighted_cross_entropy(logits, classes, weights).item() == pytest.approx(by_hand)


def test_rows_without_a_class_take_no_part() -> None:
    logits = torch.randn(3, 4, requires_grad=True)
    classes = torch.tensor([1, UNKNOWN, 2])
    loss = weighted_cross_entropy(logits, classes)
    torch.testing.assert_close(loss, weighted_cross_entropy(logits[[0, 2]], classes[[0, 2]]))
    loss.backward()
    assert logits.grad is not None and not logits.grad[1].any() and logits.grad[0].any()
    assert weighted_cross_entropy(logits, torch.full((3,), UNKNOWN)).item() == 0


def test_missing_labels_take_no_part() -> None:
    logits = torch.tensor([[1.0, 5.0], [-2.0, 0.5]], requires_grad=True)
    present = torch.tensor([[1.0, NAN], [0.0, 1.0]])
    loss = masked_binary_cross_entropy(logits, present)
    by_hand = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-0.5))) / 3
    assert loss.item() == pytest.approx(by_hand)
    loss.backward()
    assert logits.grad is not None and logits.grad[0, 1] == 0 and logits.grad.isfinite().all()
    weights = torch.tensor([3.0, 1.0])
    heavier = masked_binary_cross_entropy(logits, present, weights)
    assert heavier.item() == pytest.approx(by_hand + 2 * math.log(1 + math.exp(-1)) / 3)


def test_weights_of_many_labels() -> None:
    found = targets("multilabel", "1;0", "0;", "0;0", "0;1").weights(range(4))
    assert found.tolist() == [3.0, 2.0]


def test_numbers_are_learnt_standardised() -> None:
    numbers = targets("regression", "10;1", "20;", "30;3")
    centre, scale = numbers.moments([0, 1, 2])
    assert centre.tolist() == [20, 2] and scale.tolist() == pytest.approx([math.sqrt(200 / 3), 1])
    loss = TaskLoss("regression", centre=centre, scale=scale)
    values, steps = numbers.batch([0, 1, 2])
    outputs = torch.tensor([[0.0, 0.0], [1.0, 9.0], [0.0, 0.0]])
    by_hand = (2 * 100 / (200 / 3) + 1 + 1 + 1) / 5
    assert loss(outputs, torch.ones(3, 1, dtype=torch.bool), values, steps).item() == pytest.approx(by_hand)


def test_sequences_are_spread_over_tokens() -> None:
    padded = torch.tensor([[1, 2, 3], [4, 5, UNKNOWN]])
    mask = torch.tensor([[True] * 3 + [False] * 3, [True] * 6])
    found = align(padded, torch.tensor([3, 2]), mask)
    assert found[0, :3].tolist() == [1, 2, 3] and found[1].tolist() == [4, 4, 4, 5, 5, 5]
    # More steps than tokens: the one at each token's middle.
    assert align(torch.arange(9)[None], torch.tensor([9]), torch.ones(1, 3, dtype=torch.bool)).tolist() == [[1, 4, 7]]
    # Real tokens need not come first.
    scattered = torch.tensor([[False, True, False, True]])
    assert align(torch.tensor([[7, 8]]), torch.tensor([2]), scattered)[scattered].tolist() == [7, 8]


def test_padding_takes_no_part_in_a_loss_of_tokens() -> None:
    loss = TaskLoss("frames")
    outputs = torch.randn(2, 4, 3)
    mask = torch.tensor([[True, True, False, False], [True] * 4])
    found = targets("frames", "x;y", "z;;y;y")
    whole = loss(outputs, mask, *found.batch([0, 1]))
    changed = outputs.clone()
    changed[0, 2:] = 100
    torch.testing.assert_close(loss(changed, mask, *found.batch([0, 1])), whole)


def test_metrics_by_hand() -> None:
    logits = np.array([[3.0, 0, 0], [3, 0, 0], [0, 3, 0], [0, 0, 3]])
    found = class_metrics(logits, np.array([0, 0, 0, 1]))
    assert found == {"accuracy": 0.5, "balanced_accuracy": pytest.approx(1 / 3), "macro_f1": pytest.approx(0.8 / 3)}
    scores = np.array([[2.0, 1, 0], [1, -1, 0], [-1, 3, 0], [9, 0, 0]])
    present = np.array([[1, 1, 1], [0, 0, 1], [0, NAN, 1], [NAN, NAN, NAN]])
    assert multilabel_metrics(scores, present) == {
        "macro_auc": 1.0, "macro_f1": pytest.approx((2 / 3 + 1) / 2), "labels_scored": 2.0,
    }  # fmt: skip
    assert math.isnan(multilabel_metrics(scores[:1], present[:1])["macro_auc"])
    numbers = number_metrics(np.array([[1.0], [2], [9]]), np.array([[1.0], [4], [NAN]]))
    assert numbers == {"mae": 1.0, "rmse": pytest.approx(2**0.5), "r2": pytest.approx(1 - 4 / 4.5)}


def test_what_cannot_be_scored_ranks_by_loss() -> None:
    worse, better = ({"macro_auc": NAN, "loss": value} for value in (2.0, 1.0))
    assert ranking("multilabel", better) > ranking("multilabel", worse)
    assert ranking("regression", {"mae": 1, "loss": 9}) > ranking("regression", {"mae": 2, "loss": 0})
