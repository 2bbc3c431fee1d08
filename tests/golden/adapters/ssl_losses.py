"""Golden values of the SSL objectives, their gradients and their state.

Parameters are read from the tensor names (`<loss>/t0.1_s0.5/...`), from `config.json`, or from
the shapes. Left out, because other rooms hold what they check:
`adamw/*`, `lars/*`, `lars_nowd/*`, `schedule/dino_cosine_scheduler`,
`schedule/infinite_by_formula`, `schedule/lr_warmup_cosine_lightly` (hub/training); `knn/*`,
`rankme/*` (hub/evaluation); `sincos2d/*` (a position table of the image encoders).
"""

import json
import pathlib
import re
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from hub import ssl

Compare = Callable[..., None]

# The README's own; both sides are fp32. On the set at hand the largest difference is 4e-7 relative.
TIGHT = {"atol": 1e-5, "rtol": 1e-4}
# The README's for Sinkhorn, DINO and VICReg, whose exponentials and squares magnify rounding.
LOOSE = {"atol": 1e-5, "rtol": 1e-3}
EXACT = {"atol": 0.0}

# Not in any tensor name or in config.json: constants of the reference run (README of the set,
# references/ssl-core.md). The target temperature of SCE is the video setting.
SCE = {"temperature": 0.1, "target_temperature": 0.05, "coefficient": 0.5}
STUDENT_TEMPERATURE = 0.1
SWAV = {"temperature": 0.1, "epsilon": 0.05, "iterations": 3}
ISOGCLR = {"gamma": 0.8, "rho": 6.0, "momentum": 0.9, "temperature_lr": 1e-3}
MIXED = {"cifar": (4.0, "cross"), "imagenet": (0.5, "auto")}
MIXED_WEIGHT = 1 / 128
SELF_PATCH_K = 4
MAE_RATIO = "mae/mask_ratio"


def check(folder: pathlib.Path, compare: Compare) -> None:
    """Compare every recorded tensor that hub/ssl implements.

    Args:
        folder: holds `config.json` and `io.safetensors`.
        compare: `compare(name, actual, expected, atol=..., rtol=...)`.
    """
    io = load_file(folder / "io.safetensors")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    scalars = config["scalars"]
    for part in (
        _pair_losses,
        _predictor_losses,
        _vicreg_parts,
        _mixed_barlow_twins,
        _queue,
        _similarity_contrastive,
        _individual_temperatures,
        _many_views,
        _dino,
        _ibot,
        _swav,
        _mae,
        _self_patch,
        _ema,
    ):
        part(io, scalars, compare)


def _parameters(name: str) -> dict[str, float]:
    """`dclw/t0.1_s0.5/loss` -> `{"t": 0.1, "s": 0.5}`."""
    return {key: float(value) for key, value in re.findall(r"([a-z])([0-9.]+)", name.split("/")[1])}


def _cases(io: dict[str, Tensor], loss: str) -> list[str]:
    """Prefixes of the recorded parameter sets of a loss, such as `dcl/t0.07`."""
    return sorted(key.removesuffix("/loss") for key in io if re.fullmatch(f"{loss}/[^/]+/loss", key))


def _compare_gradients(
    io: dict[str, Tensor],
    prefix: str,
    loss: Tensor,
    inputs: dict[str, Tensor],
    compare: Compare,
) -> None:
    """Compare a loss and its gradient for every input of which one was recorded."""
    tolerance = LOOSE if prefix.startswith("vicreg") else TIGHT
    compare(f"{prefix}/loss", loss, io[f"{prefix}/loss"], **tolerance)
    recorded = [name for name in inputs if f"{prefix}/grad_{name}" in io]
    if not recorded:
        return
    gradients = torch.autograd.grad(loss, [inputs[name] for name in recorded])
    for name, gradient in zip(recorded, gradients, strict=True):
        compare(f"{prefix}/grad_{name}", gradient, io[f"{prefix}/grad_{name}"], **tolerance)


