from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest

from domains.graphs.molecules.corpora import SETS, canonical, write_all
from domains.graphs.scaffolds import scaffold, scaffold_split
from hub.errors import InvalidInput, InvalidManifest
from hub.finetuning.targets import Targets
from hub.manifest import read_manifest


def test_scaffolds_are_rings_and_linkers() -> None:
    assert scaffold("CC(=O)Oc1ccccc1C(=O)O") == "c1ccccc1"
    assert scaffold("CCO") == ""
    assert scaffold("OC1CCC(C1)Cc1ccccc1") == "c1ccc(CC2CCCC2)cc1"
    with pytest.raises(InvalidInput):
        scaffold("C1CC")


def test_whole_scaffolds_go_to_one_part_largest_first() -> None:
    #              0    1    2    3    4    5    6    7    8    9
    scaffolds = ["a", "b", "a", "a", "c", "b", "a", "a", "a", "d"]
    # a (6) and b (2) fill the train part; of the single ones the later comes first and fills the valid part.
    assert scaffold_split(scaffolds) == [*["train"] * 4, "test", *["train"] * 4, "valid"]
    # Of two groups of one size the later is learnt from; the other fits only the test part.
    assert scaffold_split(["a"] * 5 + ["b"] * 5) == ["test"] * 5 + ["train"] * 5


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_corpora_keep_held_out_molecules_from_pretraining(tmp_path: Path) -> None:
    smiles = ["c1ccccc1" + "C" * i for i in range(16)] + ["C1CCCC1", "C1CC1", "OCC1CC1", "bad", "C1CCNC1"]
    table = "".join(f"{i % 2},{s}\n" for i, s in enumerate(smiles))
    (tmp_path / "BBBP.csv").write_text("BBBP,smiles\n" + table)
    (tmp_path / "zinc.txt").write_text("CCO\nC1CCCC1\nCCN\nnonsense\n")
    write_all(tmp_path, tmp_path / "out", tmp_path / "zinc.txt")
    found = rows(tmp_path / "out" / "bbbp.csv")
    assert Counter(r["split"] for r in found) == {"train": 16, "valid": 2, "test": 2}
    assert len(read_manifest(tmp_path / "out" / "bbbp.csv", need=("file", "label", "split"))) == 20
    unlabelled = (tmp_path / "out" / "pretrain" / "molecules.smi").read_text().split()
    lines = (tmp_path / "out" / "bbbp.smi").read_text().split()
    held_out = {canonical(lines[int(r["item"].split()[1]) - 1]) for r in found if r["split"] != "train"}
    assert len(unlabelled) == len(set(unlabelled)) >= 18 and not held_out & {canonical(s) for s in unlabelled}
    with pytest.raises(InvalidManifest, match=r"sider\.csv: no such file"):
        write_all(tmp_path, tmp_path / "out", names=["sider"])


@pytest.mark.slow
def test_the_real_sets_have_the_published_split_sizes(shared_data: Path, tmp_path: Path) -> None:
    write_all(shared_data / "graphs" / "moleculenet", tmp_path)
    sizes = {"bbbp": (1631, 204, 204), "bace": (1210, 151, 152), "sider": (1141, 143, 143), "esol": (902, 113, 113)}
    for name, expected in sizes.items():
        manifest = read_manifest(tmp_path / f"{name}.csv", need=("file", "label", "group", "split"))
        counts = Counter(row.split for row in manifest)
        assert (counts["train"], counts["valid"], counts["test"]) == expected
        assert len(Targets.from_rows(manifest, SETS[name].task).labels) == (27 if name == "sider" else 1)
