from __future__ import annotations

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

from domains.graphs.dsla.collation import DslaCollator
from domains.graphs.dsla.configuration import DslaConfig
from domains.graphs.dsla.losses import edit_distance, graph_discrimination, margin_loss
from domains.graphs.dsla.perturbation import BondPerturbation, LinkPerturbation
from domains.graphs.dsla.pretraining import DslaForPreTraining
from domains.graphs.dsla.processing import DslaProcessor
from domains.graphs.graphmae_mol.configuration import GraphMAEMolConfig
from domains.graphs.graphmae_mol.pretraining import GraphMAEMolForPreTraining
from domains.graphs.molecules.masking import AtomMaskingCollator
from domains.graphs.molecules.processing import Graph, MoleculeProcessor
from domains.graphs.molecules.reading import parse_smiles
from hub.errors import InvalidRecipe
from hub.reading import Sample
from hub.training.collation import Randomness, seeded_generator

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"


class Limits:
    max_nodes = 200


def sample(smiles: str) -> Sample:
    return parse_smiles(smiles, Limits())


def graph(smiles: str) -> Graph:
    return MoleculeProcessor().prepare(sample(smiles))


def undirected(candidate: Graph) -> set[tuple[int, int]]:
    return {(min(a, b), max(a, b)) for a, b in candidate.edges.tolist()}


def test_a_quarter_of_the_atoms_and_one_are_hidden() -> None:
    config = GraphMAEMolConfig(hidden_size=8, num_hidden_layers=1)
    collator = AtomMaskingCollator(MoleculeProcessor(), config)
    smiles = [ASPIRIN, "C", "CCCCCCC"]
    views = [collator.view(sample(s), seeded_generator(i)) for i, s in enumerate(smiles)]
    batch = collator.collate(views, Randomness.seeded(3))
    hidden = batch["labels"] != -100
    assert [int(h.sum()) for h in hidden.split([13, 1, 7])] == [4, 1, 2]  # int(n / 4 + 1)
    clean = torch.cat([v.x for v in views])
    assert (batch["x"][hidden] == torch.tensor([119, 0])).all()
    assert torch.equal(batch["x"][~hidden], clean[~hidden])
    assert torch.equal(batch["labels"][hidden], clean[hidden, 0])


def test_graphmae_restores_hidden_atoms_from_their_neighbours_alone() -> None:
    """What the encoder says at a hidden atom is set to zero before decoding, so it has no gradient of its own there."""
    torch.manual_seed(0)
    config = GraphMAEMolConfig(hidden_size=8, num_hidden_layers=2)
    model = GraphMAEMolForPreTraining(config)
    one = graph(ASPIRIN)
    neighbourhood = model.gnn.neighbourhood(one.edges, one.edge_attr, len(one.x))
    states = torch.randn(len(one.x), 8, requires_grad=True)
    hidden = torch.zeros(len(one.x), dtype=torch.bool)
    hidden[[2, 5]] = True
    model.decoder(states, hidden, neighbourhood)[hidden].sum().backward()
    assert states.grad is not None
    assert not states.grad[hidden].any() and states.grad[[1, 4]].any(1).all()


def perturbation(**changes: object) -> BondPerturbation:
    settings = {"copies": 3, "strong": True, "mask": 0.8, "share": 0.2, "hops": 3} | changes
    return BondPerturbation(DslaConfig(), **settings)  # type: ignore[arg-type]


def test_candidates_differ_from_the_original_by_their_edit_distance() -> None:
    original = graph("CC(C)Cc1ccc(cc1)C(C)C(=O)O")
    for seed in range(20):
        found = perturbation().candidates(original, seeded_generator(seed))
        assert len(found) == 5 and found[0].distance == 0
        assert torch.equal(found[0].graph.edges, original.edges)
        before = undirected(original)
        for candidate in found[1:]:
            after = undirected(candidate.graph)
            # As many added as removed; one that was removed may have come back.
            assert len(after) == len(before) and len(before - after) <= candidate.distance
            pairs, attributes = candidate.graph.edges, candidate.graph.edge_attr
            assert attributes is not None
            assert torch.equal(pairs[::2], pairs[1::2].flip(1)) and torch.equal(attributes[::2], attributes[1::2])
            assert (pairs[:, 0] != pairs[:, 1]).all()
        strong = found[-1]
        assert strong.distance == int(15 * 0.2 * 4)
        assert int((strong.graph.x[:, 0] == 119).sum()) == int(0.8 * 15)


def test_only_the_neighbourhood_of_an_atom_is_perturbed() -> None:
    """In a chain, three hops reach seven atoms; nothing else is masked or loses a bond."""
    chain = graph("C" * 40)
    for seed in range(10):
        for candidate in perturbation(strong=False).candidates(chain, seeded_generator(seed)):
            changed = undirected(chain) ^ undirected(candidate.graph)
            touched = {node for bond in changed for node in bond} | set(
                (candidate.graph.x[:, 0] == 119).nonzero()[:, 0].tolist()
            )
            assert max(touched) - min(touched) <= 6


