"""ParetoGNN: the views of its tasks, and weights under which no task suffers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_geometric.data import Data

from domains.graphs.paretognn.collation import ParetoGNNCollator
from domains.graphs.paretognn.configuration import TASKS, ParetoGNNConfig
from domains.graphs.paretognn.losses import canonical_correlation, node_against_graph
from domains.graphs.paretognn.pretraining import ParetoGNNForPreTraining
from domains.graphs.processing import GraphProcessor
from hub.reading import Sample
from hub.training.collation import Randomness, seeded_generator

WIDTH = 10


def two_groups(nodes: int = 40, seed: int = 0) -> Sample:
    """A graph of two dense groups, whose nodes differ in their features."""
    generator = torch.Generator().manual_seed(seed)
    group = torch.arange(nodes) % 2
    linked = torch.rand(nodes, nodes, generator=generator) < torch.where(group[:, None] == group, 0.3, 0.02)
    edges = linked.triu(1).nonzero().t()
    x = torch.rand(nodes, WIDTH, generator=generator)
    x[:, : WIDTH // 2] *= group[:, None]
    return Sample(Data(x=x, edge_index=torch.cat([edges, edges.flip(0)], dim=1)))


def make(
    samples: list[Sample], seed: int = 0, **sizes: object
) -> tuple[ParetoGNNForPreTraining, dict[str, torch.Tensor]]:
    torch.manual_seed(seed)
    task = ParetoGNNForPreTraining(ParetoGNNConfig(input_dim=WIDTH, hidden_sizes=[24, 16], head_size=8, **sizes))
    collator = ParetoGNNCollator(GraphProcessor(WIDTH), task.config, anchors=30, links=50)
    views = [collator.view(s, seeded_generator(seed, i)) for i, s in enumerate(samples)]
    return task, collator.collate(views, Randomness.seeded(len(views), seed))


def test_links_asked_for_are_hidden_and_others_are_none() -> None:
    sample = two_groups()
    _, batch = make([sample, two_groups(25, 1)])
    edges = set(map(tuple, batch["edges"].tolist()))
    seen = set(map(tuple, batch["link_edges"].tolist()))
    for (u, v), label in zip(batch["link_pairs"].tolist(), batch["link_labels"].tolist(), strict=True):
        assert batch["batch"][u] == batch["batch"][v] and u != v
        assert ((u, v) in edges) == bool(label) and (u, v) not in seen and (v, u) not in seen
    # Half of the edges of a small graph stay, and every self loop.
    assert {(n, n) for n in range(65)} <= seen and len(seen) > 65
    assert 0.4 < float(batch["link_labels"].mean()) < 0.6


def test_views_are_numbered_through_the_batch() -> None:
    _, batch = make([two_groups(20, 1), two_groups(30, 2)])
    for name in ("recon_edges", "minsg1_edges", "minsg2_edges", "decor1_edges", "decor2_edges", "link_edges"):
        ends = batch["batch"][batch[name]]
        assert (ends[:, 0] == ends[:, 1]).all() and ends.max() == 1, name
    assert (batch["batch"][batch["shuffle"]] == batch["batch"]).all()
    assert batch["shuffle"].sort().values.tolist() == list(range(50))
    counts = torch.bincount(batch["batch"], batch["recon_masked"].float())
    assert counts.tolist() == [10, 15] and batch["minsg1_columns"].shape == (2, WIDTH)


def test_a_step_along_the_weights_lowers_every_loss() -> None:
    """The point of smallest norm between the gradients is a direction in which all tasks get better at once."""
    task, batch = make([two_groups(60)])
    task.train()
    output = task(**batch)
    weights = [float(output.metrics[f"weight_{name}"]) for name in TASKS]
    assert min(weights) >= 0 and sum(weights) == pytest.approx(1, abs=1e-5)
    views = {k: v for k, v in batch.items() if k not in ("x", "edges", "batch")}
    shared = list(task.paretognn.parameters())
    losses = task.losses(batch["x"], batch["edges"], batch["batch"], views)
    gradients = {}
    for name, loss in losses.items():
        parts = torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True)
        flat = torch.cat(
            [torch.zeros(p.numel()) if g is None else g.flatten() for g, p in zip(parts, shared, strict=True)]
        )
        gradients[name] = flat / flat.norm()
    direction = sum(w * gradients[name] for w, name in zip(weights, TASKS, strict=True))
    for name, gradient in gradients.items():
        assert float(gradient @ direction) >= float(direction @ direction) - 1e-4, name


def test_all_tasks_together_learn() -> None:
    sample = two_groups(60)
    task, _ = make([sample])
    optimizer = torch.optim.AdamW(task.parameters(), lr=3e-3)
    curves: dict[str, list[float]] = {name: [] for name in TASKS}
    collator = ParetoGNNCollator(GraphProcessor(WIDTH), task.config, anchors=30, links=50)
    view = collator.view(sample, seeded_generator(0))
    for step in range(60):
        output = task.train()(**collator.collate([view], Randomness.seeded(1, step)))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        for name in TASKS:
            curves[name].append(float(output.metrics[name]))
    fell = [name for name, curve in curves.items() if np.mean(curve[-10:]) < np.mean(curve[:10])]
    assert set(fell) >= {"p_recon", "p_minsg", "p_decor", "p_link"}, curves


def test_graphs_without_edges_give_finite_losses() -> None:
    lonely = Sample(Data(x=torch.rand(4, WIDTH), edge_index=torch.zeros(2, 0, dtype=torch.int64)))
    task, batch = make([lonely])
    output = task.train()(**batch)
    output.loss.backward()
    assert torch.isfinite(output.loss) and "p_link" not in output.metrics
    assert all(torch.isfinite(p.grad).all() for p in task.parameters() if p.grad is not None)


def test_a_task_alone_needs_no_weights() -> None:
    task, batch = make([two_groups()], pretext_tasks=["p_decor"])
    assert float(task(**batch).metrics["weight_p_decor"]) == 1
    assert {n.split(".")[0] for n, _ in task.named_parameters()} == {"paretognn"}


def test_hidden_states_are_the_layers_as_wide_as_the_last() -> None:
    task, batch = make([two_groups()])
    model = task.paretognn.eval()
    plain = {name: batch[name] for name in ("x", "edges", "batch")}
    assert model.num_hidden_states == 1
    assert model.embed(plain, "mean", "all")[0].shape == (16,) == (model.embedding_dimension("mean", "all"),)


def test_losses_at_their_known_values() -> None:
    # A discriminator of zeros knows nothing: two coin tosses.
    states = torch.randn(6, 4)
    loss = node_against_graph(states, states.flip(0), torch.zeros(4, 4))
    assert float(loss) == pytest.approx(2 * np.log(2))
    # Equal views have no distance; with orthogonal standardised columns, a correlation of (N - 1) / N on the diagonal.
    orthogonal = torch.linalg.qr(torch.randn(50, 4) - 0)[0]
    orthogonal = torch.linalg.qr(orthogonal - orthogonal.mean(0))[0]
    expected = 1e-3 * 2 * np.sqrt(4) / 50
    assert float(canonical_correlation(orthogonal, orthogonal)) == pytest.approx(expected, rel=1e-3)
