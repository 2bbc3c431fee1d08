"""Golden cases of D-SLA: encoder, losses, gradients and one update, on molecules and on social graphs; see `check`."""

from __future__ import annotations

import importlib.util
import json
import pathlib
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch_geometric.utils import scatter

from domains.graphs.dsla.configuration import DslaConfig
from domains.graphs.dsla.pretraining import DslaForPreTraining

Compare = Callable[..., None]
VALUES = 1e-5


def _sibling(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, pathlib.Path(__file__).parent / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


chem = _sibling("graphmae_chem")


def our_name(published: str) -> str:
    """Return our name for a published weight; the social variant's only node table has no number."""
    return published.replace("score_func.", "score.", 1).replace("x_embedding.", "x_embedding1.", 1)


def check(folder: pathlib.Path, compare: Compare) -> None:
    """Compare everything that the case recorded."""
    settings = json.loads((folder / "config.json").read_text())
    io = load_file(folder / "io.safetensors")
    weights = {our_name(n): t for n, t in load_file(folder / "weights.safetensors").items()}
    social = "num_node_type" in settings
    sizes = {
        "gnn": settings["gnn_type"],
        "hidden_size": settings["emb_dim"],
        "num_hidden_layers": settings["num_layer"],
        "edit_weight": settings["edit_coeff"],
    }
    if social:
        sizes |= {"node_types": settings["num_node_type"] + 1, "node_tags": 0, "edge_types": 0, "edge_tags": 0}
        sizes |= {"strong": False, "perturbed": settings["num_candidates"] - 1, "margin_weight": 0.0}
    else:
        sizes |= {"margin_weight": settings["margin_coeff"], "margin": settings["margin"]}
    model = DslaForPreTraining(DslaConfig(**sizes))
    model.load_state_dict(weights)
    if not social:
        featurised = chem.featurised(settings["smiles"])
        for name in ("x", "batch", "edge_attr"):
            compare(f"orig.{name}", featurised[name], io[f"orig.{name}"], atol=0.0)
        compare("orig.edge_index", featurised["edges"].t(), io["orig.edge_index"], atol=0.0)
    _evaluation(model.eval(), io, compare, social)
    _training(model, weights, io, compare, settings, social)


def _graph(io: dict[str, Tensor], prefix: str) -> list[Tensor | None]:
    return [io[f"{prefix}.x"], io[f"{prefix}.edge_index"].t(), io.get(f"{prefix}.edge_attr")]


def _evaluation(model: DslaForPreTraining, io: dict[str, Tensor], compare: Compare, social: bool) -> None:
    with torch.no_grad():
        x, edges, attributes = _graph(io, "orig")
        nodes = model.gnn.nodes(x, edges, attributes)
        compare("orig.eval.node_embedding", nodes, io["orig.eval.node_embedding"], atol=VALUES)
        batch = {"x": x, "edges": edges, "batch": io["orig.batch"], "edge_attr": attributes}
        if social:
            for name in ("pos", "other"):
                ends = io["link.pos_edge_index" if name == "pos" else "link.other_pairs"]
                scores = (nodes[ends[0]] * nodes[ends[1]]).sum(-1)
                compare(f"link.{name}_score", scores, io[f"link.{name}_score"], atol=VALUES, rtol=VALUES)
            return
        for pooling in ("mean", "sum", "max"):
            vectors = torch.stack(model.gnn.embed(batch, pooling=pooling))
            compare(f"orig.eval.graph_{pooling}", vectors, io[f"orig.eval.graph_{pooling}"], atol=VALUES, rtol=VALUES)
        x, edges, attributes = _graph(io, "cand")
        graphs = model.candidates(x, edges, io["cand.batch"], io["cand.dist"].shape, attributes)
        compare("cand.eval.graph_rep", graphs, io["cand.eval.graph_rep"], atol=VALUES)
        compare("cand.eval.scores", model.score(graphs).squeeze(-1), io["cand.eval.scores"], atol=VALUES)


def _training(
    model: DslaForPreTraining,
    weights: dict[str, Tensor],
    io: dict[str, Tensor],
    compare: Compare,
    settings: dict[str, Any],
    social: bool,
) -> None:
    model.train()
    x, edges, attributes = _graph(io, "cand")
    distances = io["cand.edit_dist" if social else "cand.dist"]
    graphs = model.candidates(x, edges, io["cand.batch"], distances.shape, attributes)
    compare("cand.train.graph_rep", graphs, io["cand.train.graph_rep"], atol=VALUES)
    model.load_state_dict(weights)  # the statistics have moved
    output = model(x, edges, io["cand.batch"], distances, attributes)
    compare("cand.train.scores", output.predictions, io["cand.train.scores"], atol=VALUES)
    terms = {
        "graph_discrimination": output.metrics["graph_discrimination"],
        "edit_unweighted": output.metrics["edit_distance"],
        "edit_weighted": settings["edit_coeff"] * output.metrics["edit_distance"],
        "total": output.loss,
    }
    if not social:
        terms["margin_unweighted"] = output.metrics["margin"]
        terms["margin_weighted"] = settings["margin_coeff"] * output.metrics["margin"]
        right = output.metrics["accuracy"] * len(distances)
        compare("gd_correct", right.reshape(1), io["gd_correct"], atol=0.0)
    for name, value in terms.items():
        if f"loss.{name}" in io:
            compare(f"loss.{name}", value.reshape(1), io[f"loss.{name}"], atol=1e-7, rtol=VALUES)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings["lr"], weight_decay=0.0)
    output.loss.backward()
    chem.check_update(model, optimizer, io, compare, our_name, settings["lr"])
    if not social:
        with torch.no_grad():
            nodes = model.eval().gnn.nodes(*_graph(io, "orig"))
        after = scatter(nodes, io["orig.batch"], reduce="mean")
        compare("orig.eval.graph_mean_after_step", after, io["orig.eval.graph_mean_after_step"], atol=VALUES)
