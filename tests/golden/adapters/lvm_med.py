"""Golden cases of LVM-Med: message passing, local terms, affinities, matchings and gradients of both variants."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from domains.medical.lvm_med.configuration import LVMMedConfig
from domains.medical.lvm_med.graphs import edges_of, neighbours
from domains.medical.lvm_med.local import best_matches, local_affinity
from domains.medical.lvm_med.matching import GraphMatching, Scores, View, along, cosine, match, released_affinity
from domains.medical.lvm_med.pretraining import projector
from hub.ssl import matching_value, solve_matching

Compare = Callable[..., None]
AFFINITY, GRADIENT, OBJECTIVE = {"atol": 1e-5}, {"atol": 1e-6}, {"atol": 1e-4}
RESTARTS = 60
"""Of the solver: enough that the 8 nodes of a case are matched exactly."""
GAPS = {"plain": 0.005, "gumbel": 0.06}
"""How far below the best known objective of 16 nodes the solver may stay, without any restart."""


def check(folder: pathlib.Path, compare: Compare) -> None:
    """Recompute every recorded tensor of a case."""
    settings = json.loads((folder / "config.json").read_text())
    io = load_file(folder / "io.safetensors")
    weights = load_file(folder / "weights.safetensors")
    shared = {
        "projection_size": settings["hidden"],
        "message_passing": "graphconv",
        "graph_nodes": settings["nodes_per_graph"],
        "graph_neighbours": settings["num_neighbors"],
        "local_matches": [settings["gamma"]] * 2,
        "alpha": settings["alpha"],
        "strength": settings["lambda"],
        "noise_scale": 0.0,
        "backward": "solve",
        "solver_restarts": RESTARTS,
    }
    released = GraphMatching(LVMMedConfig(**shared, variant="released", local=False))
    paper = GraphMatching(LVMMedConfig(**shared))
    for matching in (released, paper):
        prefix = "message_pass_node_features."
        names = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
        matching.message_passing.load_state_dict(names)
    hidden, outputs = weights["projector.0.weight"].shape[0], weights["projector.3.weight"].shape[0]
    head = projector(settings["feature_dim"], [hidden], outputs)
    head.load_state_dict({k.removeprefix("projector."): v for k, v in weights.items() if k.startswith("projector.")})
    views = []
    for side in "st":
        nodes = head.eval()(io[f"y_{side}"].mean(1)).detach()
        compare(f"z_{side}", nodes, io[f"z_{side}"], **AFFINITY)
        views.append(View(io[f"z_{side}"], io[f"y_{side}"], io[f"loc_{side}"].flatten(1, 2)))
    losses = []
    for graph in range(settings["graphs"]):
        size = settings["nodes_per_graph"]
        recorded = {k.removeprefix(f"g{graph}."): v for k, v in io.items() if k.startswith(f"g{graph}.")}
        rows = slice(graph * size, (graph + 1) * size)
        pair = [view.graphs(rows, 1) for view in views]
        _graph(paper, pair, recorded, compare, f"g{graph}.")
        losses.append(_released(released, pair, recorded, compare, f"g{graph}.A."))
        _paper(paper, pair, recorded, compare, f"g{graph}.B.")
    compare("A.loss", torch.stack(losses).mean()[None], io["A.loss"], **OBJECTIVE)
    for name, gap in GAPS.items():
        problem = [io[f"large.{name}.{part}"] for part in ("c_v", "c_e", "edges_s", "edges_t")]
        best = float(io[f"large.{name}.best_known_objective"])
        for key in ("best_known_assignment", "identity_objective"):
            given = io[f"large.{name}.{key}"] if key == "best_known_assignment" else torch.arange(len(problem[0]))
            expected = best if key == "best_known_assignment" else float(io[f"large.{name}.{key}"])
            compare(f"large.{name}.{key}", matching_value(given, *problem), expected, **OBJECTIVE)
        short = max(0.0, best - matching_value(solve_matching(*problem), *problem))
        compare(f"large.{name}: short of the best known, as a share", short / best, 0.0, atol=gap)


def _graph(matching: GraphMatching, views: list[View], io: dict[str, Tensor], compare: Compare, name: str) -> None:
    """Check what both variants share."""
    for view, side in zip(views, "st", strict=True):
        nearest = neighbours(view.nodes, matching.config.graph_neighbours)
        compare(f"{name}edges_{side}", edges_of(nearest)[0], io[f"edges_{side}"], atol=0)
        hat = matching.message_passing(view.nodes, nearest)
        compare(f"{name}zhat_{side}", hat[0], io[f"zhat_{side}"], **AFFINITY)
        compare(f"{name}edge_attr_{side}", along(hat, edges_of(nearest))[0], io[f"edge_attr_{side}"], **AFFINITY)
    (_, cells_s, places_s), (_, cells_t, places_t) = ([part[0] for part in view] for view in views)
    for kind, s, t in (("l2", cells_s, cells_t), ("location", places_s, places_t)):
        found = best_matches(s, t, matching.config.local_matches[0])
        for cells, chosen, side in ((cells_s, found.own, "s"), (cells_t, found.partner, "t")):
            own = torch.stack([cells[i, chosen[i, i]] for i in range(len(cells))])
            compare(f"{name}local.{kind}.sel_{side}", own, io[f"local.{kind}.sel_{side}"], atol=0)
        recorded = "feature" if kind == "l2" else kind
        compare(
            f"{name}B.c_loc_{recorded}_s2t",
            local_affinity(cells_s, cells_t, found),
            io[f"B.c_loc_{recorded}_s2t"],
            **AFFINITY,
        )
        back = local_affinity(cells_t, cells_s, best_matches(t, s, matching.config.local_matches[0]))
        compare(f"{name}B.c_loc_{recorded}_t2s", back, io[f"B.c_loc_{recorded}_t2s"], **AFFINITY)


def _released(matching: GraphMatching, views: list[View], io: dict[str, Tensor], compare: Compare, name: str) -> Tensor:
    leaves, scores = _scores(matching, views)
    nodes = [matching.message_passing(v.nodes, neighbours(v.nodes, 3)) for v in views]
    compare(f"{name}unary_affinity", released_affinity(*nodes)[0], io["A.unary_affinity"], **AFFINITY)
    compare(f"{name}unary_cost", -scores.vertices[0], io["A.unary_cost"], **AFFINITY)
    compare(f"{name}quadratic_cost", -scores.edges[0], io["A.quadratic_cost"], **AFFINITY)
    matched, gradients = _match(matching, scores, leaves)
    compare(f"{name}matching", torch.eye(8)[matched.assignment[0]], io["A.matching"], atol=0)
    compare(f"{name}loss", matched.loss[None], io["A.loss"], **OBJECTIVE)
    # The record is of costs, which are scores with the other sign.
    compare(f"{name}grad_unary_cost", -gradients["v"][0], io["A.grad_unary_cost"], **GRADIENT)
    compare(f"{name}grad_quadratic_cost", -gradients["e"][0], io["A.grad_quadratic_cost"], **GRADIENT)
    for side in "st":
        compare(f"{name}grad_z_{side}", gradients[side][0], io[f"A.grad_z_{side}"], **GRADIENT)
    return matched.loss.detach()


def _paper(matching: GraphMatching, views: list[View], io: dict[str, Tensor], compare: Compare, name: str) -> None:
    nodes = [matching.message_passing(v.nodes, neighbours(v.nodes, 3)) for v in views]
    compare(f"{name}c_glo", cosine(*nodes)[0], io["B.c_glo"], **AFFINITY)
    for case, noise in (("noiseless", 0.0), ("perturbed", 1.0), ("half_perturbed", 0.1)):
        leaves, scores = _scores(matching, views)
        if not noise:
            compare(f"{name}c_v", scores.vertices[0], io["B.c_v"], **AFFINITY)
            compare(f"{name}c_e", scores.edges[0], io["B.c_e"], **AFFINITY)
        noisy = Scores(scores.vertices + noise * io["B.gumbel_v"], scores.edges + noise * io["B.gumbel_e"], *scores[2:])
        matched, gradients = _match(matching, noisy, leaves)
        of = f"B.{case}."
        compare(f"{name}{case}.assignment", matched.assignment[0], io[f"{of}assignment"], atol=0)
        # The closed form takes this for granted: the target is the true matching.
        truth = torch.arange(len(matched.assignment[0]))
        compare(f"{name}{case}.target_assignment", truth, io[f"{of}target_assignment"], atol=0)
        problem = [part[0].detach() for part in noisy]
        value = matching_value(matched.assignment[0], *problem)
        compare(f"{name}{case}.objective", value, io[f"{of}objective"].item(), **OBJECTIVE)
        compare(f"{name}{case}.hamming", matched.loss[None], io[f"{of}hamming"], **OBJECTIVE)
        compare(f"{name}{case}.grad_c_v", gradients["v"][0], io[f"{of}grad_c_v"], **GRADIENT)
        compare(f"{name}{case}.grad_c_e", gradients["e"][0], io[f"{of}grad_c_e"], **GRADIENT)
        for side in "st":
            compare(f"{name}{case}.grad_z_{side}", gradients[side][0], io[f"{of}grad_z_{side}"], **GRADIENT)


def _scores(matching: GraphMatching, views: list[View]) -> tuple[dict[str, Tensor], Scores]:
    leaves = {side: v.nodes.clone().requires_grad_() for v, side in zip(views, "st", strict=True)}
    scores = matching.scores(*(v._replace(nodes=leaf) for v, leaf in zip(views, leaves.values(), strict=True)))
    scores.vertices.retain_grad(), scores.edges.retain_grad()
    return leaves, scores


def _match(matching: GraphMatching, scores: Scores, leaves: dict[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
    matched = match(scores, matching.config, torch.Generator().manual_seed(0))
    wanted = {"v": scores.vertices, "e": scores.edges, **leaves}
    found = torch.autograd.grad(matched.loss, list(wanted.values()))
    return matched, dict(zip(wanted, found, strict=True))
