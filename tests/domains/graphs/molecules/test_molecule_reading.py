from __future__ import annotations

import pytest
import torch
from rdkit import Chem
from rdkit.Chem import AllChem

from domains.graphs.molecules.reading import parse_smiles, read_csv, read_sdf, read_smiles
from hub.errors import InvalidInput, TooLarge, UnsupportedFormat
from hub.reading import Source


class Limits:
    max_nodes = 200


def smiles_file(text: str | bytes) -> Source:
    return Source.from_bytes(text.encode() if isinstance(text, str) else text, "a.smi")


def test_a_molecule_becomes_the_integers_of_the_published_vocabulary() -> None:
    # F/C=C/[C@H](N)O: a directed single bond, a double one, and a chiral centre, by hand.
    data = parse_smiles("F/C=C/[C@H](N)O", Limits()).data
    assert data.x[:, 0].tolist() == [8, 5, 5, 5, 6, 7]
    assert data.x[:, 1].tolist()[:3] == [0, 0, 0] and data.x[3, 1] in (1, 2)
    assert data.edge_index.t().tolist()[:4] == [[0, 1], [1, 0], [1, 2], [2, 1]]
    assert data.edge_attr.tolist()[:6] == [[0, 1], [0, 1], [1, 0], [1, 0], [0, 1], [0, 1]]
    mirrored = parse_smiles("F/C=C/[C@@H](N)O", Limits()).data
    assert {int(data.x[3, 1]), int(mirrored.x[3, 1])} == {1, 2}
    assert parse_smiles("c1ccccc1", Limits()).data.edge_attr[:, 0].unique().tolist() == [3]


def test_a_molecule_without_bonds_has_empty_edges() -> None:
    for smiles, atoms in (("C", 1), ("[Na+].[Cl-]", 2)):
        data = parse_smiles(smiles, Limits()).data
        assert data.x.shape == (atoms, 2) and data.edge_index.shape == (2, 0) and data.edge_attr.shape == (0, 2)
        assert data.edge_index.dtype == data.edge_attr.dtype == torch.long


@pytest.mark.parametrize(
    ("smiles", "named"),
    [
        ("C*C", r"atom 2 \(\*\)"),
        ("[NH3]->[Pt](Cl)Cl", "atoms 1 and 2 is of type dative"),
        ("C[Pt@SP1](F)(Cl)Br", r"atom 2 \(Pt\).*CHI_SQUAREPLANAR"),
        ("[Re]$[Re]", "is of type quadruple"),
        ("C(C)(C)(C)(C)C", "Explicit valence for atom 1 C, 5"),
        ("C1CC", "unclosed rings"),
        ("nonsense", "no SMILES"),
        ("c1cccc1", "aromatic atoms 1, 2, 3, 4, 5 cannot"),
        ("", "empty"),
        ("   ", "empty"),
    ],
)
def test_what_has_no_embedding_is_refused_by_name(smiles: str, named: str) -> None:
    with pytest.raises(InvalidInput, match=f"(?i){named}"):
        parse_smiles(smiles, Limits())


def test_limits() -> None:
    assert parse_smiles("C" * 200, Limits()).data.num_nodes == 200
    for smiles in ("C" * 201, "C" * 100_000):
        with pytest.raises(TooLarge, match="at most 200"):
            parse_smiles(smiles, Limits())
    with pytest.raises(TooLarge, match="line 2"):
        list(read_smiles(smiles_file("CCO\n" + "C" * 1_000_000), Limits()))


def test_a_bad_line_is_reported_by_number_and_the_rest_is_read() -> None:
    samples = list(
        read_smiles(smiles_file("smiles name\nC1CC ring\nCCO ethanol\n\nC*C\r\nCCN\tethyl amine\n"), Limits())
    )
    assert [s.key for s in samples] == ["ring", "ethanol", "line 5", "ethyl amine"]
    assert [s.error is None for s in samples] == [False, True, False, True]
    assert str(samples[0].error).startswith("a.smi: line 2: ") and samples[0].data is None
    assert str(samples[2].error).startswith("a.smi: line 5: atom 2")
    assert samples[1].data.smiles == "CCO"


def test_a_file_without_a_usable_molecule_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"line 1: .*none of the other 1"):
        list(read_smiles(smiles_file("C*C\nC1CC\n"), Limits()))
    with pytest.raises(InvalidInput, match="holds no molecule"):
        list(read_smiles(smiles_file("\n \n"), Limits()))
    with pytest.raises(UnsupportedFormat, match="no text"):
        list(read_smiles(smiles_file(bytes(range(256))), Limits()))


def test_csv_columns_are_found_by_name() -> None:
    table = Source.from_bytes('﻿Name,y,SMILES\nethanol,1,CCO\n"a, b",0,\nx,1,CCN,extra\n'.encode(), "t.csv")
    samples = list(read_csv(table, Limits()))
    assert [(s.key, s.error is None) for s in samples] == [("ethanol", True), ("a, b", False), ("x", True)]
    assert str(samples[1].error) == "t.csv: line 3: the SMILES is empty"
    with pytest.raises(InvalidInput, match="'molecule', 'label'"):
        list(read_csv(Source.from_bytes(b"molecule,label\nCCO,1\n"), Limits()))
    latin = list(read_csv(Source.from_bytes("smiles,name\nCCO,Äthanol\n".encode("latin-1")), Limits()))
    assert latin[0].key == "Äthanol"


def block(smiles: str) -> str:
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(molecule, randomSeed=1)
    return Chem.MolToMolBlock(Chem.RemoveHs(molecule))


def test_sdf_records_give_what_their_smiles_give() -> None:
    chosen = ["F/C=C/CCO", "F/C=C\\CCO", "C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O", "c1ccccc1O"]
    text = "".join(f"molecule {i}{block(s)}$$$$\n" for i, s in enumerate(chosen)) + "bad\n\n\nnothing\n$$$$\n"
    samples = list(read_sdf(Source.from_bytes(text.encode(), "x.sdf"), Limits()))
    assert [s.key for s in samples] == [*(f"molecule {i}" for i in range(5)), "bad"]
    assert str(samples[-1].error).startswith("x.sdf: record 6: ")
    for smiles, sample in zip(chosen, samples, strict=False):
        assert sample.data.smiles == Chem.CanonSmiles(smiles)
        # Stereochemistry travels: as many chiral atoms, and as many directed bonds.
        of_smiles = parse_smiles(smiles, Limits()).data
        assert sample.data.x[:, 1].count_nonzero() == of_smiles.x[:, 1].count_nonzero()
        assert sample.data.edge_attr[:, 1].count_nonzero() == of_smiles.edge_attr[:, 1].count_nonzero()


def test_wedges_of_a_drawing_count_as_no_direction() -> None:
    molecule = Chem.MolFromSmiles("C[C@H](N)C(=O)O")
    AllChem.Compute2DCoords(molecule)
    (sample,) = read_sdf(Source.from_bytes(Chem.MolToMolBlock(molecule).encode()), Limits())
    assert sample.data.x[:, 1].count_nonzero() == 1
    assert sample.data.edge_attr[:, 1].count_nonzero() == 0
