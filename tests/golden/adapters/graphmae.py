"""Golden cases of GraphMAE: the published layers, masks, loss, gradients and one optimiser step; see `check`."""

from __future__ import annotations

import importlib.util
import json
import pathlib
from collections.abc import Callable

import torch
from safetensors.torch import load_file

from domains.graphs.adjacency import Adjacency
from domains.graphs.encoder import to_dense
from domains.graphs.graphmae.conversion import config_from_weights, fill
from domains.graphs.graphmae.optimization import Adam
from domains.graphs.graphmae.pretraining import GraphMAEForPreTraining
from domains.graphs.graphmae.weights import from_published, our_name
from hub.modeling import POOLINGS

Compare = Callable[..., None]
TOLERANCE = 1e-5
GRADIENT = {"atol": 1e-6, "rtol": 1e-4}


def check(folder: pathlib.Path, compare: Compare) -> None:
    """Recompute every recorded tensor of a case; molecule cases go to their own adapter."""
    if folder.name.startswith("chem"):
        path = pathlib.Path(__file__).parent / "graphmae_chem.py"
        spec = importlib.util.spec_from_file_location("golden_adapter_graphmae_chem", path)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.check(folder, compare)
        return
    settings = json.loads((folder / "config.json").read_text())
    weights, io = load_file(folder / "weights.safetensors"), load_file(folder / "io.safetensors")
    config = config_from_weights(
        weights,
        folder.name,
        gamma=settings["alpha_l"],
        feature_dropout=settings["in_drop"],
        attention_dropout=settings["attn_drop"],
        negative_slope=settings["negative_slope"],
    )
    for ours, theirs in (("encoder", "encoder"), ("decoder", "decoder"), ("activation", "activation")):
        assert getattr(config, ours) == settings[theirs], ours
    assert config.norm_name == settings["norm"] and config.residual == settings["residual"]
    task = fill(config, weights, folder.name)
    _embeddings(task, io, compare, "before")
    for i, state in enumerate(_states(task.eval(), io)):
        compare(f"eval.hidden_{i}", state, io[f"eval.hidden_{i}"], atol=TOLERANCE)
    _mask(settings, io, compare)
    _step(task, settings, io, compare)
    _embeddings(task, io, compare, "after_step")
    with torch.no_grad():
        # Dropout is 0; batch normalisation is by the batch's statistics, as when it was recorded.
        loss = _forward(task.train(), io)[None]
        compare("loss_after_step_same_mask", loss, io["loss_after_step_same_mask"], atol=TOLERANCE)


