"""Molecules as graphs of small integers, in the vocabulary of pretrain-gnns (Hu et al., ICLR 2020, appendix C).

An atom is (atomic number - 1, chirality), a bond (type, direction). Every system of this family shares the tables that
these numbers index, so a molecule that holds anything else has no embedding, and is refused by naming the atom or bond.
"""

from __future__ import annotations

import torch
from rdkit import Chem
from rdkit.Chem.rdchem import BondDir, BondType, ChiralType
from torch import Tensor
from torch_geometric.data import Data

from hub.errors import InvalidInput

ELEMENTS = 118
CHIRALITIES = {
    ChiralType.CHI_UNSPECIFIED: 0,
    ChiralType.CHI_TETRAHEDRAL_CW: 1,
    ChiralType.CHI_TETRAHEDRAL_CCW: 2,
}
"""The published list has a fourth entry, "other", but the published tables have three rows."""
BOND_TYPES = {BondType.SINGLE: 0, BondType.DOUBLE: 1, BondType.TRIPLE: 2, BondType.AROMATIC: 3}
BOND_DIRECTIONS = {BondDir.NONE: 0, BondDir.ENDUPRIGHT: 1, BondDir.ENDDOWNRIGHT: 2}
_DRAWING_ONLY = (BondDir.BEGINWEDGE, BondDir.BEGINDASH, BondDir.EITHERDOUBLE, BondDir.UNKNOWN)


def featurise(molecule: Chem.Mol, smiles: str) -> Data:
    """Return a molecule's graph.

    Atoms stay in RDKit's order, hydrogens implicit; fragments stay side by side. Each bond is two consecutive directed
    edges with equal attributes. The wedges of a drawn structure say the same as its chiral atoms, and count as none.

    Args:
        molecule: Sanitised.
        smiles: What it was read from, or a SMILES of it; kept as ``smiles``.

    Returns:
        ``x`` int64 ``(atoms, 2)``, ``edge_index`` int64 ``(2, 2 * bonds)``, ``edge_attr`` int64 ``(2 * bonds, 2)``.

    Raises:
        InvalidInput: It has no atom, or an atom or bond that is not in the vocabulary.
    """
    if molecule.GetNumAtoms() == 0:
        raise InvalidInput("the molecule has no atoms", code="empty_molecule")
    # Flat lists: torch turns nested ones to tensors several times slower.
    atoms: list[int] = []
    for atom in molecule.GetAtoms():
        atoms += _atom(atom)
    ends: list[int] = []
    attributes: list[int] = []
    for bond in molecule.GetBonds():
        start, stop = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        ends += (start, stop, stop, start)
        attributes += 2 * _bond(bond)
    return Data(
        x=_pairs(atoms),
        edge_index=_pairs(ends).t().contiguous(),
        edge_attr=_pairs(attributes),
        smiles=smiles,
    )


def _pairs(values: list[int]) -> Tensor:
    """Return ``(n, 2)`` int64, also for no pair at all."""
    return torch.tensor(values, dtype=torch.long).view(-1, 2)


def _atom(atom: Chem.Atom) -> tuple[int, int]:
    number = atom.GetAtomicNum()
    if not 1 <= number <= ELEMENTS:
        raise InvalidInput(
            f"atom {atom.GetIdx() + 1} ({atom.GetSymbol()}) is no element: dummy atoms and wildcards have no embedding",
            code="unknown_atom",
        )
    chirality = CHIRALITIES.get(atom.GetChiralTag())
    if chirality is None:
        raise InvalidInput(
            f"atom {atom.GetIdx() + 1} ({atom.GetSymbol()}) has the stereochemistry {atom.GetChiralTag().name}; only "
            "tetrahedral centres are known (@ and @@ in a SMILES)",
            code="unknown_chirality",
        )
    return number - 1, chirality


def _bond(bond: Chem.Bond) -> tuple[int, int]:
    kind = BOND_TYPES.get(bond.GetBondType())
    direction = BOND_DIRECTIONS.get(bond.GetBondDir())
    if kind is None:
        raise InvalidInput(
            f"{_place(bond)} is of type {bond.GetBondType().name.lower()}; single, double, triple and aromatic bonds "
            "are known",
            code="unknown_bond",
        )
    if direction is None and bond.GetBondDir() not in _DRAWING_ONLY:
        raise InvalidInput(f"{_place(bond)} has the unknown direction {bond.GetBondDir().name}", code="unknown_bond")
    return kind, direction or 0


def _place(bond: Chem.Bond) -> str:
    return f"the bond between atoms {bond.GetBeginAtomIdx() + 1} and {bond.GetEndAtomIdx() + 1}"
