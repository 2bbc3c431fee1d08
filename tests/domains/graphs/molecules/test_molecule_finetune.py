from __future__ import annotations

from pathlib import Path

import hub
from domains.graphs.graphmae_mol.configuration import GraphMAEMolConfig
from domains.graphs.graphmae_mol.modeling import GraphMAEMolModel
from domains.graphs.molecules.finetune import preset
from domains.graphs.molecules.processing import MoleculeProcessor
from hub.domain import get_system
from hub.finetuning.options import FinetuneOptions
from hub.finetuning.run import finetune
from hub.publishing import card_metadata, save_checkpoint, write_card


def test_several_labels_with_gaps_are_learnt_from_a_manifest(tmp_path: Path) -> None:
    """Which of two elements a molecule has, each label unknown for every third molecule, scored by ROC-AUC."""
    smiles = [
        f"{'C' * (1 + i % 9)}{'(N)' if i % 2 else ''}C{'C(O)C' if i // 2 % 2 else 'CC'}{'C' * (i // 24)}"
        for i in range(96)
    ]
    (tmp_path / "set.smi").write_text("\n".join(smiles))
    rows = ["file,label,split,item"]
    for i, text in enumerate(smiles):
        known = [str(int("N" in text)), str(int("O" in text))]
        if i % 3 < 2:
            known[i % 3] = ""
        rows.append(f"set.smi,{';'.join(known)},{('train', 'train', 'valid', 'test')[i // 24]},line {i + 1}")
    (tmp_path / "set.csv").write_text("\n".join(rows))
    base = tmp_path / "base"
    model = GraphMAEMolModel(GraphMAEMolConfig(hidden_size=24, num_hidden_layers=2))
    save_checkpoint(base, model, MoleculeProcessor())
    write_card(base, card_metadata(get_system("graphmae_mol"), license="mit"), "# base\n\nFor tests.")
    options = FinetuneOptions.for_mode(
        "multilabel", "full", preset(), labels=("nitrogen", "oxygen"), epochs=20, patience=20, batch_size=8
    )
    outcome = finetune(base, tmp_path / "set.csv", tmp_path / "tuned", options)
    assert outcome.test["labels_scored"] == 2 and outcome.test["macro_auc"] > 0.95
    answers = hub.from_pretrained(tmp_path / "tuned").run("classify", ["CCCCC(N)CCC", "CCCCCCC(O)C"])
    assert answers[0]["scores"]["nitrogen"] > answers[1]["scores"]["nitrogen"]
    assert answers[0]["scores"]["oxygen"] < answers[1]["scores"]["oxygen"]
