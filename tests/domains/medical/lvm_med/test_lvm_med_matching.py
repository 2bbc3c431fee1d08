"""Graphs, local terms, scores and matchings, each against a plain computation of the same."""

from __future__ import annotations

import time

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from domains.medical.lvm_med.configuration import LVMMedConfig
from domains.medical.lvm_med.global_local import region_contrast, regions_of
from domains.medical.lvm_med.graphs import MessagePassing, neighbours
from domains.medical.lvm_med.local import local_terms
from domains.medical.lvm_med.matching import GraphMatching, View, match
from domains.medical.lvm_med.solver import Problem, solve_all
from domains.medical.lvm_med.views import places
from hub import ssl


def views(images: int, seed: int = 0, noise: float = 0.5, size: int = 16, side: int = 3) -> list[View]:
    generator = torch.Generator().manual_seed(seed)
    nodes = torch.randn(images, size, generator=generator)
    cells = torch.randn(images, side * side, 12, generator=generator)
    where = places(0, 0, 1, 1, side).expand(images, -1, -1)
    return [
        View(
            nodes + noise * torch.randn(nodes.shape, generator=generator),
            cells + noise * torch.randn(cells.shape, generator=generator),
            where,
        )
        for _ in range(2)
    ]


def config(**changes: object) -> LVMMedConfig:
    defaults: dict[str, object] = {
        "projection_size": 16,
        "graph_nodes": 8,
        "graph_neighbours": 3,
        "local_matches": [4, 4],
        "noise_scale": 0.0,
    }
    return LVMMedConfig(**{**defaults, **changes})


def test_messages_are_those_of_the_normalised_adjacency(generator: torch.Generator) -> None:
    layers = MessagePassing(6, "gcn")
    nodes = torch.randn(1, 7, 6, generator=generator)
    nearest = neighbours(nodes, 2)
    adjacency = torch.eye(7)
    for centre, others in enumerate(nearest[0].tolist()):
        for other in others:
            adjacency[centre, other] = adjacency[other, centre] = 1
    scale = adjacency.sum(1) ** -0.5
    adjacency = scale[:, None] * adjacency * scale
    hidden = nodes[0]
    for conv in layers.convs:
        hidden = (adjacency @ hidden @ conv.lin.weight.T + conv.bias).relu()
    torch.testing.assert_close(layers(nodes, nearest)[0], hidden)


def test_local_terms_by_hand(generator: torch.Generator) -> None:
    maps = torch.randn(2, 3, 4, 5, generator=generator)
    where = torch.rand(2, 3, 4, 2, generator=generator)

    def one_way(s: int, t: int, i: int, a: int, keys: Tensor) -> float:
        distances = (keys[s, i][:, None] - keys[t, a][None]).norm(dim=-1)
        best = distances.min(1).values.sort().indices[:2]
        pairs = [(maps[s, i, p], maps[t, a, int(distances[p].argmin())]) for p in best]
        return sum(float(torch.cosine_similarity(q, k, dim=0)) for q, k in pairs) / 2

    found = local_terms(maps[0], maps[1], where[0], where[1], 2, 2)
    for i in range(3):
        for a in range(3):
            ways = [one_way(0, 1, i, a, k) + one_way(1, 0, a, i, k) for k in (where, maps)]
            assert float(found[i, a]) == pytest.approx(sum(ways), abs=1e-5)


@pytest.mark.parametrize("changes", [{}, {"message_passing": "graphconv", "variant": "released", "local": False}])
def test_a_batch_of_graphs_is_the_hubs_matching_of_each(changes: dict[str, object]) -> None:
    torch.manual_seed(0)
    matching = GraphMatching(config(**changes, backward="solve"))
    pair = views(16, noise=1.5)
    scores = matching.scores(*(v.graphs(slice(0, 16), 2) for v in pair))
    leaves = [scores.vertices.detach().requires_grad_(), scores.edges.detach().requires_grad_()]
    both = match(scores._replace(vertices=leaves[0], edges=leaves[1]), matching.config, torch.Generator())
    both.loss.backward()
    losses = []
    for graph in range(2):
        single = [leaf.detach()[graph].requires_grad_() for leaf in leaves]
        edges = scores.edges_s[graph], scores.edges_t[graph]
        alone = ssl.graph_matching(*single, *edges, generator=torch.Generator(), noise_scale=0.0)
        alone.loss.backward()
        losses.append(float(alone.loss.detach()))
        assert torch.equal(both.assignment[graph], alone.assignment)
        for leaf, own in zip(leaves, single, strict=True):
            torch.testing.assert_close(leaf.grad[graph], own.grad / 2)
    assert float(both.loss.detach()) == pytest.approx(sum(losses) / 2) and max(losses) > 0
    assert both.wrong.tolist() == pytest.approx([loss / 16 for loss in losses])


