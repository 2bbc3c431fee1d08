"""Known molecules to set others beside: medicines, building blocks of life, scents, solvents."""

from __future__ import annotations

from domains.graphs.samples import AMINO_ACIDS, DRUGS, SOLVENTS
from hub.reading import Source

MORE_DRUGS = {
    "naproxen": "COc1ccc2cc(ccc2c1)[C@H](C)C(=O)O",
    "salicylic acid": "OC(=O)c1ccccc1O",
    "theobromine": "Cn1cnc2c1c(=O)[nH]c(=O)n2C",
    "diazepam": "CN1C(=O)CN=C(c2ccccc2)c2cc(Cl)ccc12",
    "penicillin G": "CC1(C)S[C@@H]2[C@H](NC(=O)Cc3ccccc3)C(=O)N2[C@H]1C(=O)O",
    "morphine": "CN1CC[C@]23c4c5ccc(O)c4O[C@H]2[C@@H](O)C=C[C@H]3[C@H]1C5",
}
OF_LIFE = {
    "glucose": "OC[C@H]1OC(O)[C@H](O)[C@@H](O)[C@@H]1O",
    "alanine": "C[C@H](N)C(=O)O",
    "phenylalanine": "N[C@@H](Cc1ccccc1)C(=O)O",
    "adenine": "Nc1ncnc2[nH]cnc12",
    "thymine": "Cc1c[nH]c(=O)[nH]c1=O",
    "citric acid": "OC(=O)CC(O)(CC(=O)O)C(=O)O",
    "ascorbic acid": "OC[C@H](O)[C@H]1OC(=O)C(O)=C1O",
    "palmitic acid": "CCCCCCCCCCCCCCCC(=O)O",
    "cholesterol": "C[C@H](CCCC(C)C)[C@H]1CC[C@H]2[C@@H]3CC=C4C[C@@H](O)CC[C@]4(C)[C@H]3CC[C@]12C",
    "testosterone": "C[C@]12CC[C@H]3[C@@H](CCC4=CC(=O)CC[C@]34C)[C@@H]1CC[C@@H]2O",
    "dopamine": "NCCc1ccc(O)c(O)c1",
    "serotonin": "NCCc1c[nH]c2ccc(O)cc12",
}
SCENTS = {
    "vanillin": "COc1cc(C=O)ccc1O",
    "limonene": "CC(=C)[C@@H]1CCC(C)=CC1",
    "menthol": "CC(C)[C@@H]1CC[C@@H](C)C[C@H]1O",
}
MORE_SOLVENTS = {"ethanol": "CCO", "benzene": "c1ccccc1", "acetone": "CC(C)=O", "chloroform": "ClC(Cl)Cl"}


def examples() -> list[Source]:
    """Return SMILES files of one molecule each, named after it."""
    groups = (DRUGS, MORE_DRUGS, AMINO_ACIDS, OF_LIFE, SCENTS, SOLVENTS, MORE_SOLVENTS)
    every = {name: smiles for group in groups for name, smiles in group.items()}
    return [
        Source.from_bytes(f"{smiles} {name}\n".encode(), f"{name.replace(' ', '-')}.smi")
        for name, smiles in every.items()
    ]
