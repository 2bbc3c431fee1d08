"""MoleculeNet tables to manifests with the scaffold split, and a list of SMILES to pretrain on.

``python -m domains.graphs.molecules.corpora MOLECULENET OUT --unlabelled zinc.txt`` writes for each set
``OUT/<set>.smi`` and ``OUT/<set>.csv``, and ``OUT/pretrain/molecules.smi``: the unlabelled molecules and the train
parts, without any molecule of a valid or test part.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rdkit import Chem

from domains.graphs.molecules.reading import Limits, parse_smiles
from domains.graphs.scaffolds import scaffold, scaffold_split
from hub.errors import InvalidInput, InvalidManifest
from hub.finetuning.targets import SEPARATOR


@dataclass(frozen=True)
class LabelledSet:
    """A table of MoleculeNet.

    Attributes:
        file: Its name.
        smiles: Column of the SMILES.
        labels: Columns of the labels, or the prefix of numbered ones.
        task: Of `hub.finetuning`.
    """

    file: str
    smiles: str
    labels: str
    task: str


SETS = {
    "bbbp": LabelledSet("BBBP.csv", "smiles", "BBBP", "multilabel"),
    "bace": LabelledSet("bace.csv", "mol", "Class", "multilabel"),
    "sider": LabelledSet("sider.csv", "smiles", "SIDER", "multilabel"),
    "esol": LabelledSet("delaney-processed.csv", "smiles", "measured log solubility in mols per litre", "regression"),
}
"""Classes are yes or no and scored by ROC-AUC, which is what a multi-label task of one label is."""


@dataclass(frozen=True)
class Molecule:
    """A molecule with its labels, one cell a task, empty where not known."""

    smiles: str
    labels: tuple[str, ...]


class _Largest:
    max_nodes = 1_000


def read_set(name: str, folder: Path) -> list[Molecule]:
    """Return the molecules of a set that can be embedded, in the order of the file.

    Raises:
        InvalidManifest: The table is not there or lacks a column.
    """
    known = SETS[name]
    path = folder / known.file
    if not path.is_file():
        raise InvalidManifest(f"{path}: no such file; {name} is read from MoleculeNet's {known.file}")
    with path.open(newline="", encoding="utf-8-sig") as stream:
        rows = list(csv.DictReader(stream))
    columns = [c for c in rows[0] if c == known.labels or c.removeprefix(known.labels).isdigit()]
    if not columns or known.smiles not in rows[0]:
        raise InvalidManifest(f"{path} lacks the column {known.smiles!r} or {known.labels!r}")
    found = [Molecule(row[known.smiles].strip(), tuple(row[c].strip() for c in columns)) for row in rows]
    return [molecule for molecule in found if _usable(molecule.smiles, _Largest())]


def write_set(name: str, molecules: Sequence[Molecule], output: Path) -> list[str]:
    """Write ``<name>.smi`` and ``<name>.csv``, the manifest with the scaffold split; return each molecule's part."""
    scaffolds = [scaffold(m.smiles) for m in molecules]
    parts = scaffold_split(scaffolds)
    (output / f"{name}.smi").write_text("".join(f"{m.smiles}\n" for m in molecules), encoding="utf-8")
    with (output / f"{name}.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("file", "label", "group", "split", "item"))
        for number, (molecule, group, part) in enumerate(zip(molecules, scaffolds, parts, strict=True), start=1):
            label = SEPARATOR.join(molecule.labels)
            writer.writerow((f"{name}.smi", label, group or "no ring", part, f"line {number}"))
    return parts


def canonical(smiles: str) -> str:
    """Return the SMILES by which a molecule is known to be another's equal."""
    return Chem.MolToSmiles(Chem.MolFromSmiles(smiles))


def _usable(smiles: str, limits: Limits) -> bool:
    try:
        parse_smiles(smiles, limits)
    except InvalidInput:
        return False
    return True


def write_all(moleculenet: Path, output: Path, unlabelled: Path | None = None, names: Sequence[str] = ()) -> None:
    """Write the manifests of some sets (all that are there, unless named) and the list to pretrain on."""
    output.mkdir(parents=True, exist_ok=True)
    (output / "pretrain").mkdir(exist_ok=True)
    names = names or [name for name, known in SETS.items() if (moleculenet / known.file).is_file()]
    seen: dict[str, str] = {}
    held_out: set[str] = set()
    for name in names:
        molecules = read_set(name, moleculenet)
        for molecule, part in zip(molecules, write_set(name, molecules, output), strict=True):
            same = canonical(molecule.smiles)
            if part == "train":
                seen.setdefault(same, molecule.smiles)
            else:
                held_out.add(same)
    if unlabelled is not None:
        for line in unlabelled.read_text(encoding="utf-8").splitlines():
            if line.strip() and _usable(line, _Largest()):
                seen.setdefault(canonical(line), line.strip())
    kept = [smiles for same, smiles in seen.items() if same not in held_out]
    (output / "pretrain" / "molecules.smi").write_text("".join(f"{s}\n" for s in kept), encoding="utf-8")


def main(
    moleculenet: Annotated[
        Path, typer.Argument(help="Folder of BBBP.csv, bace.csv, sider.csv, delaney-processed.csv.")
    ],
    output: Annotated[Path, typer.Argument(help="Folder to write to.")],
    unlabelled: Annotated[
        Path | None, typer.Option(help="Text file of SMILES, one a line, to pretrain on too.")
    ] = None,
) -> None:
    """Write manifests with the scaffold split, and a list of molecules to pretrain on."""
    write_all(moleculenet, output, unlabelled)


if __name__ == "__main__":
    typer.run(main)
