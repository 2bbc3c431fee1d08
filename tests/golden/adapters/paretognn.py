"""The golden case of ParetoGNN: losses, their gradients on the shared encoder, and the weights; see `check`."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable

import torch
from safetensors.torch import load_file

from domains.graphs.adjacency import Adjacency
from domains.graphs.paretognn.configuration import ParetoGNNConfig
from domains.graphs.paretognn.pretraining import ParetoGNNForPreTraining
from hub.ssl.multitask import min_norm_weights, multiple_gradient_weights

Compare = Callable[..., None]
NORMS = {"batch": "batchnorm", "layer": "layernorm"}
# Parts of the published module that no task of this case uses: heads of tasks that are in no released recipe.
UNUSED = ("decor.", "graph_matcher.", "metis_cls.", "par_cls.")
HEADS = {
    "recon_mask": "heads.mask_token",
    "recon_enc_dec.weight": "heads.bridge.weight",
    "discriminator.weight": "heads.discriminator",
    "link_predictor_hid.weight": "heads.link_hidden.weight",
    "link_predictor_hid.bias": "heads.link_hidden.bias",
    "link_predictor_class.weight": "heads.link_score.weight",
    "link_predictor_class.bias": "heads.link_score.bias",
    "decoder.bias": "heads.decoder.bias",
    "decoder.weight": "heads.decoder.linear.weight",
}


def our_weights(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a state dict of ours; weights of convolutions are published as (inputs, outputs)."""
    ours = {}
    for name, tensor in weights.items():
        if name.startswith(UNUSED):
            continue
        if name.startswith("big_model.node_module."):
            part, layer, rest = name.removeprefix("big_model.node_module.").split(".", 2)
            inner = {"norms": f"norm.{rest}", "activations": f"activation.{rest}"}.get(
                part, "linear.weight" if rest == "weight" else rest
            )
            ours[f"paretognn.layers.{layer}.{inner}"] = tensor.t() if inner == "linear.weight" else tensor
        elif name.startswith("minsg."):
            ours["heads.projection." + name.removeprefix("minsg.")] = tensor
        else:
            ours[HEADS[name]] = tensor.t() if name == "decoder.weight" else tensor
    return ours


def check(folder: pathlib.Path, compare: Compare) -> None:
    """Recompute every recorded tensor."""
    settings = json.loads((folder / "config.json").read_text())
    weights, io = load_file(folder / "weights.safetensors"), load_file(folder / "io.safetensors")
    config = ParetoGNNConfig(
        input_dim=settings["in_dim"],
        hidden_sizes=settings["hid_dim"],
        norm=NORMS[settings["norm"]],
        dropout=settings["dropout"],
        head_size=settings["predictor_dim"],
        pretext_tasks=[*settings["tasks"], "p_link"],
        temperature=settings["temperature_minsg"],
        decorrelation_weight=settings["decor_lamb"],
    )
    task = ParetoGNNForPreTraining(config)
    task.load_state_dict(our_weights(weights))
    x, edges = io["x"], io["edge_index"].t()
    with torch.no_grad():
        states = task.paretognn.eval().encode(x, Adjacency(edges, len(x)))[-1]
        compare("eval.embedding", states, io["eval.embedding"], atol=1e-5)
    task.config.pretext_tasks = settings["tasks"]
    losses = _losses(task.train(), io, x, edges)
    # The published encoder registers convolutions, then normalisations, then activations.
    layers = task.paretognn.layers
    shared = [p for layer in layers for p in (layer.linear.weight, layer.bias)]
    shared += [p for layer in layers for p in layer.norm.parameters()]
    shared += [p for layer in layers for p in layer.activation.parameters()]
    for name, loss in losses.items():
        compare(f"loss.{name}", loss[None], io[f"loss.{name}"], atol=1e-5)
        gradients = torch.autograd.grad(loss, shared, retain_graph=True)
        published = [g.t() if p.ndim == 2 else g for g, p in zip(gradients, shared, strict=True)]
        flat = torch.cat([g.flatten() for g in published])
        compare(f"gradflat.{name}", flat, io[f"gradflat.{name}"], atol=1e-5, rtol=1e-4)
        compare(f"gradnorm.{name}", flat.norm()[None], io[f"gradnorm.{name}"], atol=1e-5, rtol=1e-4)
    found = multiple_gradient_weights(losses, shared)
    # The recorded solver iterates; ours is exact.
    compare("mgda.weights", [found[name] for name in settings["tasks"]], io["mgda.weights"], atol=1e-3)
    for case in range(3):
        solved = min_norm_weights(io[f"solver{case}.vectors"])
        compare(f"solver{case}.weights", solved, io[f"solver{case}.weights"], atol=1e-3)


def _losses(
    task: ParetoGNNForPreTraining, io: dict[str, torch.Tensor], x: torch.Tensor, edges: torch.Tensor
) -> dict[str, torch.Tensor]:
    masked = torch.zeros(len(x), dtype=torch.bool)
    masked[io["recon.mask_nodes"]] = True
    losses = {"p_recon": task.reconstruction(x, edges, masked)}
    # Recorded views differ in their features, and not by a mask of columns: each is given as features of its own.
    views = {"shuffle": io["corrupt.perm"], "anchors": torch.arange(len(x))}
    task.config.pretext_tasks = ["p_ming"]
    batch = torch.zeros(len(x), dtype=torch.int64)
    losses |= task.losses(x, edges, batch, views)
    first, second = (
        task.paretognn.encode(io[f"v{i}.x"], Adjacency(io[f"v{i}.edge_index"].t(), len(x)))[-1] for i in (1, 2)
    )
    for name in ("p_decor", "p_minsg"):
        losses[name] = task.compare_views(name, first, second)
    return losses