def _leaves(io: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {name: io[name].clone().requires_grad_() for name in names}


def _pair_losses(io: dict[str, Tensor], scalars: dict[str, Any], compare: Compare) -> None:
    def vicreg(z0: Tensor, z1: Tensor, prefix: str) -> Tensor:
        weights = [float(weight) for weight in prefix.split("/")[1].split("_")]
        names = ("invariance_weight", "variance_weight", "covariance_weight")
        return ssl.vicreg(z0, z1, **dict(zip(names, weights, strict=True)))

    functions: dict[str, Callable[[Tensor, Tensor, str], Tensor]] = {
        "ntxent": lambda a, b, n: ssl.nt_xent(a, b, temperature=_parameters(n)["t"]),
        "dcl": lambda a, b, n: ssl.dcl(a, b, temperature=_parameters(n)["t"]),
        "dclw": lambda a, b, n: ssl.dclw(a, b, temperature=_parameters(n)["t"], sigma=_parameters(n)["s"]),
        "barlow_twins": lambda a, b, n: ssl.barlow_twins(a, b, redundancy_weight=_parameters(n)["l"]),
        "vicreg": vicreg,
        "moco_queue": lambda a, b, n: ssl.queue_contrastive(a, b, io["queue"], temperature=_parameters(n)["t"]),
    }
    for name, function in functions.items():
        for prefix in _cases(io, name):
            inputs = _leaves(io, "z0", "z1")
            loss = function(inputs["z0"], inputs["z1"], prefix)
            _compare_gradients(io, prefix, loss, inputs, compare)
    inputs = _leaves(io, "z0", "z1")
    loss = ssl.negative_cosine(inputs["z0"], inputs["z1"])
    _compare_gradients(io, "neg_cosine", loss, inputs, compare)
    inputs = _leaves(io, "z0")
    _compare_gradients(io, "koleo", ssl.koleo(inputs["z0"]), inputs, compare)


def _predictor_losses(io: dict[str, Tensor], scalars: dict[str, Any], compare: Compare) -> None:
    for prefix, function in (("byol_symmetric", ssl.byol), ("simsiam_symmetric", ssl.simsiam)):
        inputs = _leaves(io, "p0", "p1")
        loss = function(inputs["p0"], inputs["p1"], io["z0"], io["z1"])
        _compare_gradients(io, prefix, loss, inputs, compare)


def _vicreg_parts(io: dict[str, Tensor], scalars: dict[str, Any], compare: Compare) -> None:
    invariance = ssl.vicreg(io["z0"], io["z1"], invariance_weight=1, variance_weight=0, covariance_weight=0)
    compare("vicreg/invariance", invariance, scalars["vicreg/invariance"], **LOOSE)
    for view in ("z0", "z1"):
        name = f"vicreg/variance_{view}"
        compare(name, ssl.variance_hinge(io[view]), scalars[name], **LOOSE)
        name = f"vicreg/covariance_{view}"
        compare(name, ssl.covariance_penalty(io[view]), scalars[name], **LOOSE)


def _mixed_barlow_twins(io: dict[str, Tensor], scalars: dict[str, Any], compare: Compare) -> None:
    for variant, (scale, second_target) in MIXED.items():
        plain = ssl.barlow_twins(io["z0"], io["z1"], redundancy_weight=MIXED_WEIGHT, unbiased=True)
        compare(f"mixbt/{variant}/bt", plain, scalars[f"mixbt/{variant}/bt"], **TIGHT)
        mixed = ssl.mixed_barlow_twins(
            io["z0"],
            io["z1"],
            io["mixbt/zm"],
            io["mixbt/index"],
            alpha=scalars["mixbt/alpha"],
            redundancy_weight=MIXED_WEIGHT,
            scale=scale,
            second_target=second_target,
        )
        compare(f"mixbt/{variant}/mix", mixed, scalars[f"mixbt/{variant}/mix"], **TIGHT)


def _queue(io: dict[str, Tensor], scalars: dict[str, Any], compare: Compare) -> None:
    size, dim = io["ring/bank_after0"].shape
    queue = ssl.FeatureQueue(size, dim, generator=torch.Generator())
    queue.bank.zero_()
    for step in range(sum(key.startswith("ring/enqueue") for key in io)):
        queue.push(io[f"ring/enqueue{step}"])
        for name, state in (("bank", queue.bank), ("ptr", queue.pointer)):
            compare(f"ring/{name}_after{step}", state, io[f"ring/{name}_after{step}"], **EXACT)


def _similarity_contrastive(io: dict[str, Tensor], scalars: dict[str, Any], compare: Compare) -> None:
    for name, contrast_batch in (("use_keys", True), ("queue_only", False)):
        loss = ssl.similarity_contrastive(io["z0"], io["z1"], io["queue"], contrast_batch=contrast_batch, **SCE)
        compare(f"sce/{name}/loss", loss, io[f"sce/{name}/loss"], **TIGHT)


def _individual_temperatures(io: dict[str, Tensor], scalars: dict[str, Any], compare: Compare) -> None:
    untouched = torch.ones_like(io["isogclr/tau_after0"], dtype=torch.bool)
    untouched[io["isogclr/index0"]] = False
    initial = float(io["isogclr/tau_after0"][untouched][0])  # the temperature of a sample not yet seen
    module = ssl.IndividualTemperatures(len(untouched), initial_temperature=initial, **ISOGCLR)
    for epoch in range(sum(key.startswith("isogclr/loss") for key in io)):
        unit = io["isogclr/features"].clone().requires_grad_()
        loss = module(unit[:, 0], unit[:, 1], io[f"isogclr/index{epoch}"], epoch=epoch)
        compare(f"isogclr/loss{epoch}", loss, io[f"isogclr/loss{epoch}"], **TIGHT)
        # The reference takes unit features for granted; hub/ssl normalises, which removes the
        # part of the gradient along the feature. That part is all that is not compared.
        expected = io[f"isogclr/grad_features{epoch}"]
        along = (expected * unit).sum(dim=-1, keepdim=True) * unit
        (gradient,) = torch.autograd.grad(loss, [unit])
        compare(f"isogclr/grad_features{epoch}", gradient, (expected - along).detach(), **TIGHT)
        for name, state in (("s", module.s), ("tau", module.temperature), ("u", module.u)):
            compare(f"isogclr/{name}_after{epoch}", state, io[f"isogclr/{name}_after{epoch}"], **TIGHT)


def _many_views(io: dict[str, Tensor], scalars: dict[str, Any], compare: Compare) -> None:
    views = [io["z0"], io["z1"], io["cacr/view2"]]
    compare("cacr/attraction", ssl.cacr_attraction(views), io["cacr/attraction"], **TIGHT)
    compare("cacr/repulsion", ssl.cacr_repulsion(views), io["cacr/repulsion"], **TIGHT)
    hardest = _groco_hardest(io, scalars)
    loss = ssl.groco(views, hardest=hardest, steepness=1.0)
    compare("groco/loss", loss, io["groco/loss"], **TIGHT)
    for key in io:
        if found := re.fullmatch(r"groco/two_views_steep([0-9.]+)/loss", key):
            loss = ssl.groco(views[:2], hardest=hardest, steepness=float(found[1]))
            compare(key, loss, io[key], **TIGHT)


def _groco_hardest(io: dict[str, Tensor], scalars: dict[str, Any]) -> int:
    """Number of negatives, which is recorded only through the similarity of the last of them."""
    unit = F.normalize(io["z0"], dim=1)
    similarity = (unit @ unit.T).fill_diagonal_(-2).sort(dim=1, descending=True).values
    last = scalars["groco_info"]["info_neg_min"]
    return int((similarity[:, :-1].mean(dim=0) - last).abs().argmin()) + 1


def _dino(io: dict[str, Tensor], scalars: dict[str, Any], compare: Compare) -> None:
    teacher = io["dino/teacher"]
    centre = ssl.Centre(teacher.shape[-1])
    temperatures = scalars["dino/teacher_temp_schedule"]
    for step in range(sum(key.startswith("dino/loss_step") for key in io)):
        student = io["dino/student"].clone().requires_grad_()
        loss = ssl.dino(
            student,
            teacher,
            centre.value,
            student_temperature=STUDENT_TEMPERATURE,
            teacher_temperature=temperatures[step],
        )
        centre.update(teacher)
        (gradient,) = torch.autograd.grad(loss, [student])
        compare(f"dino/loss_step{step}", loss, io[f"dino/loss_step{step}"], **LOOSE)
        compare(f"dino/grad_student_step{step}", gradient, io[f"dino/grad_student_step{step}"], **LOOSE)
        expected = io[f"dino/center_after_step{step}"].flatten()
        compare(f"dino/center_after_step{step}", centre.value, expected, **LOOSE)


def _ibot(io: dict[str, Tensor], scalars: dict[str, Any], compare: Compare) -> None:
    student, teacher = io["ibot/student_masked"], io["ibot/teacher_masked"]
    centre = ssl.Centre(teacher.shape[-1])
    loss = ssl.masked_patch_distillation(
        student,
        teacher,
        io["ibot/mask"],
        centre.value,
        student_temperature=STUDENT_TEMPERATURE,
        teacher_temperature=scalars["dino/teacher_temp_schedule"][0],
    )
    centre.update(teacher)
    compare("ibot/loss", loss, io["ibot/loss"], **LOOSE)
    compare("ibot/center_after", centre.value, io["ibot/center_after"].flatten(), **LOOSE)


def _swav(io: dict[str, Tensor], scalars: dict[str, Any], compare: Compare) -> None:
    high, low, queue = io["swav/high"], io["swav/low"], io["swav/queue"]
    for key in io:
        if found := re.fullmatch(r"swav/codes_it(\d+)_eps([0-9.]+)", key):
            codes = ssl.sinkhorn(high[0], iterations=int(found[1]), epsilon=float(found[2]))
            compare(key, codes, io[key], **LOOSE)
    compare("swav/loss", ssl.swav(high, low, **SWAV), io["swav/loss"], **LOOSE)
    with_queue = ssl.swav(high, low, queue, **SWAV)
    compare("swav/loss_with_queue", with_queue, io["swav/loss_with_queue"], **LOOSE)


def _mae(io: dict[str, Tensor], scalars: dict[str, Any], compare: Compare) -> None:
    noise, sequence, mask = io["mae/noise"], io["mae/sequence"], io["mae/mask"]
    keep = int(noise.shape[1] * (1 - scalars[MAE_RATIO]))
    drawn = ssl.mask_from_noise(noise, keep)
    compare("mae/ids_keep", drawn.keep, io["mae/ids_keep"], **EXACT)
    compare("mae/ids_restore", drawn.restore, io["mae/ids_restore"], **EXACT)
    compare("mae/mask", drawn.mask.to(mask.dtype), mask, **EXACT)
    compare("mae/kept", ssl.gather_tokens(sequence, drawn.keep), io["mae/kept"], **EXACT)

    image, patches = io["mae/image"], io["mae/patches"]
    patch = round((patches.shape[2] / image.shape[1]) ** 0.5)
    compare("mae/patches", ssl.patchify(image, patch), patches, **EXACT)
    for name, normalise in (("norm", True), ("raw", False)):
        loss = ssl.masked_patch_mse(io["mae/pred"], patches, mask, normalise=normalise)
        compare(f"mae/loss_{name}_pix", loss, io[f"mae/loss_{name}_pix"], **TIGHT)

    kept = io["token_mask/idx_keep"].shape[1]
    drawn = ssl.mask_from_noise(io["token_mask/noise"], kept, prefix=1)
    compare("token_mask/idx_keep", drawn.keep, io["token_mask/idx_keep"], **EXACT)
    compare("token_mask/idx_mask", drawn.masked, io["token_mask/idx_mask"], **EXACT)


def _self_patch(io: dict[str, Tensor], scalars: dict[str, Any], compare: Compare) -> None:
    for key in io:
        if found := re.fullmatch(r"selfpatch/local_index_(\d+)x(\d+)_k3", key):
            neighbours = ssl.patch_neighbours(int(found[1]), int(found[2]), wrap=True)
            compare(key, neighbours, io[key], **EXACT)
            best = ssl.similar_neighbours(io["selfpatch/x"], neighbours, k=SELF_PATCH_K)
            compare("selfpatch/top4_of_8", best, io["selfpatch/top4_of_8"], **EXACT)


def _ema(io: dict[str, Tensor], scalars: dict[str, Any], compare: Compare) -> None:
    def state(prefix: str) -> dict[str, Tensor]:
        start = f"{prefix}/"
        return {key.removeprefix(start): io[key] for key in io if key.startswith(start)}

    def network(values: dict[str, Tensor]) -> nn.Module:
        wide, narrow = values["0.weight"].shape
        module = nn.Sequential(nn.Linear(narrow, wide), nn.BatchNorm1d(wide))
        module.load_state_dict(values)
        return module

    for after in sorted({key.split("/")[1] for key in io if key.startswith("ema/target_after_m")}):
        teacher = ssl.EMATeacher(network(state("ema/target_before")))
        teacher.update(network(state("ema/online")), float(after.removeprefix("target_after_m")))
        for name, value in teacher.model.state_dict().items():
            compare(f"ema/{after}/{name}", value, io[f"ema/{after}/{name}"], **TIGHT)
    for key in io:
        if found := re.fullmatch(r"schedule/ema_(byol|lightly)_([0-9.]+)_([0-9.]+)", key):
            last = len(io[key]) - 1
            values = [
                ssl.cosine_momentum(step, last, start=float(found[2]), end=float(found[3])) for step in range(last + 1)
            ]
            compare(key, torch.tensor(values, dtype=torch.float64), io[key], atol=1e-12)
