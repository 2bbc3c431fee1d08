"""Golden case of TimeDRL: its Transformer is ours with a class token, post-norm and fixed positions; see `check`."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable

import torch
from safetensors.torch import load_file
from torch import Tensor

from domains.eeg.eegformer.configuration import EEGFormerConfig
from domains.eeg.eegformer.pretraining import EEGFormerForPreTraining
from domains.eeg.eegformer.spectrum import instance_norm, patches
from hub.ssl.reconstruction import masked_mse

Compare = Callable[..., None]
CLOSE = {"atol": 1e-4}


def check(folder: pathlib.Path, compare: Compare) -> None:
    """Recompute every recorded tensor; each channel with the class patch that the published code learns for it."""
    settings = json.loads((folder / "config.json").read_text())
    weights, io = load_file(folder / "weights.safetensors"), load_file(folder / "io.safetensors")
    signal = io["x"].transpose(1, 2)  # (batch, channels, samples)
    normalised, _, _ = instance_norm(signal, 1e-5)
    compare("normalized", normalised.transpose(1, 2), io["normalized"], **CLOSE)
    cut = {name: patches(x[..., None], settings["patch_len"], settings["stride"]) for name, x in
           (("patches", normalised), ("raw_patches", signal))}  # fmt: skip
    for name, tokens in cut.items():
        compare(name, tokens.flatten(0, 1), io[name], **CLOSE)
    task = _task(settings, weights).eval()
    model, objective = task.eegformer, task.objective
    with torch.inference_mode():
        rows = []
        for channel in range(settings["C"]):
            model.class_patch.copy_(weights["cls_token"][:, channel : channel + 1])
            *_, states = model.encode(cut["patches"][:, channel])
            rows.append(states)
        states = torch.stack(rows, dim=1).flatten(0, 1)
        compare("timestamp_embedding", model.tokens_of(states), io["timestamp_embedding"], **CLOSE)
        compare("instance_embedding", states[:, 0], io["instance_embedding"], **CLOSE)
        prediction = objective.readout(model.tokens_of(states))
        compare("prediction", prediction, io["prediction"], **CLOSE)
        compare("instance_predicted", objective.predictor(states[:, 0]), io["instance_predicted"], **CLOSE)
        compare(
            "contrastive_loss", objective.contrast(states[:, 0], states[:, 0])[None], io["contrastive_loss"], **CLOSE
        )
        for name, target in (("vs_normalized", "patches"), ("official_vs_raw", "raw_patches")):
            loss = masked_mse(prediction, io[target], torch.ones(prediction.shape[:2]))
            compare(f"predictive_loss_{name}", loss[None], io[f"predictive_loss_{name}"], **CLOSE)


def _task(settings: dict, weights: dict[str, Tensor]) -> EEGFormerForPreTraining:
    task = EEGFormerForPreTraining(
        EEGFormerConfig(
            objective="timedrl",
            class_token=True,
            final_norm=True,
            patch_size=settings["patch_len"],
            max_tokens=settings["T_p"],
            hidden_size=settings["d_model"],
            num_hidden_layers=settings["n_layers"],
            num_attention_heads=settings["n_heads"],
            intermediate_size=4 * settings["d_model"],
            hidden_act=settings["activation"],
            hidden_dropout_prob=settings["dropout"],
        )
    )
    model = task.eegformer
    with torch.no_grad():
        model.patch_embed.weight.copy_(weights["input_layer.token_embedding.weight"])
        model.patch_embed.bias.zero_()
        model.pos_embed.copy_(_sinusoids(settings["T_p"] + 1, settings["d_model"]))
        for number, layer in enumerate(model.encoder.layers):
            own = {
                k.removeprefix(f"encoder.attn_layers.{number}."): v
                for k, v in weights.items()
                if k.startswith(f"encoder.attn_layers.{number}.")
            }
            for part in ("weight", "bias"):
                stacked = torch.cat([own[f"attention.{n}_projection.{part}"] for n in ("query", "key", "value")])
                getattr(layer.self_attn.in_proj, part).copy_(stacked)
                getattr(layer.self_attn.out_proj, part).copy_(own[f"attention.out_projection.{part}"])
                for ours, theirs in (
                    ("linear1", "conv1"),
                    ("linear2", "conv2"),
                    ("norm1", "norm1"),
                    ("norm2", "norm2"),
                ):
                    tensor = own[f"{theirs}.{part}"]
                    getattr(getattr(layer, ours), part).copy_(tensor[..., 0] if tensor.ndim == 3 else tensor)
        for part in ("weight", "bias"):
            getattr(model.encoder.norm, part).copy_(weights[f"encoder.norm.{part}"])
            getattr(task.objective.readout, part).copy_(weights[f"predictive_linear.1.{part}"])
        prefix, places = "contrastive_predictor.", {"0": "0", "1": "1", "4": "3"}  # theirs has a dropout at 3
        task.objective.predictor.load_state_dict(
            {f"{places[k[len(prefix)]]}{k[len(prefix) + 1 :]}": v for k, v in weights.items() if k.startswith(prefix)}
        )
    return task


def _sinusoids(length: int, width: int) -> Tensor:
    angles = torch.arange(length)[:, None] / 10_000 ** (torch.arange(0, width, 2) / width)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
