"""Golden cases of Nereus: backbones, DINO steps, schedules, balanced sampling and SimCore; see `check`."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from domains.sar.nereus.configuration import NereusConfig
from domains.sar.nereus.conversion import config_from_weights, fill
from domains.sar.nereus.modeling import NereusModel
from domains.sar.nereus.pretraining import NereusForPreTraining
from domains.sar.nereus.weights import from_published
from hub.curation.balanced import balanced_counts, water_level
from hub.curation.target import similar_in_rounds
from hub.ssl.dino import Centre, dino
from hub.training.dino import half_cosine, warmed_up
from hub.training.schedules import schedule_factor

Compare = Callable[..., None]
TOLERANCE = 1e-4
EXACT = 1e-9
LEARNING_RATE = 0.05
EPOCHS, STEPS_AN_EPOCH, WARMUP_EPOCHS = 8, 4, 2


def check(folder: pathlib.Path, compare: Compare) -> None:
    """Recompute every recorded tensor of the case."""
    settings = json.loads((folder / "config.json").read_text())
    weights, io = load_file(folder / "weights.safetensors"), load_file(folder / "io.safetensors")
    parts = {
        name: {k.removeprefix(f"{name}."): v for k, v in weights.items() if k.startswith(f"{name}.")}
        for name in ("resnet", "vit")
    }
    encoders = {name: _encoder(tensors, settings[name]) for name, tensors in parts.items()}
    _resnet(encoders["resnet"], io, compare)
    _vit(encoders["vit"], io, compare)
    _steps(encoders["resnet"], settings, io, compare)
    _loss_alone(settings, io, compare)
    _schedules(settings, io, compare)
    _curation(io, compare)


def _encoder(tensors: dict[str, Tensor], settings: dict) -> NereusModel:
    """Load the recorded backbone as a published file is loaded: by its weights' names and shapes."""
    renamed = from_published(tensors)
    return fill(config_from_weights(renamed, settings, "golden"), renamed, {}, "golden")


@torch.no_grad()
def _resnet(model: NereusModel, io: dict[str, Tensor], compare: Compare) -> None:
    inner = model.resnet(io["resnet.in"], output_hidden_states=True)
    for i, state in enumerate(inner.hidden_states):
        compare(f"resnet.hidden{i}", state, io[f"resnet.hidden{i}"], atol=TOLERANCE)
    for case in ("resnet", "resnet_odd"):
        output = model(io[f"{case}.in"])
        grid = model.grid(output.last_hidden_state, *io[f"{case}.in"].shape[2:])
        if f"{case}.last_hidden_state" in io:
            compare(f"{case}.last_hidden_state", grid, io[f"{case}.last_hidden_state"], atol=TOLERANCE)
        compare(f"{case}.summary", model.summary(output), io[f"{case}.pooler_output"][:, :, 0, 0], atol=TOLERANCE)
        embedded = torch.stack(model.embed({"pixel_values": io[f"{case}.in"]}))
        compare(f"{case}.pooler_output", embedded, io[f"{case}.pooler_output"][:, :, 0, 0], atol=TOLERANCE)


@torch.no_grad()
def _vit(model: NereusModel, io: dict[str, Tensor], compare: Compare) -> None:
    output = model(io["vit.in"], output_hidden_states=True)
    for i, state in enumerate(output.hidden_states[:-1]):
        compare(f"vit.hidden{i}", state, io[f"vit.hidden{i}"], atol=TOLERANCE)
    last = len(output.hidden_states) - 1
    compare(f"vit.hidden{last}", model.vit.layernorm(io[f"vit.hidden{last}"]), output.last_hidden_state, atol=TOLERANCE)
    compare("vit.last_hidden_state", output.last_hidden_state, io["vit.last_hidden_state"], atol=TOLERANCE)
    smaller = model(io["vit_interp.in"]).last_hidden_state
    compare("vit_interp.last_hidden_state", smaller, io["vit_interp.last_hidden_state"], atol=TOLERANCE)


