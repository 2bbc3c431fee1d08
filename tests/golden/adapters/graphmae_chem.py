"""Golden case of GraphMAE on molecules: featuriser, encoder, decoder, loss, gradients and one update; see `check`."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch_geometric.utils import scatter

from domains.graphs.graphmae_mol.configuration import GraphMAEMolConfig
from domains.graphs.graphmae_mol.pretraining import GraphMAEMolForPreTraining
from domains.graphs.molecules.processing import MoleculeProcessor, join
from domains.graphs.molecules.reading import parse_smiles
from hub.ssl.masking import IGNORED

Compare = Callable[..., None]
VALUES = 1e-5
GRADIENTS = 1e-4  # relative
UNUSED = "dec_token"


class Limits:
    max_nodes = 1_000


def featurised(smiles: list[str]) -> dict[str, Tensor]:
    """Return SMILES as one batch, by reader and processor."""
    processor = MoleculeProcessor()
    return join([processor.prepare(parse_smiles(text, Limits())) for text in smiles])


def our_name(published: str) -> str:
    """Return our name for a weight of the published modules."""
    return published.replace("encoder.", "gnn.", 1).replace("atom_decoder.", "decoder.", 1)


def check(folder: pathlib.Path, compare: Compare) -> None:
    """Compare everything that the case recorded."""
    settings = json.loads((folder / "config.json").read_text())
    io = load_file(folder / "io.safetensors")
    weights = {n: t for n, t in load_file(folder / "weights.safetensors").items() if UNUSED not in n}
    config = GraphMAEMolConfig(
        gnn=settings["gnn_type"],
        hidden_size=settings["emb_dim"],
        num_hidden_layers=settings["num_layer"],
        gamma=settings["alpha_l"],
    )
    model = GraphMAEMolForPreTraining(config)
    model.load_state_dict({our_name(name): tensor for name, tensor in weights.items()})

    batch = featurised(settings["smiles"])
    for name, recorded in (("x", "x"), ("batch", "batch"), ("edge_attr", "edge_attr")):
        compare(f"orig.{recorded}", batch[name], io[f"orig.{recorded}"], atol=0.0)
    compare("orig.edge_index", batch["edges"].t(), io["orig.edge_index"], atol=0.0)

    model.eval()
    graph = [batch["x"], batch["edges"], batch["edge_attr"]]
    with torch.no_grad():
        nodes = model.gnn.nodes(*graph)
    compare("eval.node_embedding", nodes, io["eval.node_embedding"], atol=VALUES)
    compare("eval.graph_mean", scatter(nodes, batch["batch"], reduce="mean"), io["eval.graph_mean"], atol=VALUES)
    vectors = torch.stack(model.gnn.embed(batch))
    compare("eval.graph_mean (dense)", vectors, io["eval.graph_mean"], atol=VALUES)

    model.train()
    labels = torch.full((len(batch["x"]),), IGNORED)
    labels[io["masked.atom_indices"]] = io["masked.label_index"][:, 0]
    states = model.gnn.nodes(io["masked.x"], *graph[1:])
    compare("train.encoder_out", states, io["train.encoder_out"], atol=VALUES)
    model.load_state_dict({our_name(name): tensor for name, tensor in weights.items()})  # the statistics have moved
    output = model(io["masked.x"], graph[1], labels, graph[2])
    compare("train.pred", output.predictions, io["train.pred"], atol=VALUES)
    compare("loss", output.loss.reshape(1), io["loss"], atol=VALUES)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings["lr"], weight_decay=0.0)
    output.loss.backward()
    check_update(model, optimizer, io, compare, our_name, settings["lr"])
    with torch.no_grad():
        nodes = model.eval().gnn.nodes(*graph)
    after = scatter(nodes, batch["batch"], reduce="mean")
    compare("eval.graph_mean_after_step", after, io["eval.graph_mean_after_step"], atol=VALUES)


def check_update(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    io: dict[str, Tensor],
    compare: Compare,
    name_of: Callable[[str], str],
    rate: float,
) -> None:
    """Compare gradients, take a step, and compare the state after it.

    Adam's first step is the gradient's sign, so where a gradient is numerically zero (a bias before batch
    normalisation) the step may go either way: there twice the rate is the tolerance.
    """
    gradients = {n: p.grad for n, p in model.named_parameters()}
    for key in (k for k in io if k.startswith("grad.") and UNUSED not in k):
        found = gradients[name_of(key.removeprefix("grad."))]
        assert found is not None, key
        largest = float(io[key].abs().max())
        compare(key, found, io[key], atol=max(GRADIENTS * largest, 5e-6))
    optimizer.step()
    state = model.state_dict()
    for key in (k for k in io if k.startswith("after_step.") and UNUSED not in k):
        name = name_of(key.removeprefix("after_step."))
        gradient = gradients.get(name)
        doubtful = gradient is not None and bool((gradient.abs() < 1e-6).any())
        compare(key, state[name], io[key], atol=2.1 * rate if doubtful else VALUES)
    # Go on from the recorded state, so that what the two may differ in does not add up.
    recorded = {key.removeprefix("after_step."): value for key, value in io.items() if key.startswith("after_step.")}
    model.load_state_dict({name_of(name): value for name, value in recorded.items() if UNUSED not in name})
