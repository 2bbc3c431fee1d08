"""Golden case of MYOW: cascaded projections, mined neighbours, losses and the moving average; see `check`."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from domains.eeg.eegformer.objectives.myow import mine, mlp
from hub.ssl.distillation import negative_cosine
from hub.ssl.teacher import EMATeacher

Compare = Callable[..., None]
CLOSE = {"atol": 1e-5}


def check(folder: pathlib.Path, compare: Compare) -> None:
    """Recompute every recorded tensor with our heads, in train mode; the encoder is the reference's small MLP."""
    settings = json.loads((folder / "config.json").read_text())
    weights, io = load_file(folder / "weights.safetensors"), load_file(folder / "io.safetensors")

    def part(name: str) -> nn.Sequential:
        own = {k[len(name) + 1 :].split(".", 1)[1]: v for k, v in weights.items() if k.startswith(f"{name}.")}
        network = mlp(own["0.weight"].shape[1], own["0.weight"].shape[0], own["3.weight"].shape[0])
        network.load_state_dict(own)
        return network.train()

    encoder, projector, projector_m = (part(f"online_{n}") for n in ("encoder", "projector", "projector_m"))
    target, target_projector, target_projector_m = (
        part(f"target_{n}") for n in ("encoder", "projector", "projector_m")
    )
    with torch.no_grad():
        online_q = part("predictor")(projector(encoder(io["view1"])))
        target_z = target_projector(target(io["view2"]))
        compare("online_q", online_q, io["online_q"], **CLOSE)
        compare("target_z", target_z, io["target_z"], **CLOSE)
        augmented = 2 + 2 * negative_cosine(online_q, target_z)
        compare("augmented_loss", augmented[None], io["augmented_loss"], **CLOSE)
        online_y, pool = encoder(io["view3"]), target(io["view_pool"])
        compare("online_y", online_y, io["online_y"], **CLOSE)
        compare("target_y_pool", pool, io["target_y_pool"], **CLOSE)
        index = mine(online_y, pool, settings["k"], torch.full((len(online_y),), 0.999))
        compare("mined_index_k1", index, io["mined_index_k1"], atol=0)
        online_q_m = part("predictor_m")(projector_m(projector(online_y)))
        target_v = target_projector_m(target_projector(pool[index]))
        compare("online_q_m", online_q_m, io["online_q_m"], **CLOSE)
        compare("target_v", target_v, io["target_v"], **CLOSE)
        mined = 2 + 2 * negative_cosine(online_q_m, target_v)
        compare("mined_loss", mined[None], io["mined_loss"], **CLOSE)
        compare("total_loss_w0.1", ((augmented + 0.1 * mined) / 1.1)[None], io["total_loss_w0.1"], **CLOSE)
    _moving_average(encoder, target, settings["momentum"], io, compare)


def _moving_average(
    encoder: nn.Module, target: nn.Module, momentum: float, io: dict[str, Tensor], compare: Compare
) -> None:
    teacher = EMATeacher(target)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 0.1
    teacher.update(encoder, momentum)
    weight = teacher.model.get_parameter("0.weight")
    compare("ema.target_encoder.first_weight", weight, io["ema.target_encoder.first_weight"], **CLOSE)
