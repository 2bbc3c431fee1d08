from __future__ import annotations

import pytest

from domains.graphs.molecules.processing import MoleculeProcessor
from domains.graphs.reading import GraphReader
from hub.doubts import codes_of


@pytest.mark.parametrize(
    ("value", "flags"),
    [
        ("CC(=O)Oc1ccccc1C(=O)O", ()),
        ("CC(=O)[O-].[Na+]", ("isolated", "unusual_content")),
        ("C", ("isolated",)),
        ("C[Hg]C", ("unusual_content",)),
        ("C" * 60, ("length_out_of_range",)),
    ],
    ids=["aspirin", "salt", "methane", "mercury", "wax"],
)
def test_flags_of_a_molecule(value: str, flags: tuple[str, ...]) -> None:
    (sample,) = GraphReader().parse(value)
    assert (*sample.flags, *codes_of(MoleculeProcessor().doubts(sample))) == flags


def test_flags_of_a_graph() -> None:
    one_way = {"edge_index": [[0, 1, 2], [1, 2, 0]], "x": [[1.0]] * 3}
    both_ways = {"edge_index": [[0, 1], [1, 0]], "x": [[1.0]] * 2}
    lonely = {"edge_index": [[0, 1], [1, 0]], "x": [[1.0]] * 9}
    for value, flags in ((one_way, ("one_direction",)), (both_ways, ()), (lonely, ("isolated",))):
        (sample,) = GraphReader().parse(value)
        assert sample.flags == flags
