"""Views with the places of their cells, batches, and each objective as a pretext task."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

from domains.medical.image import MedicalImage
from domains.medical.lvm_med.collation import LVMMedCollator
from domains.medical.lvm_med.configuration import LVMMedConfig
from domains.medical.lvm_med.pretraining import LVMMedForPreTraining
from domains.medical.lvm_med.processing import LVMMedProcessor
from domains.medical.lvm_med.views import Augmentation, places
from hub.errors import InvalidRecipe
from hub.reading import Sample
from hub.training.collation import Randomness, seeded_generator

SIZE = {"arch": "resnet18", "width": 8, "depths": [1, 1, 1], "projector_hidden": [32], "projection_size": 16}
GRAPHS = {"graph_nodes": 4, "graph_neighbours": 2, "local_matches": [3, 3], "noise_scale": 0.1}


def samples(count: int = 6, slices: int = 1) -> list[Sample]:
    random = np.random.default_rng(0)
    coarse = random.random((count, 1, slices, 6, 6), dtype=np.float32)
    return [Sample(MedicalImage(np.kron(one, np.ones((8, 8), np.float32)))) for one in coarse]


def batch_of(config: LVMMedConfig, images: list[Sample], seed: int = 0, **pretext: object) -> dict[str, torch.Tensor]:
    collator = LVMMedCollator(LVMMedProcessor(size=48), config, **pretext)
    views = [collator.view(collator.prepare(s), seeded_generator(seed, i)) for i, s in enumerate(images)]
    return collator.collate(views, Randomness.seeded(len(views), seed))


def test_places_say_where_a_cell_was_seen() -> None:
    """On an image whose values are its coordinates, a cell's mean is the coordinate that it is said to have."""
    rows, columns = torch.meshgrid(*[(torch.arange(96) + 0.5) / 96] * 2, indexing="ij")
    augmentation = Augmentation(48, jitter=0, blur=0)
    flips = 0
    for seed in range(20):
        view, where = augmentation.draw(rows[None], 6, seeded_generator(seed))
        seen = torch.nn.functional.avg_pool2d(view, 8).flatten()
        torch.testing.assert_close(seen, where[:, 0], atol=0.02, rtol=0)
        view, where = augmentation.draw(columns[None], 6, seeded_generator(seed))
        seen = torch.nn.functional.avg_pool2d(view, 8).flatten()
        torch.testing.assert_close(seen, where[:, 1], atol=0.02, rtol=0)
        flips += int(seen[0] > seen[-1])
    assert 3 < flips < 17
    torch.testing.assert_close(places(0, 0, 1, 1, 2, flipped=True)[0], torch.tensor([0.25, 0.75]))


def test_views_differ_in_what_they_may_and_stay_in_range() -> None:
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    augmentation = Augmentation(32, gamma=2.0, noise=0.1, sigma=(0.5, 20.0))
    first, second = (augmentation.draw(image, 4, seeded_generator(s))[0] for s in (0, 1))
    assert first.shape == (3, 32, 32) and not torch.equal(first, second)
    for seed in range(30):
        view, _ = augmentation.draw(image, 4, seeded_generator(seed))
        assert 0 <= float(view.min()) and float(view.max()) <= 1
    again = augmentation.draw(image, 4, seeded_generator(0))[0]
    assert torch.equal(again, first)
    with pytest.raises(InvalidRecipe, match="colour"):
        LVMMedCollator(LVMMedProcessor(), LVMMedConfig(**SIZE), colour=0.1)
    with pytest.raises(InvalidRecipe, match=r"scale is \(0, 1\)"):
        LVMMedCollator(LVMMedProcessor(), LVMMedConfig(**SIZE), scale=[0, 1])


