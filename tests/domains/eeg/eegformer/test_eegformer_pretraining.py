"""EEGFormer's pretext tasks: the codebook's health, and the objectives that may stand in for reconstruction."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from domains.eeg.eegformer.collation import EEGFormerCollator
from domains.eeg.eegformer.configuration import OBJECTIVES, EEGFormerConfig
from domains.eeg.eegformer.objectives.frames import fourier_view, scalogram_view
from domains.eeg.eegformer.objectives.myow import mine
from domains.eeg.eegformer.pretraining import EEGFormerForPreTraining
from domains.eeg.eegformer.processing import EEGFormerProcessor
from hub.errors import InvalidRecipe
from hub.reading import Sample
from hub.training.collation import Randomness, seeded_generator

SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_decoder_layers": 1, "num_attention_heads": 4,
    "intermediate_size": 64, "codebook_size": 24, "patch_size": 45, "max_tokens": 7, "norm_first": True,
    "final_norm": True,
}  # fmt: skip


def task(objective: str = "reconstruction", **changes: Any) -> EEGFormerForPreTraining:
    torch.manual_seed(0)
    options = {**SMALL, "objective": objective, "class_token": objective == "timedrl", **changes}
    return EEGFormerForPreTraining(EEGFormerConfig(**options)).train()


def batch(model: EEGFormerForPreTraining, processor: EEGFormerProcessor, samples: list[Sample], seed: int = 0) -> Any:
    collator = EEGFormerCollator(processor, model.config, max_channels=2)
    views = [collator.view(collator.prepare(s), seeded_generator(seed, i)) for i, s in enumerate(samples)]
    return collator.collate(views, Randomness.seeded(len(views), seed))


@pytest.fixture
def recordings(record) -> list[Sample]:
    """Recordings that differ by a tone, of one to three channels."""
    return [record(["Fp1", "O2", "Cz"][: 1 + i % 3], 6.0, i, tone=4.0 + 3 * i) for i in range(8)]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_falls_and_its_codes_learn_to_tell_the_input(objective, processor, recordings) -> None:
    model = task(objective, mined_from=0.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    history = []
    for step in range(30):
        output = model(**batch(model, processor, recordings, step))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        model.update_teacher((step + 1) / 30)
        history.append({"loss": output.loss.item(), **{k: float(v.detach()) for k, v in output.metrics.items()}})
    early, late = ({k: np.mean([h[k] for h in part]) for k in history[0]} for part in (history[1:6], history[-5:]))
    own = {"timedrl": "predictive", "frames": "contrast_fourier", "myow": "augmented"}.get(objective, "loss")
    assert late[own] < early[own] and late["reconstruction"] < 0.9 * early["reconstruction"]
    if objective == "myow":
        assert history[-1]["mined"] > 0


@pytest.mark.parametrize("objective", OBJECTIVES[1:])
def test_codebook_and_decoder_read_other_objectives_without_changing_them(objective, processor, recordings) -> None:
    model = task(objective)
    given = batch(model, processor, recordings)
    torch.manual_seed(1)
    output = model(**given)
    (output.metrics["reconstruction"] + 100 * output.metrics["commitment"]).backward()
    touched = {n.split(".")[1] for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert touched == {"decoder", "head"}


def test_dead_codes_are_revived_and_reported(processor, recordings) -> None:
    model = task(codebook_update="ema", revive_every=2, revive_below=0.1)
    book = model.eegformer.codebook
    with torch.no_grad():
        book.weight[1:] += 1e3  # all but one out of reach
    perplexities = []
    for step in range(4):
        perplexities.append(float(model(**batch(model, processor, recordings, step)).metrics["perplexity"]))
        model.update_teacher(0.5)
    assert perplexities[0] == pytest.approx(1.0) and perplexities[-1] > 4
    assert book.weight.abs().max() < 100


def test_views_are_crops_of_some_channels(processor, record) -> None:
    collator = EEGFormerCollator(processor, EEGFormerConfig(**SMALL), shortest_seconds=2.0, max_channels=5)
    prepared = collator.prepare(record([f"E{i}" for i in range(12)], 10.0))
    shapes = [tuple(collator.view(prepared, seeded_generator(i))["first"]["input_values"].shape) for i in range(30)]
    assert {rows for rows, _, _ in shapes} == {5}
    assert {tokens for _, tokens, _ in shapes} == {3, 4, 5, 6}  # 7 only of the one full length in 501
    assert collator.cost(record(["Cz"], 0.9)) == 0 and collator.cost(record(["Cz"], 10.0)) == 7


def test_recipes_that_do_not_fit_are_refused(processor) -> None:
    for config, options in (
        ({"patch_size": 46}, {}),
        ({"max_tokens": 3}, {}),
        ({}, {"shortest_seconds": 5.0}),
        ({}, {"shortest_seconds": 0.5}),
        ({"objective": "frames"}, {"shortest_seconds": 2.0}),
    ):
        with pytest.raises(InvalidRecipe):
            EEGFormerCollator(processor, EEGFormerConfig(**{**SMALL, **config}), **options)
    with pytest.raises(Exception, match="class_token"):
        EEGFormerConfig(objective="timedrl")


def test_the_fourier_view_keeps_energy_and_the_scalogram_finds_a_tone() -> None:
    time = torch.arange(1000, dtype=torch.float64) / 250
    signal = torch.stack([torch.sin(2 * torch.pi * 10 * time), torch.sin(2 * torch.pi * 30 * time)])
    view = fourier_view(signal, 250.0, 125.0)
    # A real signal's spectrum is symmetric: half of its energy is in the positive frequencies.
    torch.testing.assert_close(view.square().sum((1, 2)), (signal.square().sum(1) / 2).float(), rtol=1e-4, atol=0)
    scales = torch.logspace(0, 1, 32, base=45.0)
    peaks = scales[scalogram_view(signal, 250.0, 1.0, 45.0)[:, :, 10:-10].mean(-1).argmax(1)]
    torch.testing.assert_close(peaks, torch.tensor([10.0, 30.0]), rtol=0.07, atol=0)


def test_mined_views_are_near_and_of_other_recordings() -> None:
    pool = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.0]])
    queries = torch.tensor([[1.0, 0.05], [0.05, 1.0]])
    assert mine(queries, pool, 1, torch.tensor([0.9, 0.9])).tolist() == [0, 2]
    allowed = torch.tensor([[False, True, True, True], [True, True, False, True]])
    assert mine(queries, pool, 1, torch.tensor([0.9, 0.9]), allowed).tolist() == [1, 1]
    drawn = {int(mine(queries[:1], pool, 2, torch.tensor([d]))[0]) for d in (0.0, 0.4, 0.6, 0.99)}
    assert drawn == {0, 1}


def test_the_teacher_of_myow_follows_and_can_start_anew(processor, recordings) -> None:
    model = task("myow", ema_momentum=0.5)
    teacher = model.objective.teacher
    assert not any(p.requires_grad for p in teacher.parameters())
    with torch.no_grad():
        model.eegformer.head.bias += 1.0
    before = teacher.model["model"].head.bias.clone()
    model.update_teacher(0.0)
    torch.testing.assert_close(teacher.model["model"].head.bias, (before + model.eegformer.head.bias) / 2)
    model.start_teacher()
    torch.testing.assert_close(teacher.model["model"].head.bias, model.eegformer.head.bias.detach())