def _steps(encoder: NereusModel, settings: dict, io: dict[str, Tensor], compare: Compare) -> None:
    """Three steps of plain SGD, student and teacher in train mode."""
    head = settings["head"]
    values = encoder.config.to_dict()
    values |= {"head_hidden": head["hidden"], "head_bottleneck": head["bottleneck"], "head_outputs": head["out_dim"]}
    values |= {"teacher_momentum": head["mom"], "centre_momentum": settings["center_momentum"], "frozen_prototypes": 0}
    task = NereusForPreTraining(NereusConfig(**{k: v for k, v in values.items() if k in NereusConfig().to_dict()}))
    task.nereus.load_state_dict(encoder.state_dict())
    for name, parameter in task.head.layers.named_parameters():
        parameter.data.copy_(io[f"init.head.mlp.{name}"])
    task.head.prototypes.data.copy_(io["init.head.last_layer.weight_v"])
    compare(
        "init.head.last_layer.weight_g",
        torch.ones_like(io["init.head.last_layer.weight_g"]),
        io["init.head.last_layer.weight_g"],
        atol=0,
    )
    task.start_teacher()
    task.train()
    learnt = [p for p in task.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learnt, lr=LEARNING_RATE)
    for k in range(settings["steps"]):
        prefix, relative = f"step{k}", 0.0 if k == 0 else 1e-2
        tolerance = {"atol": TOLERANCE, "rtol": relative}
        # Recorded in successive epochs, as if each had one step.
        temperature = float(io["sched.teacher_temp"][int(io[f"{prefix}.epoch"])])
        task.config.teacher_temperature_start = task.config.teacher_temperature = temperature
        compare(f"{prefix}.center_before", task.centre.value[None], io[f"{prefix}.center_before"], **tolerance)
        crops = {n: io[f"{prefix}.{n}"].transpose(0, 1) for n in ("global_crops", "local_crops")}
        teacher = []
        hook = task.teacher.register_forward_hook(lambda module, args, output, into=teacher: into.append(output[0]))
        output = task(**crops)
        hook.remove()
        compare(f"{prefix}.student_out", output.predictions.flatten(0, 1), io[f"{prefix}.student_out"], **tolerance)
        compare(f"{prefix}.teacher_out", teacher[0].flatten(0, 1), io[f"{prefix}.teacher_out"], **tolerance)
        compare(f"{prefix}.loss", output.loss[None], io[f"{prefix}.loss"], **tolerance)
        compare(f"{prefix}.center_after", task.centre.value[None], io[f"{prefix}.center_after"], **tolerance)
        optimizer.zero_grad()
        output.loss.backward()
        stem = task.nereus.resnet.embedder.embedder.convolution.weight
        compare(f"{prefix}.grad.stem", stem.grad, io[f"{prefix}.grad.stem"], **tolerance)
        name = "grad.head.last_layer.weight_v"
        compare(f"{prefix}.{name}", task.head.prototypes.grad, io[f"{prefix}.{name}"], **tolerance)
        optimizer.step()
        total = EPOCHS * STEPS_AN_EPOCH
        momentum = half_cosine(float(task.progress), head["mom"], 1.0)
        # The share of the run is kept in single precision.
        compare(f"{prefix}.momentum", _doubles([momentum]), io[f"{prefix}.momentum"], atol=1e-8)
        task.update_teacher((k + 1) / total)
        moved = task.teacher.model.encoder.resnet.embedder.embedder.convolution.weight
        compare(f"{prefix}.teacher_stem_after_ema", moved, io[f"{prefix}.teacher_stem_after_ema"], **tolerance)


def _loss_alone(settings: dict, io: dict[str, Tensor], compare: Compare) -> None:
    """The loss on fixed logits, the teacher's temperature rising from epoch to epoch, the centre carried along."""
    views = 2 + settings["n_local"]
    student = io["loss_only.student"].unflatten(0, (views, -1))
    teacher = io["loss_only.teacher"].unflatten(0, (2, -1))
    centre = Centre(settings["head"]["out_dim"], momentum=settings["center_momentum"])
    values = []
    for epoch in range(len(io["loss_only.values"])):
        temperature = float(io["loss_only.teacher_temp"][epoch])
        values.append(dino(student, teacher, centre.value, teacher_temperature=temperature))
        centre.update(teacher)
    compare("loss_only.values", torch.stack(values), io["loss_only.values"], atol=1e-5)
    compare("loss_only.center_end", centre.value[None], io["loss_only.center_end"], atol=1e-6)


def _schedules(settings: dict, io: dict[str, Tensor], compare: Compare) -> None:
    total, warmup = EPOCHS * STEPS_AN_EPOCH, WARMUP_EPOCHS * STEPS_AN_EPOCH
    head = settings["head"]
    momentum = [half_cosine(k / total, head["mom"], 1.0) for k in range(total)]
    compare("sched.momentum", _doubles(momentum), io["sched.momentum"], atol=EXACT)
    decay = [half_cosine(k / total, 0.04, 0.4) for k in range(total)]
    compare("sched.wd", _doubles(decay), io["sched.wd"], atol=EXACT)
    # At the beginning of each epoch; in between ours rises on, where the reference stays until the next epoch.
    share = (head["warm_ep"] - 1) / EPOCHS
    temperatures = [warmed_up(e / EPOCHS, head["warm_t"], head["t"], share) for e in range(EPOCHS)]
    for name in ("sched.teacher_temp", "loss_only.teacher_temp"):
        compare(name, _doubles(temperatures), io[name], atol=EXACT)
    # The hub's cosine ends at zero one step later; the reference's, which counts from 0, ends just above 1e-6.
    peak, floor = 5e-4 * settings["batch"] / 256, 1e-6
    factor = schedule_factor("cosine", total, warmup / total)
    rates = [floor + (peak - floor) * factor(k - 1) for k in range(warmup, total)]
    compare("sched.lr (after warm-up)", _doubles(rates), io["sched.lr"][warmup:], atol=EXACT)
    rising = [peak * factor(k - 1) * warmup / (warmup - 1) for k in range(1, warmup)]
    compare("sched.lr (warm-up)", _doubles([0.0, *rising]), io["sched.lr"][:warmup], atol=EXACT)


def _doubles(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _curation(io: dict[str, Tensor], compare: Compare) -> None:
    sizes, parents = io["cur.level1_sizes"].numpy(), io["cur.level2_of_level1"].numpy()
    top = np.bincount(parents, weights=sizes).astype(np.int64)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    for target in (32, 96, 193):
        compare(f"cur.target_{target}.top_cut", [water_level(top, target)], io[f"cur.target_{target}.top_cut"], atol=0)
        counts = balanced_counts(sizes, [parents], target, np.random.default_rng(0))
        # Which clusters give one more where the target does not divide is drawn; the totals are exact.
        compare(f"cur.target_{target}.per_level1", counts, io[f"cur.target_{target}.per_level1"], atol=1)
        compare(f"cur.target_{target} (total)", int(counts.sum()), target, atol=0)
        chosen = io[f"cur.target_{target}.selected"].numpy()
        recorded = np.bincount(owner[chosen], minlength=len(sizes))
        compare(f"cur.target_{target}.selected", recorded, io[f"cur.target_{target}.per_level1"], atol=0)
    rows = similar_in_rounds(io["simcore.sim"].numpy(), 20)
    compare("simcore.select20", rows, io["simcore.select20"], atol=0)
