"""Everything with memory goes on identically after its state was saved and restored."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hub import ssl

N, D = 8, 6


@dataclass(frozen=True)
class Stateful:
    """How to build a module and how to take a training step that changes it."""

    build: Callable[[int], nn.Module]
    step: Callable[[Any, Tensor, Tensor], Tensor]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def step_queue(queue: ssl.FeatureQueue, x: Tensor, y: Tensor) -> Tensor:
    loss = ssl.queue_contrastive(x, y, queue.rows())
    queue.push(F.normalize(y, dim=1))
    return loss


def step_temperatures(module: ssl.IndividualTemperatures, x: Tensor, y: Tensor) -> Tensor:
    index = torch.randperm(20, generator=seeded(int(1000 * x[0, 0].abs())))[:N]
    return module(x, y, index, epoch=1)


def step_predictor(module: ssl.DirectPredictor, x: Tensor, y: Tensor) -> Tensor:
    module.update(x)
    return module(y).sum()


def step_centre(module: ssl.Centre, x: Tensor, y: Tensor) -> Tensor:
    loss = ssl.dino(torch.stack([x, y]), torch.stack([x, y]), module.value)
    module.update(torch.stack([x, y]))
    return loss


def step_teacher(module: ssl.EMATeacher, x: Tensor, y: Tensor) -> Tensor:
    module.train()
    target = module(x)
    student = make_network(3)
    module.update(student, 0.9)
    return (target - module(y)).square().mean()


def make_network(seed: int) -> nn.Module:
    network = nn.Sequential(nn.Linear(D, D), nn.BatchNorm1d(D))
    with torch.no_grad():
        network[0].weight.copy_(torch.randn(D, D, generator=seeded(seed)))
        network[0].bias.copy_(torch.randn(D, generator=seeded(seed + 1)))
    return network


def step_cluster(module: ssl.DeepClusterV2, x: Tensor, y: Tensor) -> Tensor:
    index = torch.arange(N)
    module.remember(torch.stack([x, y]), index)
    module.cluster(generator=seeded(4))
    module.remember(torch.stack([y, x]), index)
    return module.loss(torch.stack([x, y]), index)


def step_codebook(module: ssl.Codebook, x: Tensor, y: Tensor) -> Tensor:
    quantized = module(x)
    module.revive_dead_codes(y, threshold=0.9, generator=seeded(5))
    return quantized.commitment_loss + quantized.codebook_loss + quantized.values.sum()


STATEFUL = {
    "queue": Stateful(lambda seed: ssl.FeatureQueue(20, D, generator=seeded(seed)), step_queue),
    "individual_temperatures": Stateful(lambda seed: ssl.IndividualTemperatures(20), step_temperatures),
    "direct_predictor": Stateful(lambda seed: ssl.DirectPredictor(D), step_predictor),
    "centre": Stateful(lambda seed: ssl.Centre(D), step_centre),
    "teacher": Stateful(lambda seed: ssl.EMATeacher(make_network(seed)), step_teacher),
    "deep_cluster": Stateful(lambda seed: ssl.DeepClusterV2(N, D, prototypes=(3, 4)), step_cluster),
    "codebook_ema": Stateful(
        lambda seed: ssl.Codebook(7, D, generator=seeded(seed), update="ema", decay=0.7), step_codebook
    ),
    "codebook_gradient": Stateful(
        lambda seed: ssl.Codebook(7, D, generator=seeded(seed), decay=0.7, unit_norm=True), step_codebook
    ),
}


@pytest.mark.parametrize("name", STATEFUL)
def test_restored_state_goes_on_identically(name: str) -> None:
    case, batches = STATEFUL[name], torch.randn(7, 2, N, D, generator=seeded(9))
    module = case.build(0)
    start = {key: value.clone() for key, value in module.state_dict().items()}
    for x, y in batches[:3]:
        case.step(module, x, y)
    assert any(not torch.equal(start[key], value) for key, value in module.state_dict().items())

    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    restored = case.build(1)
    restored.load_state_dict(torch.load(file, weights_only=True))
    # No state outside the state dict: buffers that are not persistent would start again.
    assert {n for n, _ in module.named_buffers()} <= module.state_dict().keys()
    for x, y in batches[3:]:
        assert torch.equal(case.step(module, x, y), case.step(restored, x, y))
    for key, value in module.state_dict().items():
        assert torch.equal(value, restored.state_dict()[key]), key


@pytest.mark.parametrize("name", ["individual_temperatures", "codebook_ema", "codebook_gradient"])
def test_evaluation_leaves_the_state_alone(name: str, generator: torch.Generator) -> None:
    module = STATEFUL[name].build(0).eval()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    x = torch.randn(N, D, generator=generator)
    _ = module(x) if "codebook" in name else module(x, x + 1, torch.arange(N), epoch=0)
    for key, value in module.state_dict().items():
        assert torch.equal(value, before[key])


def test_queue_is_a_ring_that_drops_what_runs_over(generator: torch.Generator) -> None:
    queue = ssl.FeatureQueue(5, 2, generator=generator)
    torch.testing.assert_close(queue.bank.norm(dim=1), torch.ones(5))
    rows = torch.arange(18.0).reshape(9, 2)
    queue.push(rows[:3])
    assert torch.equal(queue.bank[:3], rows[:3]) and queue.pointer.tolist() == [3]
    held = queue.rows()
    queue.push(rows[3:6])
    assert torch.equal(queue.bank[3:], rows[3:5]) and queue.pointer.tolist() == [0]
    assert torch.equal(held[:3], rows[:3]) and not torch.equal(held, queue.bank)  # rows() was a copy
    queue.push(rows)  # more than the whole queue
    assert torch.equal(queue.bank, rows[:5]) and queue.pointer.tolist() == [0]
    with pytest.raises(ValueError, match=r"keys must have shape \(batch, 2\)"):
        queue.push(torch.ones(3, 4))


def test_queue_can_be_pushed_before_backward(generator: torch.Generator) -> None:
    queue = ssl.FeatureQueue(10, D, generator=generator)
    x, y = torch.randn(2, N, D, generator=generator)
    x.requires_grad_()
    loss = ssl.queue_contrastive(x, y, queue.rows())
    queue.push(F.normalize(y, dim=1))
    loss.backward()
    assert x.grad is not None and x.grad.isfinite().all()


def test_teacher_averages_parameters_and_keeps_its_own_statistics(generator: torch.Generator) -> None:
    student = make_network(0)
    teacher = ssl.EMATeacher(student)
    student(torch.randn(N, D, generator=generator))  # moves the student's running statistics
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)
    teacher.update(student, 0.75)
    other = dict(student.named_parameters())
    for name, parameter in teacher.model.named_parameters():
        torch.testing.assert_close(parameter, other[name] - 0.75)
        assert not parameter.requires_grad
    torch.testing.assert_close(teacher.model[1].running_mean, torch.zeros(D))
    assert not teacher(torch.randn(N, D, generator=generator).requires_grad_()).requires_grad
    with pytest.raises(ValueError, match="same parameters"):
        teacher.update(nn.Linear(D, D), 0.5)
    with pytest.raises(ValueError, match="momentum must be between 0 and 1"):
        teacher.update(student, 1.5)


def test_momentum_schedules_meet_their_ends() -> None:
    for schedule in (ssl.cosine_momentum, ssl.linear_momentum):
        values = [schedule(step, 10, start=0.9, end=0.99) for step in range(11)]
        assert values[0] == pytest.approx(0.9) and values[-1] == pytest.approx(0.99)
        assert values[5] == pytest.approx(0.945) and values == sorted(values)
        with pytest.raises(ValueError, match="step must be between 0 and total_steps 10"):
            schedule(11, 10)
    assert ssl.cosine_momentum(1, 10) < ssl.linear_momentum(1, 10)


def test_direct_predictor_takes_the_root_of_the_spectrum() -> None:
    module = ssl.DirectPredictor(3, eps=0.01)
    torch.testing.assert_close(module.weight, torch.eye(3))
    module.update(torch.diag(torch.tensor([2.0, 1.0, 0.0])))
    torch.testing.assert_close(module.weight, torch.diag(torch.tensor([1.01, 0.51, 0.01])), atol=1e-6, rtol=0)
    before = module.correlation.clone()
    module.update(torch.zeros(4, 3))
    torch.testing.assert_close(module.correlation, 0.3 * before)
    with pytest.raises(ValueError, match=r"features must have shape \(batch, 3\)"):
        module.update(torch.ones(4, 2))


def test_centre_follows_the_mean_of_everything_but_the_last_axis(generator: torch.Generator) -> None:
    centre = ssl.Centre(D, momentum=0.9)
    logits = torch.randn(2, N, D, generator=generator)
    centre.update(logits)
    torch.testing.assert_close(centre.value, 0.1 * logits.mean(dim=(0, 1)))
    before = centre.value.clone()
    centre.update(logits[:0])
    assert torch.equal(centre.value, before)


def test_individual_temperature_step_by_hand() -> None:
    module = ssl.IndividualTemperatures(5, initial_temperature=0.5, rho=0.1, temperature_lr=0.2)
    x = torch.eye(4)  # every negative has similarity 0, every positive 1
    loss = module(x, x, torch.tensor([4, 0, 1, 2]), epoch=0)
    assert float(loss) == pytest.approx(-2.0)
    # g = exp(0) = 1; gradient = log 1 + rho - 0; u = 0.9 * 0.1; tau = 0.5 - 0.2 * u
    touched = [4, 0, 1, 2]
    torch.testing.assert_close(module.s[touched], torch.ones(4))
    torch.testing.assert_close(module.u[touched], torch.full((4,), 0.09))
    torch.testing.assert_close(module.temperature[touched], torch.full((4,), 0.482))
    assert module.s[3] == 0 and module.u[3] == 0 and module.temperature[3] == 0.5
    module(x, x, torch.tensor([4, 0, 1, 3]), epoch=1)
    assert module.s[3] == pytest.approx(0.8)  # 0.2 of nothing, 0.8 of the batch