def test_without_the_second_order_it_is_linear_assignment() -> None:
    torch.manual_seed(1)
    matching = GraphMatching(config(second_order=False, local=False, alpha=1.0))
    pair = views(8, noise=1.5)
    graphs = [v.graphs(slice(0, 8), 1) for v in pair]
    scores = matching.scores(*graphs)
    assert scores.edges.shape == (1, 0, 0)
    found = match(scores, matching.config, torch.Generator()).assignment[0]
    assert found.tolist() == linear_sum_assignment(scores.vertices[0].detach().numpy(), maximize=True)[1].tolist()


def test_a_batch_that_is_no_multiple_of_the_graphs_loses_no_pair() -> None:
    torch.manual_seed(0)
    matching = GraphMatching(config())
    for images, graphs in ((19, 3), (17, 2), (5, 1), (2, 1)):
        matched = matching(*views(images), torch.Generator())
        assert matched.wrong.shape == (graphs,) and torch.isfinite(matched.loss)
    with pytest.raises(ValueError, match="at least 2 images"):
        matching(*views(1), torch.Generator())


def test_matching_trains_its_message_passing_and_the_nodes() -> None:
    torch.manual_seed(0)
    matching = GraphMatching(config(noise_scale=0.1, local=False, message_passing="graphconv"))
    fixed, free = views(16, noise=0.0)
    nodes = torch.randn(16, 16).requires_grad_()
    optimiser = torch.optim.Adam([nodes, *matching.parameters()], lr=0.03)
    generator, wrong = torch.Generator().manual_seed(0), []
    for _ in range(120):
        matched = matching(fixed, free._replace(nodes=nodes), generator)
        optimiser.zero_grad()
        matched.loss.backward()
        optimiser.step()
        wrong.append(float(matched.wrong.mean()))
    assert sum(wrong[:10]) / 10 > 0.5 and sum(wrong[-10:]) / 10 < 0.15


def test_another_process_solves_as_this_one_does_and_is_quick() -> None:
    matching = GraphMatching(config(graph_nodes=16, graph_neighbours=5, local=False))
    scores = matching.scores(*(v.graphs(slice(0, 64), 4) for v in views(64, noise=1.5)))
    problems = [Problem(*(part[graph].detach() for part in scores), seed=graph) for graph in range(4)]
    started = time.perf_counter()
    alone = solve_all(problems, restarts=1)
    assert time.perf_counter() - started < 4 * 0.25  # milliseconds each; the bound is for a machine under load
    assert torch.equal(solve_all(problems, restarts=1, processes=1), alone)


def test_regions_are_told_apart_by_place(generator: torch.Generator) -> None:
    where = places(0, 0, 1, 1, 7)[None]
    regions_where = regions_of(where)
    assert regions_where.shape == (1, 25, 2)
    torch.testing.assert_close(regions_where[0, 0], torch.tensor([1.5 / 7, 1.5 / 7]))
    features = torch.randn(1, 25, 32, generator=generator)
    flipped = regions_of(places(0, 0, 1, 1, 7, flipped=True)[None])
    # A mirrored view shows the same places in another order.
    order = torch.cdist(regions_where, flipped).argmin(1)[0]
    right = region_contrast(features, features[:, order], regions_where, flipped)
    wrong = region_contrast(features, features, regions_where, flipped)
    assert float(right) < 0.1 < 1.0 < float(wrong)
    elsewhere = regions_of(places(5, 5, 1, 1, 7)[None])
    assert float(region_contrast(features, features, regions_where, elsewhere)) == 0
