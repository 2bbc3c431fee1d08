from __future__ import annotations

import math

import pytest
import torch

from domains.speech.reading import Waveform
from domains.speech.tera.collation import TeraCollator
from domains.speech.tera.configuration import TeraConfig
from domains.speech.tera.optimization import TeraAdamW
from domains.speech.tera.pretraining import TeraForPreTraining
from domains.speech.tera.processing import TeraProcessor
from hub.errors import InvalidRecipe
from hub.reading import Sample
from hub.training.collation import Randomness, seeded_generator


@pytest.fixture
def collator(processor, config) -> TeraCollator:
    return TeraCollator(processor, config, crop_frames=100, min_frames=50)


def batch_of(collator, samples, seed: int = 0) -> dict[str, torch.Tensor]:
    views = [collator.view(collator.prepare(s), seeded_generator(seed, i)) for i, s in enumerate(samples)]
    return collator.collate(views, Randomness.seeded(len(views), seed))


def test_cost_is_that_of_the_crop_and_short_recordings_are_left_out(collator, samples):
    assert [collator.cost(s) for s in samples] == [75, 100, 0]


def test_a_crop_keeps_the_level_of_its_recording(config, processor, samples):
    """Level over the recording, mean and variance over the crop: the order of the published training."""
    collator = TeraCollator(processor, config, crop_frames=40, min_frames=0)
    sample = samples[1]
    view = collator.view(collator.prepare(sample), seeded_generator(5))
    assert view.shape == (41, 80)
    scaled = processor.features.scale(torch.tensor(sample.data.samples))
    start = int(torch.randint(len(scaled) - 6_400 + 1, (), generator=seeded_generator(5)))
    torch.testing.assert_close(view, processor.features.frames_of(scaled[start : start + 6_400]))
    assert torch.equal(collator.view(collator.prepare(sample), seeded_generator(5)), view)
    assert not torch.equal(collator.view(collator.prepare(sample), seeded_generator(6)), view)


def test_a_recording_at_another_rate_is_cropped_after_resampling(collator):
    noise = torch.randn(8_000 * 3, generator=torch.Generator().manual_seed(0)).numpy()
    view = collator.view(collator.prepare(Sample(Waveform(noise, 8_000))), seeded_generator(1))
    assert view.shape == (101, 80)


def test_a_batch_holds_altered_and_clean_frames(collator, samples):
    batch = batch_of(collator, samples)
    assert batch["input_values"].shape == batch["labels"].shape == batch["label_mask"].shape
    assert batch["attention_mask"].shape == batch["labels"].shape[:2]
    hidden = batch["label_mask"] | ~batch["attention_mask"].unsqueeze(-1)
    quiet = TeraCollator(collator.processor, TeraConfig(**{**collator.config.to_dict(), "noise_proportion": 0}))
    views = [collator.view(collator.prepare(s), seeded_generator(0, i)) for i, s in enumerate(samples)]
    calm = quiet.collate(views, Randomness.seeded(len(views)))
    assert torch.equal(calm["input_values"][~hidden], calm["labels"][~hidden])
    again = batch_of(collator, samples)
    assert all(torch.equal(batch[name], again[name]) for name in batch)


def test_utterances_that_nothing_happens_to_are_left_out(processor, config, samples):
    """Twelve frames at 15 % round to no block; only those with a band of columns stay."""
    collator = TeraCollator(processor, config, crop_frames=12, min_frames=0)
    kept = set()
    for seed in range(60):
        views = [collator.view(collator.prepare(samples[2]), seeded_generator(seed, i)) for i in range(3)]
        batch = collator.collate(views, Randomness.seeded(len(views), seed))
        assert batch["label_mask"].flatten(1).any(1).all()
        kept.add(len(batch["labels"]))
    assert kept <= {1, 2, 3}
    assert {2, 3} <= kept


def test_a_policy_that_can_alter_nothing_is_refused(processor, config, samples):
    never = TeraConfig(**{**config.to_dict(), "mask_frequency": 0})
    collator = TeraCollator(processor, never, crop_frames=12, min_frames=0)
    with pytest.raises(InvalidRecipe, match="min_frames"):
        batch_of(collator, samples[2:])


def test_sizes_must_fit_the_processor(config):
    with pytest.raises(InvalidRecipe, match="240 features"):
        TeraCollator(TeraProcessor(front_end="kaldi"), config)


