"""Views, DINO's task, its teacher and its optimiser."""

from __future__ import annotations

import math

import pytest
import torch

from domains.sar.nereus.augmentation import gaussian, random_box, speckle
from domains.sar.nereus.collation import NereusCollator
from domains.sar.nereus.configuration import NereusConfig
from domains.sar.nereus.pretraining import NereusForPreTraining
from domains.sar.nereus.processing import NereusProcessor
from hub.errors import InvalidRecipe
from hub.training.collation import Randomness, seeded_generator
from hub.training.dino import CLIP, DinoAdamW

SMALL = {
    "embedding_size": 8,
    "hidden_sizes": [16, 24],
    "depths": [1, 1],
    "layer_type": "basic",
    "head_hidden": 32,
    "head_bottleneck": 8,
    "head_outputs": 16,
}
VIT = {
    "backbone": "vit",
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "head_hidden": 32,
    "head_bottleneck": 8,
    "head_outputs": 16,
}


def task_of(**changes: object) -> NereusForPreTraining:
    torch.manual_seed(0)
    return NereusForPreTraining(NereusConfig(**{**SMALL, **changes}))


def crops(batch: int = 4, size: int = 32, local: int = 16, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "global_crops": torch.randn(batch, 2, 1, size, size, generator=generator),
        "local_crops": torch.randn(batch, 3, 1, local, local, generator=generator),
    }


def collator(**changes: object) -> NereusCollator:
    processor = NereusProcessor(64, -2.5, 5.6, (-30.0, 30.0), "image")
    options = {"global_size": 32, "local_size": 16, "local_crops": 3, **changes}
    return NereusCollator(processor, NereusConfig(**SMALL), **options)


def test_boxes_have_the_shape_and_share_asked_for() -> None:
    generator = seeded_generator(0)
    boxes = [random_box(90, 120, (0.2, 0.5), generator) for _ in range(500)]
    for rows, columns in boxes:
        height, width = rows.stop - rows.start, columns.stop - columns.start
        assert 0 <= rows.start and rows.stop <= 90 and 0 <= columns.start and columns.stop <= 120
        assert 0.19 < height * width / (90 * 120) < 0.51
        assert 0.72 < width / height < 1.39
    starts = [rows.start for rows, _ in boxes]
    assert min(starts) == 0 and max(starts) > 40
    # Where no box of such a shape fits, the largest centred one of the image's own shape is taken.
    rows, columns = random_box(10, 400, (1.0, 1.0), generator)
    assert (rows, columns) == (slice(0, 10), slice(0, 400))


def test_added_speckle_has_the_variance_of_its_looks() -> None:
    for looks in (1, 4, 16):
        noise = speckle(torch.Size((200, 200)), looks, seeded_generator(looks))
        assert float(noise.mean()) == pytest.approx(1, abs=0.02)
        assert float(noise.var()) == pytest.approx(1 / looks, rel=0.06)


def test_smoothing_averages_power() -> None:
    noise = speckle(torch.Size((128, 128)), 1, seeded_generator(3))
    smooth = gaussian(noise, 1.5)
    assert float(smooth.mean()) == pytest.approx(float(noise.mean()), rel=0.01)
    # White noise under a Gaussian keeps 1 / (4 pi sigma^2) of its variance.
    assert float(smooth.var() / noise.var()) == pytest.approx(1 / (4 * math.pi * 1.5**2), rel=0.2)
    point = torch.zeros(9, 9)
    point[4, 4] = 1
    assert float(gaussian(point, 0.2)[4, 4]) > 0.99


def test_views_are_of_the_sizes_and_repeat_with_their_generator() -> None:
    power = speckle(torch.Size((70, 50)), 1, seeded_generator(1))
    ours = collator()
    one, again, other = (ours.view(power, seeded_generator(5, number)) for number in (0, 0, 1))
    assert one["global_crops"].shape == (2, 1, 32, 32) and one["local_crops"].shape == (3, 1, 16, 16)
    assert all(torch.equal(one[k], again[k]) and not torch.equal(one[k], other[k]) for k in one)
    batch = ours.collate([one, other], Randomness.seeded(2))
    assert batch["global_crops"].shape == (2, 2, 1, 32, 32) and batch["local_crops"].shape == (2, 3, 1, 16, 16)
    assert set(collator(local_crops=0).view(power, seeded_generator(0))) == {"global_crops"}
    low, high = ((level + 2.5) / 5.6 for level in (-30.0, 30.0))
    assert low <= float(one["local_crops"].min()) and float(one["global_crops"].max()) <= high