def test_slices_of_a_volume_are_drawn_from_its_parts() -> None:
    config = LVMMedConfig(**SIZE, objective="global_local")
    volume = Sample(
        MedicalImage(
            np.broadcast_to(np.linspace(0, 1, 40, dtype=np.float32)[:, None, None], (1, 40, 9, 9)), modality="CT"
        )
    )
    collator = LVMMedCollator(LVMMedProcessor(size=48, ct_window=[0.5, 1.0]), config, jitter=0)
    assert collator.slices == 4 and collator.cost(volume) == 2 * 4 * 48 * 48
    assert collator.cost(samples(1)[0]) == 0
    plain = LVMMedCollator(LVMMedProcessor(size=48, ct_window=[0.5, 1.0]), config, jitter=0)
    for seed in range(5):
        view = plain.view(plain.prepare(volume), seeded_generator(seed))
        level = view["first"][:, 0, 0, 0] * 0.229 + 0.485
        assert view["partition"].tolist() == [0, 1, 2, 3]
        assert ((level * 39 / 10).floor() == torch.arange(4)).all()
        torch.testing.assert_close(view["first"].mean((1, 2, 3)), view["second"].mean((1, 2, 3)))


@pytest.mark.parametrize(
    "choices",
    [
        {"objective": "graph_matching"},
        {"objective": "graph_matching", "variant": "released", "message_passing": "graphconv", "local": False},
        {"objective": "graph_matching", "backward": "solve", "second_order": False},
        {"objective": "nt_xent"},
        {"objective": "barlow_twins"},
        {"objective": "global_local"},
        {"objective": "graph_matching+nt_xent", "matching_weight": 20.0},
    ],
    ids=lambda c: "-".join(map(str, c.values())),
)
def test_every_objective_reaches_every_weight_and_repeats(choices: dict[str, object]) -> None:
    torch.manual_seed(0)
    config = LVMMedConfig(**SIZE, **GRAPHS, **choices)
    task = LVMMedForPreTraining(config).train()
    images = samples(6, slices=8 if "global_local" in config.objectives else 1)
    batch = batch_of(config, images, slices=2 if "global_local" in config.objectives else 1)
    output = task(**batch)
    output.loss.backward()
    assert torch.isfinite(output.loss) and output.states.shape == (2 * len(batch["first"]), 9, 32)
    # The last bias of message passing moves all nodes alike: edges do not see it, and vertices do.
    untouched = [n for n, p in task.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not untouched
    assert any(p.grad.abs().sum() > 0 for p in task.lvm_med.parameters())
    if "graph_matching" in config.objectives:
        assert 0 <= float(output.metrics["wrong_matches"]) <= 1
    torch.manual_seed(0)
    other = LVMMedForPreTraining(config).train()
    assert torch.equal(other(**batch).loss, output.loss)


def test_a_checkpoint_of_the_task_is_one_of_the_encoder_and_heads_start_fresh(tmp_path) -> None:
    from domains.medical.lvm_med.modeling import LVMMedModel

    torch.manual_seed(0)
    config = LVMMedConfig(**SIZE, **GRAPHS)
    task = LVMMedForPreTraining(config)
    task.save_pretrained(tmp_path / "task")
    encoder = LVMMedModel.from_pretrained(tmp_path / "task")
    for ours, theirs in zip(encoder.parameters(), task.lvm_med.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    whole = LVMMedForPreTraining.from_pretrained(tmp_path / "task")
    for (name, ours), theirs in zip(whole.named_parameters(), task.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    encoder.save_pretrained(tmp_path / "encoder")
    fresh = LVMMedForPreTraining.from_pretrained(tmp_path / "encoder")
    assert all(torch.isfinite(p).all() for p in fresh.parameters())
    assert float(fresh.matching.message_passing.convs[0].bias.abs().sum()) == 0


def test_choices_that_do_not_exist_are_refused() -> None:
    for wrong, match in (
        ({"objective": "simclr"}, "graph_matching"),
        ({"variant": "released"}, "set local to false"),
        ({"arch": "vgg"}, "resnet18"),
        ({"backward": "adjoint"}, "closed_form"),
        ({"strength": 0.0}, "strength"),
    ):
        with pytest.raises(StrictDataclassError, match=match):
            LVMMedConfig(**wrong)