@pytest.mark.parametrize("loss", ["L1", "MSE"])
def test_the_loss_is_the_mean_error_of_scored_cells(loss, config, collator, samples, shaken):
    model = TeraForPreTraining(TeraConfig(**{**config.to_dict(), "loss": loss})).eval()
    shaken(model)
    batch = batch_of(collator, samples)
    with torch.no_grad():
        output = model(**batch)
        states = model.tera(batch["input_values"], batch["attention_mask"]).last_hidden_state
        torch.testing.assert_close(output.predictions, model.head(states))
    error = (output.predictions - batch["labels"])[batch["label_mask"]]
    target = batch["labels"][batch["label_mask"]]
    mean = (lambda e: e.abs().mean()) if loss == "L1" else (lambda e: e.square().mean())
    assert output.loss.item() == pytest.approx(mean(error).item(), abs=1e-6)
    assert output.metrics["zero_loss"].item() == pytest.approx(mean(target).item(), abs=1e-6)
    real = batch["attention_mask"].sum() * 80
    assert output.metrics["mask_ratio"].item() == pytest.approx((batch["label_mask"].sum() / real).item())


def test_frames_beyond_the_chunk_length_are_one_pass_in_pretraining(config, collator, samples, shaken):
    """A crop of 1500 frames gives 1501; cutting it in two would restart its positions."""
    batch = batch_of(collator, samples)
    losses = []
    for length in (0, 30):
        model = TeraForPreTraining(TeraConfig(**{**config.to_dict(), "sequence_length": length})).eval()
        shaken(model)
        losses.append(model(**batch).loss.item())
    assert losses[0] == losses[1]


def test_a_short_run_gets_below_predicting_zero(processor, samples):
    torch.manual_seed(0)
    config = TeraConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        hidden_dropout_prob=0,
        attention_probs_dropout_prob=0,
    )
    collator = TeraCollator(processor, config, crop_frames=60, min_frames=0)
    model = TeraForPreTraining(config).train()
    optimizer = TeraAdamW(model.parameter_groups(weight_decay=0.01), lr=3e-3)
    first = last = zero = 0.0
    for step in range(80):
        output = model(**batch_of(collator, samples, seed=step))
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad()
        first += output.loss.item() / 10 if step < 10 else 0
        if step >= 70:
            last += output.loss.item() / 10
            zero += output.metrics["zero_loss"].item() / 10
    assert last < 0.93 * zero
    assert last < first


def test_the_optimiser_takes_the_published_steps():
    """Two parameters, one decayed; each step by its formula in float64."""
    generator = torch.Generator().manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(3, generator=generator)) for _ in range(2)]
    values = [w.detach().double() for w in weights]
    decays = (0.01, 0.0)
    groups = [{"params": [w], "weight_decay": d} for w, d in zip(weights, decays, strict=True)]
    optimizer = TeraAdamW(groups, lr=0.1)
    average = [torch.zeros(3, dtype=torch.float64) for _ in range(2)]
    square = [torch.zeros(3, dtype=torch.float64) for _ in range(2)]
    for step in range(1, 6):
        for index, weight in enumerate(weights):
            weight.grad = torch.randn(3, generator=generator)
            gradient = weight.grad.double()
            average[index] = 0.9 * average[index] + 0.1 * gradient
            square[index] = 0.999 * square[index] + 0.001 * gradient**2
            correction = math.sqrt(1 - 0.999**step) / (1 - 0.9**step)
            update = average[index] / (square[index].sqrt() + 1e-8) + decays[index] * values[index]
            values[index] = values[index] - 0.1 * correction * update
        optimizer.step()
        for weight, value in zip(weights, values, strict=True):
            torch.testing.assert_close(weight.detach().double(), value, atol=1e-6, rtol=0)


def test_the_optimiser_goes_on_where_it_was_saved():
    def run(interrupt: bool) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1)
        weight = torch.nn.Parameter(torch.ones(4))
        optimizer = TeraAdamW([weight], lr=0.01)
        for step in range(6):
            weight.grad = torch.randn(4, generator=generator)
            optimizer.step()
            if interrupt and step == 2:
                state = optimizer.state_dict()
                optimizer = TeraAdamW([weight], lr=0.5)
                optimizer.load_state_dict(state)
        return weight.detach()

    assert torch.equal(run(interrupt=False), run(interrupt=True))


def test_biases_and_normalisations_are_not_decayed(pretext):
    decayed, plain = pretext.parameter_groups(weight_decay=0.01)
    names = {id(p): n for n, p in pretext.named_parameters()}
    assert all(names[id(p)].endswith("weight") and "norm" not in names[id(p)] for p in decayed["params"])
    expected = {n for n in names.values() if n.endswith("bias") or "norm" in n}
    assert {names[id(p)] for p in plain["params"]} == expected
    assert plain["weight_decay"] == 0