def test_options_that_cannot_be_are_refused() -> None:
    for options, text in (
        ({"local_scale": (0.5, 0.2)}, "local_scale"),
        ({"global_scale": (0.5, 1.5)}, "global_scale"),
        ({"looks": (0, 4)}, "looks"),
    ):
        with pytest.raises(InvalidRecipe, match=text):
            collator(**options)
    with pytest.raises(InvalidRecipe, match="patches of 8"):
        NereusCollator(collator().processor, NereusConfig(**VIT), global_size=30, local_size=16)


@pytest.mark.parametrize("sizes", [SMALL, VIT], ids=["resnet", "vit"])
def test_the_loss_begins_at_that_of_an_even_teacher(sizes: dict) -> None:
    torch.manual_seed(0)
    # At high temperatures both answer evenly, whatever the weights: log(outputs).
    task = NereusForPreTraining(
        NereusConfig(
            **{**sizes, "student_temperature": 1e4, "teacher_temperature_start": 1e4, "teacher_temperature": 1e4}
        )
    ).train()
    output = task(**crops())
    assert output.loss.item() == pytest.approx(math.log(16), abs=1e-4)
    assert float(output.metrics["teacher_entropy"]) == pytest.approx(math.log(16), abs=1e-4)
    assert float(output.metrics["used_entropy"]) == pytest.approx(math.log(16), abs=1e-4)
    assert output.predictions.shape == (5, 4, 16) and output.states.shape[0] == 8


def test_a_normalised_head_answers_differently_from_image_to_image() -> None:
    """What all images share drowns the plain head's answers at first; batch normalisation takes it out."""
    spread = {}
    for normalised in (False, True):
        task = task_of(head_batch_norm=normalised).train()
        answers = task(crops(16)["global_crops"]).predictions[0]
        spread[normalised] = answers.std(0).mean().item()
    assert spread[True] > 3 * spread[False]


def test_a_view_is_never_scored_against_itself() -> None:
    """With two global views alone, exchanging them leaves the loss as it is."""
    task = task_of().eval()
    both = crops()["global_crops"]
    assert task(both).loss.item() == pytest.approx(task(both.flip(1)).loss.item(), rel=1e-5)
    # Equal views of one image cost the entropy of the teacher plus its distance to the student, which are equal here
    # when the temperatures are.
    same = both[:, :1].expand(-1, 2, -1, -1, -1)
    task.config.student_temperature = task.config.teacher_temperature_start = 0.1
    output = task(same)
    assert output.loss.item() == pytest.approx(float(output.metrics["teacher_entropy"]), rel=1e-4)


def test_the_teacher_follows_by_its_momentum_and_learns_nothing_else() -> None:
    task = task_of(teacher_momentum=0.9).train()
    assert not any(p.requires_grad for p in task.teacher.parameters())
    before = [p.clone() for p in task.teacher.parameters()]
    with torch.no_grad():
        for parameter in (*task.nereus.parameters(), *task.head.parameters()):
            parameter.add_(1.0)
    task.update_teacher(0.5)
    for old, new in zip(before, task.teacher.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.1)
    assert float(task.progress) == 0.5
    moved = [p.clone() for p in task.teacher.parameters()]
    # Half-way up a half cosine from 0.9 to 1: 0.95.
    task.update_teacher(1.0)
    for start, old, new in zip(before, moved, task.teacher.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.05 * (start + 1 - old))
    assert float(task.progress) == 0.0, "a run that goes on from a finished one begins its schedules anew"
    task.start_teacher()
    for own, students in zip(task.teacher.model.encoder.parameters(), task.nereus.parameters(), strict=True):
        assert torch.equal(own, students)