def _states(task: GraphMAEForPreTraining, io: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    with torch.no_grad():
        return task.graphmae.encode(io["x"], Adjacency(io["edge_index"].t(), len(io["x"])))


def _embeddings(task: GraphMAEForPreTraining, io: dict[str, torch.Tensor], compare: Compare, when: str) -> None:
    output = task.graphmae.eval()(io["x"], io["edge_index"].t(), io["batch"])
    compare(f"eval.embedding_{when}", output.last_hidden_state[output.mask], io[f"eval.embedding_{when}"], atol=1e-5)
    if when == "before" and "eval.pool_mean" in io:
        for pooling in ("mean", "sum", "max"):
            pooled = POOLINGS[pooling](*to_dense(io["eval.embedding_before"], io["batch"]))
            compare(f"eval.pool_{pooling}", pooled, io[f"eval.pool_{pooling}"], atol=TOLERANCE)
            ours = POOLINGS[pooling](output.last_hidden_state, output.mask)
            compare(f"eval.pool_{pooling} (model)", ours, io[f"eval.pool_{pooling}"], atol=5 * TOLERANCE)


def _mask(settings: dict, io: dict[str, torch.Tensor], compare: Compare) -> None:
    """The recorded permutations give the recorded parts."""
    count = int(settings["mask_rate"] * len(io["x"]))
    compare("mask.mask_nodes", io["mask.perm"][:count], io["mask.mask_nodes"], atol=0)
    if settings["replace_rate"]:
        tokens, noises = int((1 - settings["replace_rate"]) * count), int(settings["replace_rate"] * count)
        order = io["mask.mask_nodes"][io["mask.perm_mask"]]
        compare("mask.token_nodes", order[:tokens], io["mask.token_nodes"], atol=0)
        compare("mask.noise_nodes", order[count - noises :], io["mask.noise_nodes"], atol=0)
        compare("mask.noise_source_nodes", io["mask.perm_source"][:noises], io["mask.noise_source_nodes"], atol=0)


def _corruption(io: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    nodes = len(io["x"])
    masked, token = torch.zeros(2, nodes, dtype=torch.bool)
    masked[io["mask.mask_nodes"]] = True
    token[io.get("mask.token_nodes", io["mask.mask_nodes"])] = True
    source = torch.arange(nodes)
    if "mask.noise_nodes" in io:
        source[io["mask.noise_nodes"]] = io["mask.noise_source_nodes"]
    return {"masked": masked, "token": token, "source": source}


def _forward(task: GraphMAEForPreTraining, io: dict[str, torch.Tensor]) -> torch.Tensor:
    dropped = io.get("mask.dropped_edge_index")
    return task(
        io["x"],
        io["edge_index"].t(),
        io["batch"],
        **_corruption(io),
        encoder_edges=None if dropped is None else dropped.t(),
    ).loss


def _step(task: GraphMAEForPreTraining, settings: dict, io: dict[str, torch.Tensor], compare: Compare) -> None:
    """Forward pass in its parts, gradients, and one step of the optimiser."""
    task.train()
    before = {name: buffer.clone() for name, buffer in task.named_buffers()}
    corruption = _corruption(io)
    with torch.no_grad():
        seen = task.corrupt(io["x"], corruption["token"], corruption["source"])
        compare("masked_x", seen, io["masked_x"], atol=TOLERANCE)
        adjacency = Adjacency(io["edge_index"].t(), len(seen))
        dropped = io.get("mask.dropped_edge_index")
        states = task.graphmae.encode(
            io["masked_x"], adjacency if dropped is None else Adjacency(dropped.t(), len(seen))
        )
        compare("train.encoder_out", states[-1], io["train.encoder_out"], atol=TOLERANCE)
        compare("train.enc_to_dec", task.bridge(states[-1]), io["train.enc_to_dec_before_remask"], atol=TOLERANCE)
        recon = task.rebuild(states, adjacency, corruption["masked"])
        compare("train.recon", recon, io["train.recon"], atol=TOLERANCE)
    for name, buffer in task.named_buffers():
        buffer.copy_(before[name])
    optimizer = Adam(task.parameter_groups(settings["weight_decay"]), lr=settings["lr"])
    loss = _forward(task, io)
    compare("loss", loss[None], io["loss"], atol=TOLERANCE)
    loss.backward()
    expected = {our_name(k.removeprefix("grad.")): k for k in io if k.startswith("grad.")}
    parameters = dict(task.named_parameters())
    assert expected.keys() == parameters.keys()
    gradients = from_published({k.removeprefix("grad."): v for k, v in io.items() if k.startswith("grad.")})
    for name, parameter in parameters.items():
        compare(f"grad.{name}", parameter.grad, gradients[name], **GRADIENT)
    optimizer.step()
    after = from_published({k.removeprefix("after_step."): v for k, v in io.items() if k.startswith("after_step.")})
    # Adam's first step has the size of the rate whatever the gradient's: where that is zero but for rounding, as of a
    # bias in front of a batch normalisation, only the size of the step can be compared.
    for name, value in task.state_dict().items():
        if name in gradients:
            noise = (gradients[name].abs() < 1e-7) & ((value - after[name]).abs() <= 2.1 * settings["lr"])
            value = torch.where(noise, after[name], value)
        compare(f"after_step.{name}", value, after[name], atol=TOLERANCE)
    task.load_state_dict(after)
