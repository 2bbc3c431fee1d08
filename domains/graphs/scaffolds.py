"""Splits of molecules by their scaffold: what is tested has another skeleton than what was learnt from."""

from __future__ import annotations

from collections.abc import Sequence

from rdkit import Chem
from rdkit.Chem.Scaffolds import MurckoScaffold

from hub.errors import InvalidInput

PARTS = ("train", "valid", "test")


def scaffold(smiles: str) -> str:
    """Return the Bemis-Murcko scaffold as a SMILES with chirality: rings and what links them; empty without rings.

    Raises:
        InvalidInput: This is no molecule.
    """
    molecule = Chem.MolFromSmiles(smiles)
    if molecule is None:
        raise InvalidInput("this is no SMILES that RDKit can read", code="invalid_smiles")
    return MurckoScaffold.MurckoScaffoldSmiles(mol=molecule, includeChirality=True)


def scaffold_split(scaffolds: Sequence[str], train_share: float = 0.8, valid_share: float = 0.1) -> list[str]:
    """Split a set deterministically, whole scaffolds at a time (MoleculeNet; Hu et al., ICLR 2020, section 5.1).

    Groups come largest first, of equal ones that with the later first molecule; each goes to the train part while it
    fits, then to the valid part, else to the test part. All molecules without rings are one group.

    Args:
        scaffolds: Of each molecule, in the order of the file.
        train_share: Share of the molecules to learn from.
        valid_share: Share to choose by.

    Returns:
        ``train``, ``valid`` or ``test`` for each molecule.
    """
    groups: dict[str, list[int]] = {}
    for number, name in enumerate(scaffolds):
        groups.setdefault(name, []).append(number)
    most_train = train_share * len(scaffolds)
    most_known = (train_share + valid_share) * len(scaffolds)
    parts = ["test"] * len(scaffolds)
    sizes = dict.fromkeys(PARTS, 0)
    for members in sorted(groups.values(), key=lambda group: (len(group), group[0]), reverse=True):
        if sizes["train"] + len(members) <= most_train:
            part = "train"
        elif sizes["train"] + sizes["valid"] + len(members) <= most_known:
            part = "valid"
        else:
            part = "test"
        sizes[part] += len(members)
        for number in members:
            parts[number] = part
    return parts