def test_prototypes_wait_and_the_centre_moves_after_the_loss() -> None:
    task = task_of(frozen_prototypes=0.5, centre_momentum=0.9).train()
    task(**crops()).loss.backward()
    assert task.head.prototypes.grad is None and task.head.layers[0].weight.grad is not None
    with torch.no_grad():
        expected = 0.1 * task.teacher(crops()["global_crops"])[0].flatten(0, 1).mean(0)
    torch.testing.assert_close(task.centre.value, expected, atol=1e-5, rtol=1e-4)
    task.progress.fill_(0.5)
    task(**crops()).loss.backward()
    assert task.head.prototypes.grad is not None
    fixed = task.centre.value.clone()
    task.eval()(**crops())
    assert torch.equal(task.centre.value, fixed)


def test_the_optimiser_clips_each_tensor_and_raises_the_decay() -> None:
    task = task_of(weight_decay_end=0.4)
    optimizer = DinoAdamW(task.parameter_groups(0.04), lr=1e-3)
    learnt = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in learnt} == {id(p) for p in task.parameters() if p.requires_grad}
    large, small = task.head.layers[0].weight, task.head.layers[2].weight
    large.grad, small.grad = torch.full_like(large, 7.0), torch.full_like(small, 1e-3)
    optimizer.step()
    assert float(large.grad.norm()) == pytest.approx(CLIP, rel=1e-4)
    assert float(small.grad.norm()) == pytest.approx(1e-3 * math.sqrt(small.numel()), rel=1e-4)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [pytest.approx(0.04), 0.0]
    # State that was saved and read back still follows the task's own course.
    optimizer.load_state_dict(optimizer.state_dict())
    task.update_teacher(0.5)
    optimizer.step()
    assert [g["weight_decay"] for g in optimizer.param_groups] == [pytest.approx(0.22), 0.0]


def test_an_encoder_leaves_what_the_task_needs_and_either_can_be_taken(tmp_path) -> None:
    from domains.sar.nereus.export import export_encoder
    from domains.sar.nereus.modeling import NereusModel
    from hub.errors import InvalidCheckpoint, UnsupportedOption

    task = task_of().train()
    with torch.no_grad():
        for parameter in task.nereus.parameters():
            parameter.mul_(1.5)
    task.save_pretrained(tmp_path / "run")
    NereusProcessor(64, -2.5, 5.6, (-30.0, 30.0), "image").save_pretrained(tmp_path / "run")
    student = NereusModel.from_pretrained(tmp_path / "run")
    for own, saved in zip(student.parameters(), task.nereus.parameters(), strict=True):
        assert torch.equal(own, saved)
    export_encoder(tmp_path / "run", tmp_path / "teacher")
    teacher = NereusModel.from_pretrained(tmp_path / "teacher")
    for own, saved in zip(teacher.parameters(), task.teacher.model.encoder.parameters(), strict=True):
        assert torch.equal(own, saved)
    export_encoder(tmp_path / "run", tmp_path / "student", "student")
    weights = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("run", "student")]
    assert weights[1] < weights[0] / 2
    taken = NereusModel.from_pretrained(tmp_path / "student")
    for own, saved in zip(taken.parameters(), task.nereus.parameters(), strict=True):
        assert torch.equal(own, saved)
    export_encoder(tmp_path / "run", tmp_path / "first", "student", stages=1, pooling="grid")
    first = NereusModel.from_pretrained(tmp_path / "first").eval()
    assert first.config.depths == [1] and first.embedding_dimension() == 16 * 16
    image = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        expected = taken.eval().resnet(image, output_hidden_states=True).hidden_states[1]
        torch.testing.assert_close(first.grid(first(image).last_hidden_state, 32, 32), expected)
    with pytest.raises(UnsupportedOption, match="has 2 stages"):
        export_encoder(tmp_path / "run", tmp_path / "third", "student", stages=3)
    with pytest.raises(InvalidCheckpoint, match="not empty"):
        export_encoder(tmp_path / "run", tmp_path / "teacher")
    with pytest.raises(InvalidCheckpoint, match="no teacher"):
        export_encoder(tmp_path / "teacher", tmp_path / "other")