@pytest.mark.parametrize("smiles", ["CC", "C1CC1", "C12C3C1C23", "[Na+].CC(=O)[O-]", "O.O.CC", "C#N"])
def test_tiny_molecules_and_cliques_can_be_perturbed(smiles: str) -> None:
    for seed in range(20):
        for share in (0.2, 1.0):  # at 1.0 every strength asks for more bonds than there are
            for candidate in perturbation(share=share).candidates(graph(smiles), seeded_generator(seed))[1:]:
                assert 1 <= candidate.distance <= len(undirected(graph(smiles)))


def test_molecules_without_a_bond_are_left_out() -> None:
    collator = DslaCollator(DslaProcessor(), DslaConfig())
    assert [collator.cost(sample(s)) for s in ("C", "[Na+].[Cl-]", "CC")] == [0, 0, 10]


def test_links_are_exchanged_one_direction_at_a_time() -> None:
    ring = torch.tensor([[i, (i + d) % 8] for i in range(8) for d in (1, 7)])
    social = LinkPerturbation(DslaConfig(node_types=9, edge_types=0, edge_tags=0), copies=3, mask=0.25, share=0.1)
    whole = Graph(torch.full((8, 1), 2), ring, None)
    found = social.candidates(whole, seeded_generator(0))
    assert [c.distance for c in found] == [0, 2, 4, 6]
    for candidate in found:
        edges = {tuple(e) for e in candidate.graph.edges.tolist()}
        assert len(edges) == 16 and 2 * len(edges - {tuple(e) for e in ring.tolist()}) == candidate.distance
        assert int((candidate.graph.x == 8).sum()) == 2
    clique = torch.tensor([[a, b] for a in range(4) for b in range(4) if a != b])
    assert social.usable(whole) and not social.usable(Graph(torch.zeros(4, 1, dtype=torch.long), clique, None))


def test_edit_distance_is_zero_when_distances_are_in_proportion() -> None:
    distances = torch.tensor([[0, 1, 2, 4]])
    direction = torch.tensor([3.0, 4.0])
    in_proportion = (distances[..., None] * direction).double()
    assert edit_distance(in_proportion, distances) == 0
    # By hand: ratios 1 and 2 differ by 1.
    assert edit_distance(torch.tensor([[[0.0], [1.0], [4.0]]]), torch.tensor([[0, 1, 2]])) == 1


def test_margin_by_hand() -> None:
    graphs = torch.tensor([[[0.0], [1.0]], [[3.0], [5.0]]])  # originals 3 apart, copies 1 and 2 away
    assert margin_loss(graphs, 1.0) == 0
    assert margin_loss(graphs, 2.0) == pytest.approx((0 + 1) / 2)
    assert margin_loss(graphs, 5.0) == pytest.approx((3 + 4) / 2)


def test_identical_candidates_and_single_graphs_give_finite_gradients() -> None:
    graphs = torch.ones(1, 3, 4, requires_grad=True)
    distances = torch.tensor([[0, 1, 2]])
    loss = edit_distance(graphs, distances) + margin_loss(graphs, 5.0) + graph_discrimination(graphs.sum(-1))
    loss.backward()
    assert torch.isfinite(loss) and graphs.grad is not None and torch.isfinite(graphs.grad).all()
    alike = torch.ones(2, 3, 4, requires_grad=True)
    margin_loss(alike, 5.0).backward()
    assert alike.grad is not None and torch.isfinite(alike.grad).all()


def test_dsla_learns_to_tell_the_original() -> None:
    torch.manual_seed(0)
    config = DslaConfig(hidden_size=32, num_hidden_layers=3)
    model = DslaForPreTraining(config)
    collator = DslaCollator(DslaProcessor(), config)
    smiles = [ASPIRIN, "CC(C)Cc1ccc(cc1)C(C)C(=O)O", "CN1C=NC2=C1C(=O)N(C(=O)N2C)C", "O=C(O)c1ccccc1O"] * 2
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    right = []
    for step in range(60):
        views = [collator.view(sample(s), seeded_generator(step, i)) for i, s in enumerate(smiles)]
        output = model(**collator.collate(views, Randomness.seeded(len(views), step)))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        right.append(float(output.metrics["accuracy"]))
    # Chance is 0.2.
    assert sum(right[-20:]) / 20 > 0.6


def test_settings_that_do_not_fit_are_refused() -> None:
    config = DslaConfig(gnn="gcn", node_types=12, node_tags=0, edge_types=0, edge_tags=0, strong=False)
    processor = DslaProcessor(node_features="degree", max_degree=10)
    DslaCollator(processor, config, hops=0)
    with pytest.raises(InvalidRecipe, match="hops 0"):
        DslaCollator(processor, config)
    with pytest.raises(InvalidRecipe, match="need 42"):
        DslaCollator(DslaProcessor(node_features="degree", max_degree=40), config, hops=0)
    with pytest.raises(InvalidRecipe, match="mask_share"):
        DslaCollator(DslaProcessor(), DslaConfig(), mask_share=1.5)
    with pytest.raises(InvalidRecipe, match="mask_rate"):
        AtomMaskingCollator(MoleculeProcessor(), GraphMAEMolConfig(), mask_rate=1.0)
    with pytest.raises(StrictDataclassError, match="at least two"):
        DslaConfig(perturbed=1, strong=False)
