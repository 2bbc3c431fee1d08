"""Golden cases of Alice: the network tap by tap, CASA, losses, gradients, schedules, masks, crops, point matching."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable

import torch
from safetensors.torch import load_file
from torch import Tensor

from domains.medical.alice.configuration import AliceConfig
from domains.medical.alice.cropping import column_mask, crop_around
from domains.medical.alice.matching import DenseEmbedding, match
from domains.medical.alice.modeling import AliceModel
from domains.medical.alice.pretraining import AliceForPreTraining, hide
from domains.medical.alice.weights import from_published
from hub.modeling import masked_mean
from hub.training.dino import half_cosine, warmed_up
from hub.training.schedules import schedule_factor

Compare = Callable[..., None]
TOLERANCE = 1e-4


def check(folder: pathlib.Path, compare: Compare) -> None:
    """Recompute every recorded tensor of the case."""
    settings = json.loads((folder / "config.json").read_text())
    weights, io = load_file(folder / "weights.safetensors"), load_file(folder / "io.safetensors")
    task = _task(settings, weights)
    _taps(task, io, compare)
    _losses(task, settings, weights, io, compare)
    _schedules(io, compare)
    _masks_and_crops(settings, io, compare)
    _matching(io, compare)
    _swin(folder, settings["monai_swin"], compare)


def _task(settings: dict, weights: dict[str, Tensor]) -> AliceForPreTraining:
    head, casa, loss = settings["head"], settings["casa"], settings["loss"]
    config = AliceConfig(
        roi=settings["img_size"],
        embed_dim=settings["embedding_dim"],
        depths=settings["depths"],
        num_heads=settings["num_heads"],
        window_size=settings["window_size"],
        head_hidden=head["hidden_dim"],
        head_bottleneck=head["bottleneck_dim"],
        head_outputs=head["out_dim"],
        teacher_shared_head=head["teacher_shared_head"],
        casa_heads=casa["n_head"],
        casa_head_size=casa["d_k"],
        casa_inner=casa["d_inner"],
        casa_dropout=0.0,
        drop_path=0.0,
        class_weight=loss["lambda1"],
        patch_weight=loss["lambda2"],
        reconstruction_weight=loss["lambda3"],
        student_temperature=loss["student_temp"],
        centre_momentum=loss["center_momentum"],
        frozen_prototypes=0.0,
    )
    task = AliceForPreTraining(config)
    parts = {
        name: from_published({k.removeprefix(f"{name}."): v for k, v in weights.items() if k.startswith(f"{name}.")})
        for name in ("student", "teacher")
    }
    casa_weights = from_published({k: v for k, v in weights.items() if k.startswith("casa.")})
    student = {f"alice.{k}" if k.startswith("encoder.") else k: v for k, v in parts["student"].items()}
    missing, unexpected = task.load_state_dict({**student, **casa_weights}, strict=False)
    assert not unexpected, unexpected
    assert all(k.startswith(("teacher.", "centre.", "token_centre.", "progress")) for k in missing), missing
    task.start_teacher()
    teacher = {f"encoder.{k}" if k.startswith("encoder.") else k: v for k, v in parts["teacher"].items()}
    missing, unexpected = task.teacher.model.load_state_dict(teacher, strict=False)
    # The teacher scores tokens with the class prototypes, so no others are recorded.
    assert not unexpected and all("token_prototypes" in k for k in missing), (missing, unexpected)
    return task


@torch.no_grad()
def _taps(task: AliceForPreTraining, io: dict[str, Tensor], compare: Compare) -> None:
    task.eval()
    name = "layers.0.blocks.0.attn.relative_position_index"
    index = task.alice.encoder.layers[0].blocks[0].attn.relative_position_index
    compare("index.encoder", index, io[f"index.backbone.model_down.{name}"], atol=0)
    index = task.decoder.layers[0].blocks[0].attn.relative_position_index
    compare("index.decoder", index, io[f"index.backbone.decoder.{name}"], atol=0)
    whole = torch.cat([io["query"], io["key"]])
    masks = torch.cat([io["mask_query"], io["mask_key"]])[:, 0].bool()
    hidden = hide(whole, masks)
    compare("student.masked_input", hidden, io["student.masked_input"], atol=0)
    compare("student.patch_embed", task.alice.encoder.patch_embed(hidden), io["student.patch_embed"], atol=TOLERANCE)
    maps = task.alice.pyramid(hidden)
    for i, cells in enumerate(maps):
        compare(f"student.down{i}", cells, io[f"student.down{i}"], atol=TOLERANCE)
    batch = {
        "volumes": hidden,
        "starts": torch.zeros(2, 1, 3, dtype=torch.long),
        "bounds": torch.tensor([[0, 0, 0], hidden.shape[2:]]).repeat(2, 1, 1),
    }
    output = task.alice(**batch)
    pooled = masked_mean(output.last_hidden_state, output.mask)
    compare("student.pooled", pooled, io["student.pooled"], atol=TOLERANCE)
    compare("student.pooled (embed)", torch.stack(task.alice.embed(batch)), io["student.pooled"], atol=TOLERANCE)
    decoded, voxels = task.decoder(hidden, maps)
    for i, cells in enumerate(decoded):
        compare(f"student.dec{i}", cells.movedim(1, -1), io[f"student.dec{i}"], atol=TOLERANCE)
    compare("student.recon", voxels, io["student.recon"], atol=TOLERANCE)
    scores = dict(zip(("cls", "enc", "dec"), task.head(maps[-1], decoded[0]), strict=True))
    teacher = task.teacher.model
    above = teacher.encoder.pyramid(whole)
    teacher_scores = dict(zip(("cls", "enc", "dec"), task.teacher(whole, True), strict=True))
    compare("teacher.recon", teacher.decoder(whole, above)[1], io["teacher.recon"], atol=TOLERANCE)
    for name in scores:
        compare(f"student.head_{name}", scores[name], io[f"student.head_{name}"], atol=TOLERANCE)
        compare(f"teacher.head_{name}", teacher_scores[name], io[f"teacher.head_{name}"], atol=TOLERANCE)
    compare("casa.student", task.casa(scores["enc"], scores["dec"]), io["casa.student"], atol=TOLERANCE)
    compare("casa.teacher", task.casa(scores["enc"], teacher_scores["dec"]), io["casa.teacher"], atol=TOLERANCE)


def _losses(
    task: AliceForPreTraining, settings: dict, weights: dict[str, Tensor], io: dict[str, Tensor], compare: Compare
) -> None:
    start, end, epochs = settings["loss"]["teacher_temp"]
    total = settings["loss"]["epochs"]
    temperature = warmed_up(settings["loss"]["epoch"] / total, start, end, (epochs - 1) / total)
    compare("loss.teacher_temp", torch.tensor([temperature]).double(), io["loss.teacher_temp"], atol=1e-9)
    task.config.teacher_temperature_start = task.config.teacher_temperature = temperature
    for name, centre in (("center", task.centre), ("center2", task.token_centre)):
        centre.value.copy_(io[f"loss.{name}_before"].flatten())
    task.train()
    crops = torch.cat([io["query"], io["key"]], dim=1)
    masks = torch.cat([io["mask_query"], io["mask_key"]], dim=1).bool()
    output = task(crops, masks)
    relative = {"atol": 0.0, "rtol": TOLERANCE}
    compare("loss.cls", output.metrics["class_loss"][None], io["loss.cls"], **relative)
    compare("loss.patch", output.metrics["patch_loss"][None], io["loss.patch"], **relative)
    recon = task.config.reconstruction_weight * output.metrics["reconstruction"][None]
    compare("loss.recon", recon, io["loss.recon"], **relative)
    compare("loss.loss", output.loss[None], io["loss.loss"], **relative)
    compare("loss.center_after", task.centre.value[None], io["loss.center_after"], atol=TOLERANCE)
    compare("loss.center2_after", task.token_centre.value[None, None], io["loss.center2_after"], atol=TOLERANCE)
    output.loss.backward()
    gradients = {n: p.grad for n, p in task.named_parameters() if p.requires_grad}
    assert all(g is not None for g in gradients.values()), [n for n, g in gradients.items() if g is None]
    for name in [k for k in io if k.startswith("grad.")]:
        (ours,) = from_published({name.removeprefix("grad."): io[name]})
        ours = f"alice.{ours}" if ours.startswith("encoder.") else ours
        size = float(io[name].abs().max())
        compare(name, gradients[ours], io[name], atol=TOLERANCE * max(size, 1e-3))
    # What the reference never trains has no counterpart here.
    unused = from_published(dict.fromkeys(settings["params_without_gradient"], torch.empty(0)))
    assert not unused, unused


def _schedules(io: dict[str, Tensor], compare: Compare) -> None:
    total, warmup = len(io["sched.momentum"]), 5 * 7
    momentum = [half_cosine(k / total, 0.996, 1.0) for k in range(total)]
    compare("sched.momentum", torch.tensor(momentum).double(), io["sched.momentum"], atol=1e-7)
    decay = [half_cosine(k / total, 0.04, 0.4) for k in range(total)]
    compare("sched.wd", torch.tensor(decay).double(), io["sched.wd"], atol=1e-7)
    peak, final = 5e-5 * 64 / 256, 1e-4
    # The published "cosine decay" ends above its peak; the hub's counts steps from 1.
    factor = schedule_factor("cosine", total, warmup / total, final=final / peak)
    rates = [peak * factor(k - 1) for k in range(warmup, total)]
    compare("sched.lr (after warm-up)", torch.tensor(rates).double(), io["sched.lr"][warmup:], atol=1e-9)
    rising = [peak * factor(k - 1) * warmup / (warmup - 1) for k in range(1, warmup)]
    compare("sched.lr (warm-up)", torch.tensor([0.0, *rising]).double(), io["sched.lr"][:warmup], atol=1e-9)


def _masks_and_crops(settings: dict, io: dict[str, Tensor], compare: Compare) -> None:
    mask = settings["mask"]
    patch = mask["mask_patch_size"] // mask["model_patch_size"]
    for name in ("mask_query", "mask_key"):
        recorded = io[name][0, 0].bool()
        ours = column_mask(recorded.shape, patch, mask["ratio"], torch.Generator().manual_seed(0))
        compare(f"{name} (cells hidden)", ours.sum(), recorded.sum(), atol=0)
        # Both consist of whole columns of cells.
        for m in (ours, recorded):
            columns = m[::patch, ::patch, :1].repeat_interleave(patch, 0).repeat_interleave(patch, 1).expand_as(m)
            compare(f"{name} (columns)", m.float(), columns.float(), atol=0)
    for i in range(3):
        sides = io[f"crop.out{i}"].shape[2:]
        cut = crop_around(io["crop.volume"][0, 0], io[f"crop.centre{i}"].tolist(), sides)
        compare(f"crop.out{i}", cut, io[f"crop.out{i}"][0, 0], atol=0)


def _matching(io: dict[str, Tensor], compare: Compare) -> None:
    """The recorded embeddings are indexed z, y, x, those of the hub x, y, z."""
    query, key = (
        DenseEmbedding(
            fine=io[f"mine.fine_{name}"][0].transpose(1, 3),
            coarse=io[f"mine.coarse_{name}"][0].transpose(1, 3),
            per_voxel=(io[f"mine.norm_ratio_{name}"] / 2).tolist(),
        )
        for name in ("query", "key")
    )
    found, score = match(io["mine.point"].tolist(), query, key, io["mine.key_shape"].tolist())
    compare("mine.match", torch.tensor(found).float(), io["mine.match"].float(), atol=1)
    compare("mine.score", torch.tensor([score]), io["mine.score"], atol=TOLERANCE)


@torch.no_grad()
def _swin(folder: pathlib.Path, settings: dict, compare: Compare) -> None:
    weights, io = load_file(folder / "monai_swin_weights.safetensors"), load_file(folder / "monai_swin_io.safetensors")
    config = AliceConfig(
        backbone="swin_unetr",
        roi=settings["img"],
        embed_dim=settings["embed_dim"],
        depths=settings["depths"],
        num_heads=settings["heads"],
        window_size=[settings["window"][0]] * 4,
        use_v2=settings["v2"],
    )
    model = AliceModel(config).eval()
    missing, unexpected = model.encoder.load_state_dict(weights, strict=False)
    assert not unexpected and all(k.endswith("relative_position_index") for k in missing), (missing, unexpected)
    maps = model.pyramid(io["input"])
    for i, cells in enumerate(maps):
        compare(f"monai_swin.hidden{i}", cells, io[f"hidden{i}"], atol=TOLERANCE)
    compare("monai_swin.pooled_last", model.tokens(maps).mean(dim=(2, 3, 4)), io["pooled_last"], atol=TOLERANCE)
