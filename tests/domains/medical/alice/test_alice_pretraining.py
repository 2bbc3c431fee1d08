"""Pairs of crops, what is hidden of them, and steps on them, with both backbones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import hub
from domains.medical.alice.anatomy import Anatomy, foreground_point, key_of
from domains.medical.alice.collation import AliceCollator
from domains.medical.alice.configuration import AliceConfig
from domains.medical.alice.cropping import column_mask, crop_around, reshaded
from domains.medical.alice.export import export_encoder
from domains.medical.alice.matching import DenseEmbedding, match
from domains.medical.alice.mining import embed_densely, mine
from domains.medical.alice.modeling import AliceModel
from domains.medical.alice.pretraining import AliceForPreTraining, hide
from domains.medical.alice.processing import AliceProcessor
from domains.medical.image import MedicalImage
from domains.medical.samples import phantom, write_samples
from hub.errors import InvalidCheckpoint, InvalidInput, InvalidRecipe
from hub.exporting import TEACHER
from hub.reading import Sample, Source
from hub.training.collation import Randomness, seeded_generator
from hub.training.dino import DinoAdamW
from hub.training.pretrain import pretrain
from hub.training.recipe import load_recipe

SMALL = {"head_hidden": 32, "head_bottleneck": 16, "head_outputs": 24, "casa_heads": 2, "casa_head_size": 8}
SMALL |= {"casa_inner": 24, "casa_dropout": 0.0, "drop_path": 0.0, "frozen_prototypes": 0.0}
BACKBONES = {
    "nnformer": {"roi": [16] * 3, "embed_dim": 12, "depths": [1, 2, 1], "num_heads": [1, 2, 4], "window_size": [4] * 3},
    "swin_unetr": {
        "backbone": "swin_unetr",
        "roi": [64, 32, 32],
        "embed_dim": 12,
        "depths": [1, 1, 1, 1],
        "num_heads": [1, 2, 4, 8],
        "window_size": [4] * 4,
    },
}


def sample(seed: int = 0, shape: tuple[int, int, int] = (24, 32, 28)) -> Sample:
    return Sample(MedicalImage(phantom(*shape, seed=seed)[None], spacing=(1.0, 1.0, 1.0)))


def parts(backbone: str = "nnformer", **options) -> tuple[AliceForPreTraining, AliceCollator]:
    torch.manual_seed(0)
    task = AliceForPreTraining(AliceConfig(**BACKBONES[backbone], **SMALL))
    processor = AliceProcessor(roi=task.config.roi)
    return task, AliceCollator(processor, task.config, margin=0, mask_patch=4, **options)


def batch_of(collator: AliceCollator, count: int) -> dict[str, torch.Tensor]:
    views = [collator.view(collator.prepare(sample(i)), seeded_generator(i)) for i in range(count)]
    return collator.collate(views, Randomness.seeded(count))


@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_one_step_moves_everything_that_learns_and_then_the_teacher(backbone: str) -> None:
    task, collator = parts(backbone)
    optimizer = DinoAdamW(task.parameter_groups(0.04), lr=1e-3)
    before = {n: p.detach().clone() for n, p in task.named_parameters()}
    output = task.train()(**batch_of(collator, 3))
    assert torch.isfinite(output.loss) and output.predictions.shape == (6, 1, *task.config.roi)
    terms = [float(output.metrics[k].detach()) for k in ("class_loss", "patch_loss", "reconstruction")]
    assert float(output.loss.detach()) == pytest.approx(terms[0] + terms[1] + 10 * terms[2], rel=1e-5)
    output.loss.backward()
    optimizer.step()
    still = [n for n, p in task.named_parameters() if torch.equal(p, before[n])]
    # Zeros stay zero under a gradient that is zero: biases that cannot matter (of keys, and before a normalisation).
    assert all(n.startswith("teacher.") or n.endswith("bias") for n in still), still
    assert all(n in still for n in before if n.startswith("teacher."))
    task.update_teacher(0.5)
    name = "decoder.final.up.weight" if backbone == "nnformer" else "decoder.out.conv.conv.weight"
    moved, own = task.teacher.model.get_parameter(name), task.get_parameter(name)
    torch.testing.assert_close(moved, 0.996 * before[name] + 0.004 * own, atol=1e-7, rtol=1e-4)
    assert float(task.progress) == 0.5


def test_pairs_of_a_batch_are_scored_each_by_itself() -> None:
    """The published loop is right for one pair at a time only."""
    task, collator = parts()
    task.eval()
    batch = batch_of(collator, 3)
    whole = float(task(**batch).loss)
    single = [float(task(**{k: v[i : i + 1] for k, v in batch.items()}).loss) for i in range(3)]
    assert whole == pytest.approx(np.mean(single), rel=1e-4)
    swapped = {k: v.flip(1) for k, v in batch.items()}
    assert float(task(**swapped).loss) == pytest.approx(whole, rel=1e-4)


def test_the_weight_decay_rises_and_every_gradient_is_clipped_by_itself() -> None:
    task, collator = parts()
    optimizer = DinoAdamW(task.parameter_groups(0.04), lr=1e-3)
    (task.train()(**batch_of(collator, 2)).loss * 1e4).backward()
    optimizer.step()
    norms = [float(p.grad.norm()) for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
    assert max(norms) == pytest.approx(3.0, rel=1e-3)
    assert optimizer.param_groups[0]["weight_decay"] == pytest.approx(0.04)
    task.update_teacher(0.999)
    optimizer.step()
    assert optimizer.param_groups[0]["weight_decay"] == pytest.approx(0.4, abs=1e-4)
    assert optimizer.param_groups[1]["weight_decay"] == 0.0


def test_prototypes_wait_and_the_teachers_temperature_rises() -> None:
    task, collator = parts()
    task.config.frozen_prototypes = 0.1
    task.train()(**batch_of(collator, 2)).loss.backward()
    assert task.head.class_prototypes.direction.grad is None and task.head.mlp[0].weight.grad is not None
    task.progress.fill_(0.2)
    task(**batch_of(collator, 2)).loss.backward()
    assert task.head.class_prototypes.direction.grad.abs().sum() > 0


def test_a_shared_teacher_scores_tokens_with_the_class_prototypes() -> None:
    task, _ = parts()
    crops = torch.rand(2, 1, 16, 16, 16)
    _, shared, _ = task.teacher(crops, True)
    _, own, _ = task.teacher(crops, False)
    assert not torch.allclose(shared, own)
    task.teacher.model.head.token_prototypes.load_state_dict(task.head.class_prototypes.state_dict())
    torch.testing.assert_close(task.teacher(crops, False)[1], shared)


def test_hidden_cells_are_whole_columns_and_dark() -> None:
    mask = column_mask((8, 8, 8), 2, 0.75, seeded_generator(0))
    assert mask.float().mean() == 0.75 and (mask == mask[:, :, :1]).all()
    assert (mask[::2, ::2] == mask[1::2, 1::2]).all()
    crops = hide(torch.ones(1, 1, 16, 16, 16), mask[None])
    assert crops.mean() == 0.25 and crops[0, 0, :2, :2].unique().numel() == 1
    uneven = column_mask((7, 5, 3), 4, 0.5, seeded_generator(1))
    assert uneven.shape == (7, 5, 3) and not uneven.all()


def test_crops_are_dark_outside_the_volume() -> None:
    volume = torch.ones(6, 6, 6)
    assert crop_around(volume, (3, 3, 3), (4, 4, 4)).all()
    corner = crop_around(volume, (0, 5, 3), (4, 4, 4))
    assert corner.sum() == 2 * 3 * 4 and corner[2:, :3].all()
    assert not crop_around(volume, (-20, 3, 3), (4, 4, 4)).any()
    assert torch.equal(reshaded(volume, 0.0, 0.0, seeded_generator(0)), volume)
    changed = reshaded(torch.full((8, 8, 8), 0.5), 0.3, 0.05, seeded_generator(0))
    assert 0 <= changed.min() < changed.max() <= 1


def test_points_lie_in_the_foreground_away_from_the_far_borders() -> None:
    volume = torch.zeros(20, 20, 20)
    volume[3:6, 3:6, 3:20] = 1.0
    points = np.array([foreground_point(volume, 10, seeded_generator(i)) for i in range(40)])
    assert points.min() >= 3 and points[:, :2].max() <= 5 and points.max() <= 9
    anywhere = np.array([foreground_point(torch.zeros(20, 20, 20), 10, seeded_generator(i)) for i in range(40)])
    assert anywhere.max() > 9


def test_overlapping_crops_are_of_one_volume() -> None:
    _, collator = parts(shift=0.0)
    first, second = collator.view(collator.prepare(sample()), seeded_generator(0))
    assert torch.equal(first, second)
    _, collator = parts(shift=0.5, gamma=0.2, noise=0.05)
    first, second = collator.view(collator.prepare(sample()), seeded_generator(0))
    assert not torch.equal(first, second)
    flat = Sample(MedicalImage(np.zeros((1, 1, 32, 32), np.float32)))
    assert collator.cost(flat) == 0 and collator.cost(sample()) == 2 * 16**3
    with pytest.raises(InvalidInput, match="at least 4"):
        collator.cost(sample(shape=(2, 32, 28)))


def test_a_point_is_found_again_in_a_shifted_volume() -> None:
    random = torch.Generator().manual_seed(0)
    scene = torch.nn.functional.normalize(torch.randn(16, 24, 24, 24, generator=random), dim=0)

    def embedding(first: int) -> DenseEmbedding:
        fine = scene[:, first : first + 16, :16, :16]
        coarse = torch.nn.functional.avg_pool3d(fine[None], 2)[0]
        return DenseEmbedding(fine, coarse, per_voxel=[0.5] * 3)

    # Six cells are twelve voxels.
    found, score = match((21, 9, 16), embedding(0), embedding(6), (32, 32, 32))
    assert found == (8, 8, 16) and score > 0.9
    # A cell of two voxels is found by either of them, and its first is named.
    assert match((20, 8, 17), embedding(0), embedding(6), (32, 32, 32))[0] == (8, 8, 16)


def test_mined_pairs_serve_pretraining(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = AliceModel(AliceConfig(**BACKBONES["nnformer"])).eval()
    processor = AliceProcessor(roi=[16] * 3)
    files = []
    for seed in range(3):
        files.append(tmp_path / f"{seed}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(phantom(26, 30, 22, seed=seed), np.eye(4)), files[-1])
    folder = tmp_path / "anatomy"
    found = mine(encoder, processor, files, folder, pairs=4, margin=0)
    assert len(found) == 12 and all(pair.score <= 1 + 1e-3 for _, pair in found)
    anatomy = Anatomy(folder)
    volume, embedding = anatomy.get(found[0][0])
    assert key_of(volume) == found[0][0] and embedding.fine.shape[1:] == tuple(-(-s // 2) for s in volume.shape)
    # A volume matched with itself finds the very cell.
    dense = embed_densely(encoder, volume)
    point, score = match((10, 12, 14), dense, dense, volume.shape)
    assert point == (10, 12, 14) and score == pytest.approx(1, abs=1e-5)
    reader = processor.reader()
    samples = [next(iter(reader.read(Source.from_path(f)))) for f in files]
    config = AliceConfig(**BACKBONES["nnformer"], **SMALL)
    for kind in ("embedding", "precomputed"):
        collator = AliceCollator(processor, config, pairs=kind, anatomy=str(folder), margin=0, mask_patch=4)
        prepared = collator.prepare(samples[0])
        crops = collator.view(prepared, seeded_generator(5))
        assert crops.shape == (2, 16, 16, 16)
        assert torch.equal(crops, collator.view(prepared, seeded_generator(5)))
        if kind == "precomputed":
            mine_ = [pair for key, pair in found if key == prepared["key"]]
            cut = [crop_around(pair.partner, pair.partner_point, (16, 16, 16)) for pair in mine_]
            assert any(torch.equal(crops[1], c) for c in cut)
        with pytest.raises(InvalidRecipe, match="training data"):
            collator.view(collator.prepare(sample(9)), seeded_generator(0))


@pytest.mark.parametrize(
    "options",
    [
        {"pairs": "random"},
        {"pairs": "embedding"},
        {"pairs": "overlap", "anatomy": "somewhere"},
        {"pairs": "embedding", "anatomy": "nowhere"},
        {"mask_patch": 5},
        {"mask_ratio": 1.0},
        {"noise": -1.0},
    ],
)
def test_options_that_cannot_be_are_refused(options: dict) -> None:
    config = AliceConfig(**BACKBONES["nnformer"])
    with pytest.raises(InvalidRecipe, match="pretext"):
        AliceCollator(AliceProcessor(roi=[16] * 3), config, **options)


def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write_samples(tmp_path / "data")
    recipe = load_recipe("alice/tiny").with_training(steps=6, log_every=1, save_every=3, batch_size=2)
    whole = pretrain(recipe, tmp_path / "data", tmp_path / "whole")
    losses = [p["loss"] for p in json.loads((whole / "training_log.json").read_text())]
    assert len(losses) == 6 and np.isfinite(losses).all()
    shutil.copytree(whole, tmp_path / "killed")
    shutil.rmtree(tmp_path / "killed" / "checkpoint-6")
    resumed = pretrain(recipe, tmp_path / "data", tmp_path / "killed", resume=True)
    assert [p["loss"] for p in json.loads((resumed / "training_log.json").read_text())] == losses
    embedder, again = hub.from_pretrained(whole), hub.from_pretrained(resumed)
    vectors = embedder.embed([sample()]).vectors
    assert vectors.shape == (1, embedder.model.config.hidden_size)
    np.testing.assert_array_equal(vectors, again.embed([sample()]).vectors)
    # One encoder of it alone.
    export_encoder(whole, tmp_path / "student", "student")
    np.testing.assert_array_equal(hub.from_pretrained(tmp_path / "student").embed([sample()]).vectors, vectors)
    export_encoder(whole / "checkpoint-6", tmp_path / "wide", "teacher", roi=32, pooling="centre", half=True)
    wide = AliceModel.from_pretrained(tmp_path / "wide")
    assert wide.config.roi == [32] * 3 and wide.config.pooling == "centre"
    assert wide.encoder.absolute_pos_embed.shape == (1, 16**3, 12)
    name = "encoder.layers.0.blocks.0.attn.qkv.weight"
    moved = load_file(whole / "model.safetensors")[TEACHER + name]
    torch.testing.assert_close(wide.get_parameter(name), moved, atol=1e-3, rtol=0)
    with pytest.raises(InvalidCheckpoint, match="not empty"):
        export_encoder(whole, tmp_path / "wide")
    with pytest.raises(InvalidCheckpoint, match="holds no teacher"):
        export_encoder(tmp_path / "student", tmp_path / "none")
