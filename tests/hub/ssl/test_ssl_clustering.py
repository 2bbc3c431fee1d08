"""Sinkhorn, k-means, codebooks and residual lookup."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from hub import ssl

N, D = 8, 6


def test_sinkhorn_balances_prototypes_and_normalises_samples(generator: torch.Generator) -> None:
    scores = torch.randn(30, 5, generator=generator, dtype=torch.float64)
    codes = ssl.sinkhorn(scores, epsilon=0.5, iterations=200)
    torch.testing.assert_close(codes.sum(dim=1), torch.ones(30, dtype=torch.float64))
    torch.testing.assert_close(codes.sum(dim=0), torch.full((5,), 6.0, dtype=torch.float64), rtol=1e-6, atol=0)
    shifted = ssl.sinkhorn(scores + 100, epsilon=0.05)  # exp(100 / 0.05) would overflow
    torch.testing.assert_close(shifted, ssl.sinkhorn(scores, epsilon=0.05))
    half = ssl.sinkhorn(scores.half(), epsilon=0.05)
    assert half.dtype == torch.float32 and half.isfinite().all()
    with pytest.raises(ValueError, match=r"scores must have shape \(batch, prototypes\)"):
        ssl.sinkhorn(scores[0])


def test_prototypes_return_to_the_sphere(generator: torch.Generator) -> None:
    prototypes = ssl.Prototypes(D, 4, generator=generator)
    with torch.no_grad():
        prototypes.weight.mul_(3.0)
    prototypes.normalise()
    torch.testing.assert_close(prototypes.weight.norm(dim=1).detach(), torch.ones(4))
    assert float(prototypes(5 * prototypes.weight).diagonal().mean().detach()) == pytest.approx(1.0)


def test_spherical_kmeans_finds_directions(generator: torch.Generator) -> None:
    directions = torch.eye(3)
    features = directions.repeat(20, 1) * torch.rand(60, 1, generator=generator).add(0.5)
    features = features + 0.05 * torch.randn(60, 3, generator=generator)
    # Random starts may put two centroids in one cluster; the best of a few does not.
    best = max(
        (ssl.spherical_kmeans(features, 3, generator=generator) for _ in range(10)),
        key=lambda found: float((F.normalize(features, dim=1) * found[0][found[1]]).sum()),
    )
    torch.testing.assert_close((best[0] @ directions.T).max(dim=1).values, torch.ones(3), atol=0.01, rtol=0)
    assert len({tuple(best[1].reshape(20, 3)[:, k].tolist()) for k in range(3)}) == 3
    with pytest.raises(ValueError, match="use fewer clusters"):
        ssl.spherical_kmeans(features[:2], 3, generator=generator)


def test_empty_clusters_keep_their_centroid() -> None:
    features = torch.tensor([[1.0, 0.0]]).repeat(4, 1)  # one direction for three clusters
    centroids, nearest = ssl.spherical_kmeans(features, 3, generator=torch.Generator().manual_seed(0))
    assert centroids.isfinite().all() and len(set(nearest.tolist())) == 1


def test_deep_cluster_asks_for_clusters_first(generator: torch.Generator) -> None:
    module = ssl.DeepClusterV2(N, D, prototypes=(2, 3))
    views, index = torch.randn(2, N, D, generator=generator), torch.arange(N)
    with pytest.raises(ValueError, match=r"call cluster\(\)"):
        module.loss(views, index)
    module.remember(views[:, :5], index[:5])
    module.cluster(generator=generator)
    assert (module.assignments[:, 5:] == -1).all() and (module.assignments[:, :5] >= 0).all()
    # Samples without an assignment are left out.
    torch.testing.assert_close(module.loss(views, index), module.loss(views[:, :5], index[:5]))
    with pytest.raises(ValueError, match="must not exceed the 8 samples"):
        ssl.DeepClusterV2(N, D, prototypes=(9,))
    with pytest.raises(ValueError, match=r"features must have shape \(2, 8, 6\)"):
        module.remember(views[:1], index)


def test_ema_codebook_by_hand() -> None:
    book = ssl.Codebook(3, 2, generator=torch.Generator().manual_seed(0), update="ema", decay=0.5, eps=1e-9)
    state = {
        "weight": torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]]),
        "embed_avg": torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]]),
        "cluster_size": torch.ones(3),
    }
    book.load_state_dict(state)
    quantized = book(torch.tensor([[1.0, 0.0], [3.0, 0.0], [9.0, 0.0]]))
    assert quantized.indices.tolist() == [0, 0, 1]
    # Code 0 won (1, 0) and (3, 0): sum 4 -> 2 by half; size 1 -> 1.5.
    torch.testing.assert_close(book.weight[0], torch.tensor([2.0 / 1.5, 0.0]))
    torch.testing.assert_close(book.weight[1], torch.tensor([9.5, 0.0]))
    torch.testing.assert_close(book.weight[2], torch.tensor([0.0, 10.0]))  # 5 / 0.5: unused, unmoved
    assert float(quantized.codebook_loss) == 0.0
    assert float(quantized.commitment_loss) == pytest.approx((1 + 9 + 1) / 6)
    assert float(quantized.usage) == pytest.approx(2 / 3)
    entropy = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    assert float(quantized.perplexity) == pytest.approx(math.exp(entropy))


def test_codebook_ignores_padding(generator: torch.Generator) -> None:
    x = torch.randn(2, 5, D, generator=generator)
    valid = torch.ones(2, 5, dtype=torch.bool)
    valid[1, 3:] = False

    def run(values: torch.Tensor, mask: torch.Tensor | None) -> tuple[ssl.Quantized, ssl.Codebook]:
        book = ssl.Codebook(4, D, generator=torch.Generator().manual_seed(1), update="ema")
        return book(values, mask), book

    padded, book = run(x, valid)
    alone, other = run(x[valid], None)
    torch.testing.assert_close(padded.commitment_loss, alone.commitment_loss)
    torch.testing.assert_close(padded.perplexity, alone.perplexity)
    torch.testing.assert_close(book.weight, other.weight)


def test_dead_codes_come_back_to_life(generator: torch.Generator) -> None:
    book = ssl.Codebook(6, D, generator=generator, update="ema", decay=0.5)
    x = 100 + torch.randn(50, D, generator=generator)  # far from every code: one wins all
    for _ in range(6):
        before = book(x)
    assert float(before.perplexity) == pytest.approx(1.0)
    assert book.revive_dead_codes(x, threshold=0.1, generator=generator) == 5
    after = book(x)
    assert float(after.perplexity) > 3 and float(after.usage) == 1.0
    assert book.revive_dead_codes(x, threshold=0.1, generator=generator) == 0
    # Fewer vectors than dead codes still revives them all.
    few = ssl.Codebook(6, D, generator=generator, unit_norm=True)
    assert few.revive_dead_codes(x[:2], threshold=float("inf"), generator=generator) == 6
    torch.testing.assert_close(few.weight.norm(dim=1).detach(), torch.ones(6))


def test_gradient_codebook_learns(generator: torch.Generator) -> None:
    centres = 5 * torch.randn(4, D, generator=generator)
    x = centres.repeat(10, 1) + 0.1 * torch.randn(40, D, generator=generator)
    book = ssl.Codebook(4, D, generator=generator)
    book.revive_dead_codes(centres + 0.5, threshold=float("inf"), generator=generator)
    optimiser = torch.optim.SGD(book.parameters(), lr=5.0)
    first = float(book(x).codebook_loss.detach())
    for _ in range(20):
        optimiser.zero_grad()
        book(x).codebook_loss.backward()
        optimiser.step()
    last = book(x)
    assert float(last.codebook_loss.detach()) < 0.05 * first and float(last.perplexity) == pytest.approx(4.0)


def test_codebook_refuses_what_it_cannot_do(generator: torch.Generator) -> None:
    with pytest.raises(ValueError, match="update must be 'gradient' or 'ema', got 'sgd'"):
        ssl.Codebook(4, D, generator=generator, update="sgd")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"x must have shape \(\.\.\., 6\)"):
        ssl.Codebook(4, D, generator=generator)(torch.ones(3, 5))


def test_residual_codes_refine_stage_by_stage(generator: torch.Generator) -> None:
    codebooks = torch.randn(4, 16, D, generator=generator) * torch.tensor([1.0, 0.5, 0.25, 0.1])[:, None, None]
    codebooks[:, 0] = 0  # with a zero code a stage can only help
    x = torch.randn(3, 10, D, generator=generator)
    codes = ssl.residual_encode(x, codebooks)
    assert codes.shape == (3, 10, 4)
    errors = [float((ssl.residual_decode(codes[..., :k], codebooks) - x).square().mean()) for k in range(1, 5)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.8 * errors[0]
    # The first stage is plain nearest neighbour, and codes of sums come back.
    assert torch.equal(codes[..., 0], torch.cdist(x, codebooks[0]).argmin(dim=-1))
    with pytest.raises(ValueError, match="5 stages of codes for 4 codebooks"):
        ssl.residual_decode(torch.zeros(3, 5, dtype=torch.long), codebooks)
    with pytest.raises(ValueError, match=r"x must have shape \(\.\.\., 6\)"):
        ssl.residual_encode(torch.ones(3, 5), codebooks)
