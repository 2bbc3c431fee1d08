"""Known values, symmetry and refusals of the losses."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hub import ssl

N, D, OUTPUTS = 8, 6, 5
SAME = torch.ones(N, D)
UNIFORM = torch.zeros(2, N, OUTPUTS)


# An encoder that gives every sample the same vector, and what each objective says to it.
COLLAPSED: dict[str, tuple[Callable[[], Tensor], float]] = {
    "nt_xent": (lambda: ssl.nt_xent(SAME, SAME, temperature=0.1), math.log(2 * N - 1)),
    "multi_view": (
        lambda: ssl.multi_view_contrastive(torch.ones(3 * N, D), torch.arange(N).repeat(3)),
        math.log(3 * N - 1),
    ),
    "info_nce": (lambda: ssl.info_nce(SAME, SAME), math.log(N)),
    "moco_v3": (lambda: ssl.moco_v3(SAME, SAME, SAME, SAME, temperature=0.2), 0.8 * math.log(N)),
    "dcl": (lambda: ssl.dcl(SAME, SAME), math.log(2 * N - 2)),
    "dclw": (lambda: ssl.dclw(SAME, SAME), math.log(2 * N - 2)),
    "queue": (
        lambda: ssl.queue_contrastive(SAME, SAME, F.normalize(torch.ones(10, D), dim=1)),
        math.log(11),
    ),
    "sce": (lambda: ssl.similarity_contrastive(SAME, SAME), math.log(N)),
    "cacr": (lambda: ssl.cacr([SAME, SAME, SAME]), 0.0),
    "barlow_twins": (lambda: ssl.barlow_twins(SAME, SAME), D),
    "barlow_twins_unbiased": (lambda: ssl.barlow_twins(SAME, SAME, unbiased=True), D),
    "vicreg": (lambda: ssl.vicreg(SAME, SAME), 25 * 0.99),
    # The nearest neighbour is at distance 0, seen through the two guards of 1e-8.
    "koleo": (lambda: ssl.koleo(SAME), -math.log(1e-8 * math.sqrt(D) + 1e-8)),
    "byol": (lambda: ssl.byol(SAME, SAME, SAME, SAME), 0.0),
    "simsiam": (lambda: ssl.simsiam(SAME, SAME, SAME, SAME), -1.0),
    "dino": (lambda: ssl.dino(UNIFORM, UNIFORM, torch.zeros(OUTPUTS)), math.log(OUTPUTS)),
    "self_patch": (lambda: ssl.self_patch(UNIFORM, UNIFORM, torch.zeros(OUTPUTS)), math.log(OUTPUTS)),
    "swav": (lambda: ssl.swav(UNIFORM, UNIFORM), math.log(OUTPUTS)),
    "code_prediction": (
        lambda: ssl.code_prediction(torch.zeros(N, 3, OUTPUTS), torch.zeros(N, 3, dtype=torch.long)),
        3 * math.log(OUTPUTS),
    ),
    "masked_mse": (lambda: ssl.masked_mse(SAME, SAME, torch.ones(N)), 0.0),
    "scaled_cosine_error": (lambda: ssl.scaled_cosine_error(SAME, -SAME, gamma=3.0), 8.0),
    "scaled_cosine_error_of_zero_rows": (lambda: ssl.scaled_cosine_error(SAME, 0 * SAME), 1.0),
    "latent_prediction": (lambda: ssl.latent_prediction(SAME, 3 * SAME), 4.0),
}


@pytest.mark.parametrize("name", COLLAPSED)
def test_collapsed_encoder_has_the_known_value(name: str) -> None:
    loss, expected = COLLAPSED[name]
    assert float(loss()) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_masked_patch_distillation_counts_images_without_a_mask() -> None:
    mask = torch.zeros(2, 4, dtype=torch.bool)
    mask[1, :3] = True
    loss = ssl.masked_patch_distillation(torch.zeros(3, OUTPUTS), torch.zeros(3, OUTPUTS), mask, torch.zeros(OUTPUTS))
    assert float(loss) == pytest.approx(math.log(OUTPUTS) / 2)


def test_individual_temperatures_of_a_collapsed_batch() -> None:
    module = ssl.IndividualTemperatures(N, initial_temperature=0.5)
    loss = module(SAME, SAME, torch.arange(N), epoch=0)
    # Every negative has similarity 1 and relative weight 1, the positive 1: 1 - 1, twice.
    assert float(loss) == pytest.approx(0.0, abs=1e-6)
    torch.testing.assert_close(module.s, torch.full((N,), math.exp(2.0)))


SYMMETRIC: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "nt_xent": ssl.nt_xent,
    "dcl": ssl.dcl,
    "dclw": ssl.dclw,
    "barlow_twins": ssl.barlow_twins,
    "vicreg": ssl.vicreg,
    "negative_cosine": ssl.negative_cosine,
    "byol": lambda a, b: ssl.byol(a, b, a + 1, b + 1),
    "simsiam": lambda a, b: ssl.simsiam(a, b, a + 1, b + 1),
    "moco_v3": lambda a, b: ssl.moco_v3(a, b, a + 1, b + 1),
    "groco": lambda a, b: ssl.groco([a, b], hardest=3),
    # Repulsion is not: it takes rows of the first view against rows of the second.
    "cacr_attraction": lambda a, b: ssl.cacr_attraction([a, b]),
    "swav": lambda a, b: ssl.swav(torch.stack([a, b]).tanh(), torch.zeros(0, N, D)),
    "dino": lambda a, b: ssl.dino(torch.stack([a, b]), torch.stack([a, b]) + 1, torch.zeros(D)),
    "scaled_cosine_error": ssl.scaled_cosine_error,
}


@pytest.mark.parametrize("name", SYMMETRIC)
def test_exchanging_the_views_changes_nothing(name: str, generator: torch.Generator) -> None:
    a, b = torch.randn(2, N, D, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(SYMMETRIC[name](a, b), SYMMETRIC[name](b, a), rtol=1e-9, atol=1e-9)


ONE = torch.ones(1, D)
# Objectives that compare samples, with one sample to compare.
ALONE: dict[str, Callable[[], object]] = {
    "nt_xent": lambda: ssl.nt_xent(ONE, ONE),
    "multi_view": lambda: ssl.multi_view_contrastive(torch.ones(3, D), torch.zeros(3, dtype=torch.long)),
    "info_nce": lambda: ssl.info_nce(ONE, ONE),
    "moco_v3": lambda: ssl.moco_v3(ONE, ONE, ONE, ONE),
    "dcl": lambda: ssl.dcl(ONE, ONE),
    "dclw": lambda: ssl.dclw(ONE, ONE),
    "sce": lambda: ssl.similarity_contrastive(ONE, ONE),
    "individual_temperatures": lambda: ssl.IndividualTemperatures(3)(ONE, ONE, torch.tensor([1]), epoch=0),
    "groco": lambda: ssl.groco([ONE, ONE]),
    "cacr": lambda: ssl.cacr([ONE, ONE]),
    "barlow_twins": lambda: ssl.barlow_twins(ONE, ONE),
    "mixed_barlow_twins": lambda: ssl.mixed_barlow_twins(ONE, ONE, ONE, torch.tensor([0]), alpha=0.5),
    "vicreg": lambda: ssl.vicreg(ONE, ONE),
    "koleo": lambda: ssl.koleo(ONE),
    "graph_matching": lambda: ssl.graph_matching(
        torch.ones(1, 1),
        torch.ones(0, 0),
        torch.zeros(2, 0, dtype=torch.long),
        torch.zeros(2, 0, dtype=torch.long),
        generator=torch.Generator(),
    ),
    "knn_edges": lambda: ssl.knn_edges(ONE, 1),
}


@pytest.mark.parametrize("name", ALONE)
def test_a_single_sample_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"at least|nothing to contrast|more than"):
        ALONE[name]()


OTHER = torch.ones(N, D + 1)
WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "shapes": (lambda: ssl.nt_xent(SAME, OTHER), r"z0 \(8, 6\), z1 \(8, 7\)"),
    "rank": (lambda: ssl.nt_xent(SAME[None], SAME[None]), r"shape \(batch, dim\)"),
    "temperature": (lambda: ssl.info_nce(SAME, SAME, temperature=0.0), "temperature must be greater than 0"),
    "sigma": (lambda: ssl.dclw(SAME, SAME, sigma=-1.0), "sigma must be greater than 0"),
    "no positive": (lambda: ssl.multi_view_contrastive(SAME, torch.arange(N)), "no process selects"),
    "no negatives": (lambda: ssl.queue_contrastive(SAME, SAME, SAME[:0]), "at least 1, 6"),
    "index": (lambda: ssl.multi_view_contrastive(SAME, torch.arange(3)), r"index must have shape \(8,\)"),
    "sample number": (
        lambda: ssl.IndividualTemperatures(3)(SAME, SAME, torch.arange(N), epoch=0),
        "between 0 and 2",
    ),
    "no queue": (lambda: ssl.similarity_contrastive(SAME, SAME, contrast_batch=False), "pass a queue"),
    "coefficient": (lambda: ssl.similarity_contrastive(SAME, SAME, coefficient=2.0), "between 0 and 1"),
    "one view": (lambda: ssl.groco([SAME]), "at least 2 views"),
    "one view only": (lambda: ssl.cacr([SAME]), "at least 2 views"),
    "no pair of views": (lambda: ssl.dino(UNIFORM[:1], UNIFORM[:1], torch.zeros(OUTPUTS)), "pass at least 2"),
    "one swav view": (lambda: ssl.swav(UNIFORM[:1], UNIFORM[:0]), "at least 2 views"),
    "mask": (lambda: ssl.masked_l1(SAME, SAME, torch.zeros(N)), "no process selects"),
    "mask shape": (lambda: ssl.masked_l1(SAME, SAME, torch.ones(3)), "must match the first axes"),
    "gamma": (lambda: ssl.scaled_cosine_error(SAME, SAME, gamma=0.5), "gamma must be at least 1"),
    "masked rows": (
        lambda: ssl.masked_patch_distillation(SAME[:1], SAME[:1], torch.ones(2, 2, dtype=torch.bool), SAME[0]),
        "4 masked tokens",
    ),
    "hardest": (
        lambda: ssl.mix_hard_negatives(SAME, SAME, hardest=9, pair_mixes=1, query_mixes=1, generator=torch.Generator()),
        "at most the number of queue rows, 8",
    ),
    "targets": (
        lambda: ssl.code_prediction(torch.zeros(2, 3, OUTPUTS), torch.zeros(2, 2, dtype=torch.long)),
        "do not fit",
    ),
    "knots": (lambda: ssl.sigreg(SAME, generator=torch.Generator(), knots=1), "knots must be at least 2"),
    "global views": (lambda: ssl.lejepa(UNIFORM, global_views=3, generator=torch.Generator()), "global_views 3"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_say_what_would_be_right(name: str) -> None:
    call, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_multi_view_with_two_views_is_nt_xent(generator: torch.Generator) -> None:
    a, b = torch.randn(2, N, D, generator=generator)
    index = torch.arange(N)
    both = ssl.multi_view_contrastive(torch.cat([a, b]), torch.cat([index, index]), temperature=0.5)
    torch.testing.assert_close(both, ssl.nt_xent(a, b, temperature=0.5))


def test_multi_view_leaves_out_anchors_without_a_positive(generator: torch.Generator) -> None:
    features = torch.randn(5, D, generator=generator)
    labels = torch.tensor([0, 0, 1, 1, 2])
    unit = F.normalize(features, dim=1)
    logits = (unit @ unit.T / 0.1).fill_diagonal_(float("-inf"))
    rows = [-logits.log_softmax(dim=1)[i, j] for i, j in ((0, 1), (1, 0), (2, 3), (3, 2))]
    loss = ssl.multi_view_contrastive(features, labels, temperature=0.1)
    torch.testing.assert_close(loss, torch.stack(rows).mean())


def test_similarity_contrastive_with_full_coefficient_is_info_nce(generator: torch.Generator) -> None:
    query, key = torch.randn(2, N, D, generator=generator)
    soft = ssl.similarity_contrastive(query, key, temperature=0.3, coefficient=1.0)
    torch.testing.assert_close(soft, ssl.info_nce(query, key, temperature=0.3))


def test_stop_gradients_hold(generator: torch.Generator) -> None:
    p0, p1, z0, z1 = (x.requires_grad_() for x in torch.randn(4, N, D, generator=generator).unbind())
    for loss in (ssl.byol(p0, p1, z0, z1), ssl.simsiam(p0, p1, z0, z1), ssl.moco_v3(p0, p1, z0, z1)):
        gradients = torch.autograd.grad(loss, [p0, p1, z0, z1], allow_unused=True)
        assert [gradient is None for gradient in gradients] == [False, False, True, True]
    views = torch.stack([p0, p1]), torch.stack([z0, z1])
    for loss in (
        ssl.similarity_contrastive(p0, z0),
        ssl.latent_prediction(p0, z0),
        ssl.dino(*views, torch.zeros(D)),
        ssl.self_patch(*views, torch.zeros(D)),
    ):
        gradients = torch.autograd.grad(loss, [p0, z0], allow_unused=True)
        assert [gradient is None for gradient in gradients] == [False, True]


def test_cacr_attraction_of_two_views_is_the_mean_distance(generator: torch.Generator) -> None:
    a, b = torch.randn(2, N, D, generator=generator)
    expected = (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(dim=1).mean()
    torch.testing.assert_close(ssl.cacr_attraction([a, b], temperature=5.0), expected)


def test_groco_is_small_when_groups_are_in_order() -> None:
    basis = torch.eye(4)
    assert ssl.groco([basis, basis], hardest=3, steepness=1e4) < 1e-3
    rolled = basis.roll(1, dims=0)  # the positive is now as far as a negative, a negative is the anchor
    assert ssl.groco([basis + 0.5 * rolled, rolled], hardest=3, steepness=10.0) > 0.1


def test_soft_sort_is_doubly_stochastic_and_sorts(generator: torch.Generator) -> None:
    values = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    soft = ssl.soft_sort_permutation(values, steepness=2.0)
    ones = torch.ones(5, 7, dtype=torch.float64)
    torch.testing.assert_close(soft.sum(dim=1), ones)
    torch.testing.assert_close(soft.sum(dim=2), ones)
    hard = ssl.soft_sort_permutation(values, steepness=1e9)
    ascending = torch.einsum("bij,bi->bj", hard, values)
    torch.testing.assert_close(ascending, values.sort(dim=1).values, atol=1e-6, rtol=0)


def test_sigreg_prefers_a_normal_cloud(generator: torch.Generator) -> None:
    normal = torch.randn(500, 4, generator=generator)

    def score(features: Tensor) -> float:
        return float(ssl.sigreg(features, generator=torch.Generator().manual_seed(1), projections=64))

    assert score(normal) < min(score(3 * normal), score(0.1 * normal), score(normal + 1), score(0 * normal))
    # Against the integral itself, by a grid ten times as fine: a constant 0 has phi = 1 everywhere.
    t = torch.linspace(-3, 3, 2001, dtype=torch.float64)
    normal_phi = torch.exp(-t.square() / 2)
    expected = 500 * torch.trapezoid((1 - normal_phi).square() * normal_phi, t)
    assert score(0 * normal) == pytest.approx(float(expected), rel=0.01)


def test_barlow_twins_of_decorrelated_views_is_zero() -> None:
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert float(ssl.barlow_twins(signs, 2 * signs)) < 1e-8


def test_mixed_barlow_twins_is_zero_for_a_linear_encoder_of_whitened_mixes(generator: torch.Generator) -> None:
    # With alpha 1 the mix is the first view itself, and both targets are met.
    a, b = torch.randn(2, N, D, generator=generator)
    loss = ssl.mixed_barlow_twins(a, b, a, torch.randperm(N, generator=generator), alpha=1.0)
    assert float(loss) < 1e-8
    other = ssl.mixed_barlow_twins(a, b, a, torch.arange(N), alpha=1.0, second_target="auto")
    assert float(other) > 1e-3  # the ImageNet script's target is not the consistent one


def test_hard_negatives_are_unit_hard_and_without_gradient(generator: torch.Generator) -> None:
    query = torch.randn(N, D, generator=generator).requires_grad_()
    queue = F.normalize(torch.randn(40, D, generator=generator), dim=1)
    mixed = ssl.mix_hard_negatives(query, queue, hardest=4, pair_mixes=6, query_mixes=5, generator=generator)
    assert mixed.shape == (N, 11, D) and not mixed.requires_grad
    torch.testing.assert_close(mixed.norm(dim=2), torch.ones(N, 11))
    unit = F.normalize(query.detach(), dim=1)
    similarity = torch.einsum("nd,nsd->ns", unit, mixed)
    stored = (unit @ queue.T).sort(dim=1, descending=True).values
    # A mix of two hard negatives is at least as hard as the easier of the hardest four (they are
    # all on the same side), and a mix with the query is harder still.
    positive = stored[:, 3] > 0
    assert (similarity[positive, :6] >= stored[positive, 3:4] - 1e-5).all()
    assert (similarity[:, 6:] >= stored[:, 3:4] - 1e-5).all()


def test_patchify_order_and_inverse(generator: torch.Generator) -> None:
    images = torch.randn(2, 3, 4, 6, generator=generator)
    patches = ssl.patchify(images, 2)
    assert patches.shape == (2, 6, 12)
    torch.testing.assert_close(patches[1, 4], images[1, :, 2:4, 2:4].permute(1, 2, 0).flatten())
    assert torch.equal(ssl.unpatchify(patches, 2, 4, 6), images)
    with pytest.raises(ValueError, match="multiples of 4"):
        ssl.patchify(images, 4)
    with pytest.raises(ValueError, match="has 4 patches"):
        ssl.unpatchify(patches, 2, 4, 4)


def test_masked_losses_look_at_masked_cells_only(generator: torch.Generator) -> None:
    prediction, target = torch.randn(2, 3, 5, 4, generator=generator)
    mask = torch.zeros(3, 5, dtype=torch.bool)
    mask[0, :2] = mask[2, 1] = True
    expected = (prediction - target)[mask].abs().mean()
    prediction[~mask] = float("nan")
    torch.testing.assert_close(ssl.masked_l1(prediction, target, mask), expected)
    cells = mask[..., None].expand(-1, -1, 4)
    torch.testing.assert_close(ssl.masked_l1(prediction, target, cells), expected)


def test_code_prediction_is_ordinary_cross_entropy(generator: torch.Generator) -> None:
    head = ssl.CodePredictionHead(D, codebooks=2, codes=7, dim=4)
    states = torch.randn(N, D, generator=generator)
    logits = head(states)
    assert logits.shape == (N, 2, 7) and float(logits.detach().abs().max()) <= 10 + 1e-4  # cosine over 0.1
    targets = torch.randint(7, (N, 2), generator=generator)
    expected = sum(F.cross_entropy(logits[:, k], targets[:, k]) for k in range(2))
    torch.testing.assert_close(ssl.code_prediction(logits, targets), expected)
