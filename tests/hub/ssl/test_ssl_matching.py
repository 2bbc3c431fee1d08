"""The matching solver against enumeration, gradients through it, and multiple-gradient descent."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hub import ssl

Problem = tuple[Tensor, Tensor, Tensor, Tensor]


def problem(seed: int, nodes: int, neighbours: int = 2, noise: float = 0.5) -> Problem:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(nodes, 5, generator=generator, dtype=torch.float64)
    other = z + noise * torch.randn(nodes, 5, generator=generator, dtype=torch.float64)
    edges_s, edges_t = ssl.knn_edges(z, neighbours), ssl.knn_edges(other, neighbours)
    edge = ssl.edge_affinity(z, other, edges_s, edges_t)
    return ssl.vertex_affinity(z, other), edge, edges_s, edges_t


def best_by_enumeration(vertex: Tensor, edge: Tensor, edges_s: Tensor, edges_t: Tensor) -> tuple[Tensor, float]:
    best, best_value = torch.empty(0), -float("inf")
    for candidate in permutations(range(len(vertex))):
        assignment = torch.tensor(candidate)
        v = F.one_hot(assignment, len(vertex)).to(vertex)
        pairs = v[edges_s[0]][:, edges_t[0]] * v[edges_s[1]][:, edges_t[1]]
        value = float((vertex * v).sum() + (edge * pairs).sum())
        if value > best_value:
            best, best_value = assignment, value
    return best, best_value


@pytest.mark.parametrize("seed", range(6))
def test_solver_reaches_the_optimum_of_small_problems(seed: int, generator: torch.Generator) -> None:
    small = problem(seed, nodes=6, noise=1.0)
    expected, value = best_by_enumeration(*small)
    found = ssl.solve_matching(*small, restarts=60, generator=generator)
    assert ssl.matching_value(expected, *small) == pytest.approx(value)
    assert ssl.matching_value(found, *small) == pytest.approx(value, rel=1e-9)


def test_solver_is_exact_without_edges_and_follows_a_relabelling(generator: torch.Generator) -> None:
    none = torch.zeros(2, 0, dtype=torch.long)
    vertex = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    empty = (vertex, torch.zeros(0, 0), none, none)
    expected, _ = best_by_enumeration(*empty)
    assert torch.equal(ssl.solve_matching(*empty), expected)

    vertex, edge, edges_s, edges_t = problem(0, nodes=12, neighbours=3, noise=0.1)
    order = torch.randperm(12, generator=generator)
    place = order.argsort()
    renamed = (vertex[:, order], edge, edges_s, place[edges_t])
    matched = ssl.solve_matching(vertex, edge, edges_s, edges_t)
    assert torch.equal(matched, torch.arange(12))
    assert torch.equal(ssl.solve_matching(*renamed), place)
    with pytest.raises(ValueError, match="restarts need a generator"):
        ssl.solve_matching(vertex, edge, edges_s, edges_t, restarts=1)
    with pytest.raises(ValueError, match="vertex_affinity must be"):
        ssl.solve_matching(vertex[:, :3], edge, edges_s, edges_t)


def test_knn_edges_are_nearest_first() -> None:
    edges = ssl.knn_edges(torch.tensor([[0.0], [1.0], [3.0], [7.0]]), 2)
    assert edges.tolist() == [[0, 0, 1, 1, 2, 2, 3, 3], [1, 2, 0, 2, 1, 0, 2, 1]]


def test_perfect_views_match_and_have_no_gradient(generator: torch.Generator) -> None:
    vertex, edge, edges_s, edges_t = problem(1, nodes=8, noise=0.0)
    vertex.requires_grad_()
    result = ssl.graph_matching(vertex, edge, edges_s, edges_t, generator=generator, noise_scale=0.0)
    result.loss.backward()
    assert float(result.loss.detach()) == 0 and float(result.wrong_share) == 0
    assert torch.equal(result.assignment, torch.arange(8)) and not vertex.grad.any()


@pytest.mark.parametrize("solve_target", [False, True])
def test_gradient_is_the_difference_of_matchings(solve_target: bool, generator: torch.Generator) -> None:
    vertex, edge, edges_s, edges_t = problem(2, nodes=6, noise=2.0)
    vertex.requires_grad_(), edge.requires_grad_()
    result = ssl.graph_matching(
        vertex, edge, edges_s, edges_t, generator=generator, noise_scale=0.0, solve_target=solve_target, restarts=60
    )
    assert float(result.loss.detach()) == 2 * 6 * float(result.wrong_share) > 0
    found, _ = best_by_enumeration(vertex.detach(), edge.detach(), edges_s, edges_t)
    assert torch.equal(result.assignment, found)
    result.loss.backward()
    truth, match = torch.eye(6, dtype=torch.float64), F.one_hot(found, 6)
    torch.testing.assert_close(vertex.grad, (match - truth) / 80)  # with 80 the target is the truth
    u = [v[edges_s[0]][:, edges_t[0]] * v[edges_s[1]][:, edges_t[1]] for v in (match, truth)]
    torch.testing.assert_close(edge.grad, (u[0] - u[1]) / 80)


@pytest.mark.parametrize("strength", [0.3, 2.0, 80.0])
def test_gradient_is_that_of_the_interpolated_loss(strength: float, generator: torch.Generator) -> None:
    """The estimate is the exact derivative of `(best(c) - best(c - strength dL)) / strength`."""
    vertex, edge, edges_s, edges_t = problem(4, nodes=5, noise=2.0)
    against = strength * (1 - 2 * torch.eye(5, dtype=torch.float64))

    def interpolated(v: Tensor, e: Tensor) -> float:
        ahead = best_by_enumeration(v, e, edges_s, edges_t)[1]
        return (ahead - best_by_enumeration(v - against, e, edges_s, edges_t)[1]) / strength

    leaves = [vertex.clone().requires_grad_(), edge.clone().requires_grad_()]
    result = ssl.graph_matching(
        *leaves,
        edges_s,
        edges_t,
        generator=generator,
        strength=strength,
        noise_scale=0.0,
        solve_target=True,
        restarts=60,
    )
    gradients = torch.autograd.grad(result.loss, leaves)
    step = 1e-4
    for _ in range(5):
        dv = torch.randn(vertex.shape, generator=generator, dtype=torch.float64)
        de = torch.randn(edge.shape, generator=generator, dtype=torch.float64)
        ahead = interpolated(vertex + step * dv, edge + step * de)
        slope = (ahead - interpolated(vertex - step * dv, edge - step * de)) / (2 * step)
        estimate = float((gradients[0] * dv).sum() + (gradients[1] * de).sum())
        assert estimate == pytest.approx(slope, abs=1e-6)


def test_matching_under_autocast_equals_float32(generator: torch.Generator) -> None:
    z, other = torch.randn(2, 8, 5, generator=generator).bfloat16()
    edges = ssl.knn_edges(z, 2)

    def run(a: Tensor, b: Tensor) -> ssl.MatchingLoss:
        scores = ssl.vertex_affinity(a, b), ssl.edge_affinity(a, b, edges, edges)
        return ssl.graph_matching(*scores, edges, edges, generator=torch.Generator().manual_seed(1))

    with torch.autocast("cpu", torch.bfloat16):
        half = run(z, other)
    full = run(z.float(), other.float())
    assert half.loss.dtype == torch.float32 and torch.equal(half.loss, full.loss)
    assert torch.equal(half.assignment, full.assignment)


def test_matching_trains_embeddings_to_agree(generator: torch.Generator) -> None:
    target = torch.randn(8, 5, generator=generator)
    z = torch.randn(8, 5, generator=generator).requires_grad_()
    optimiser = torch.optim.Adam([z], lr=0.05)
    wrong = []
    for _ in range(150):
        edges_s, edges_t = ssl.knn_edges(z, 3), ssl.knn_edges(target, 3)
        result = ssl.graph_matching(
            ssl.vertex_affinity(z, target),
            ssl.edge_affinity(z, target, edges_s, edges_t),
            edges_s,
            edges_t,
            generator=generator,
            noise_scale=0.1,
        )
        optimiser.zero_grad()
        result.loss.backward()
        optimiser.step()
        wrong.append(float(result.wrong_share))
    assert sum(wrong[:10]) / 10 > 0.5 and sum(wrong[-10:]) / 10 < 0.1


def test_min_norm_of_two_vectors_by_hand() -> None:
    weights = ssl.min_norm_weights(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
    torch.testing.assert_close(weights, torch.tensor([0.2, 0.8], dtype=torch.float64))
    inside = ssl.min_norm_weights(torch.tensor([[1.0, 0.0], [3.0, 0.0]]))
    assert inside.tolist() == [1.0, 0.0]  # the shorter of two parallel ones


def test_min_norm_point_has_no_descent_left(generator: torch.Generator) -> None:
    for tasks in (1, 2, 3, 6):
        gradients = torch.randn(tasks, 9, generator=generator) + 0.3
        weights = ssl.min_norm_weights(gradients)
        assert float(weights.sum()) == pytest.approx(1.0) and (weights >= 0).all()
        point = weights @ gradients.double()
        # Optimality on a simplex: no vertex has a smaller inner product with the point.
        assert (gradients.double() @ point >= point @ point - 1e-9).all()
    order = torch.randperm(6, generator=generator)
    torch.testing.assert_close(ssl.min_norm_weights(gradients[order]), weights[order], atol=1e-8, rtol=0)
    with pytest.raises(ValueError, match="finite"):
        ssl.min_norm_weights(torch.tensor([[1.0, float("nan")]]))
    with pytest.raises(ValueError, match=r"\(tasks, parameters\)"):
        ssl.min_norm_weights(torch.ones(3))


def test_multiple_gradient_weights_descend_on_every_task(generator: torch.Generator) -> None:
    encoder, unused = nn.Linear(4, 3), nn.Linear(2, 2)
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, generator=generator)
    x = torch.randn(10, 4, generator=generator)
    targets = torch.randn(3, 10, 3, generator=generator)

    def losses() -> dict[str, Tensor]:
        z = encoder(x)
        return {f"task{k}": 10**k * (z - target).square().mean() for k, target in enumerate(targets)}

    parameters = [*encoder.parameters(), *unused.parameters()]
    before = losses()
    gradients = {
        name: torch.cat([g.flatten() for g in torch.autograd.grad(loss, encoder.parameters(), retain_graph=True)])
        for name, loss in before.items()
    }
    for normalise in (True, False):
        weights = ssl.multiple_gradient_weights(before, parameters, normalise=normalise)
        assert list(weights) == list(before) and sum(weights.values()) == pytest.approx(1.0)
        used = {n: g / g.norm() if normalise else g for n, g in gradients.items()}
        direction = torch.stack([weights[n] * g for n, g in used.items()]).sum(0)
        # At the minimum every task goes down along the direction: those with a weight equally fast, others faster.
        for name, gradient in used.items():
            descent = float(direction @ gradient) / float(direction.square().sum())
            assert descent == pytest.approx(1.0, abs=1e-3) if weights[name] > 1e-6 else descent >= 1 - 1e-3
    assert weights["task2"] < weights["task0"]  # without normalising, the large gradient gets little
    with pytest.raises(ValueError, match="at least one loss"):
        ssl.multiple_gradient_weights({}, parameters)


def test_weighted_sum_logs_every_term() -> None:
    losses = {"a": torch.tensor(2.0, requires_grad=True), "b": torch.tensor(float("nan"))}
    result = ssl.weighted_sum(losses, {"a": 0.5, "b": 0.0})
    assert float(result.total.detach()) == 1.0 and result.total.requires_grad
    assert float(result.terms["a"]) == 2.0 and not result.terms["a"].requires_grad
    assert result.terms["b"].isnan()  # of weight 0: seen in the log, kept out of the sum
    with pytest.raises(ValueError, match=r"same names, got \['a', 'b'\] and \['a'\]"):
        ssl.weighted_sum(losses, {"a": 1.0})
    with pytest.raises(ValueError, match="all weights are 0"):
        ssl.weighted_sum(losses, {"a": 0.0, "b": 0.0})
