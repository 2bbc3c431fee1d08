"""Fine-tuning inside one graph, and on whole graphs through the common command."""

from __future__ import annotations

from pathlib import Path

import networkx
import numpy as np
import pytest
import torch

import hub
from domains.graphs.corpora import write_manifest
from domains.graphs.samples import write_graphs
from domains.graphs.transductive import Schedule, classify_nodes, predict_links
from hub.domain import get_system
from hub.errors import InvalidInput, UnsupportedOption
from hub.finetuning.run import finetune
from hub.publishing import card_metadata, save_checkpoint, write_card

WIDTH = 6


def checkpoint(folder: Path, **model: object) -> Path:
    """An encoder with random weights: what is tested is that heads learn on top of it."""
    torch.manual_seed(0)
    system = get_system("graphmae")
    sizes = {"input_dim": WIDTH, "hidden_size": 32, "num_attention_heads": 4, **model}
    task = system.load("pretraining")(system.load("configuration")(**sizes))
    save_checkpoint(folder, task, system.load("processor")(int(sizes["input_dim"])))
    write_card(folder, card_metadata(system, license="mit"), "# random\n\nRandom weights, for tests.")
    return folder


@pytest.fixture
def groups(tmp_path: Path) -> Path:
    """Three groups of 30 nodes; which one a node belongs to shows in its links more than in its features."""
    graph = networkx.planted_partition_graph(3, 30, 0.3, 0.01, seed=1)
    random = np.random.default_rng(0)
    y = np.repeat(np.arange(3), 30)
    x = np.eye(WIDTH)[y] + random.normal(0, 1.5, (90, WIDTH))
    part = random.permutation(90)
    masks = {
        name: np.isin(np.arange(90), part[i * 30 : (i + 1) * 30]) for i, name in enumerate(("train", "val", "test"))
    }
    path = tmp_path / "groups.npz"
    np.savez(path, edge_index=np.array(graph.edges).T, x=x, y=y + 5, **{f"{n}_mask": m for n, m in masks.items()})
    return path


@pytest.mark.parametrize("mode", ["frozen", "full"])
def test_nodes_are_classified_and_served(tmp_path: Path, groups: Path, mode: str) -> None:
    model = checkpoint(tmp_path / "encoder")
    results = classify_nodes(model, groups, tmp_path / "out", Schedule(mode, epochs=100))
    assert results["test"] > 0.7, results  # a third by chance
    embedder = hub.from_pretrained(tmp_path / "out")
    (answer,) = embedder.run("label_tokens", [groups])
    graph = next(iter(embedder.read(groups))).data
    right = np.array(answer["labels"]) == graph.y.numpy().astype(str)
    assert right[graph.test_mask.numpy()].mean() == pytest.approx(results["test"])
    assert set(answer["labels"]) <= {"5", "6", "7"}


def test_links_are_predicted(tmp_path: Path, groups: Path) -> None:
    model = checkpoint(tmp_path / "encoder")
    results = predict_links(model, groups, Schedule("full", epochs=60))
    assert results["auc"] > 0.7, results
    again = predict_links(model, groups, Schedule("full", epochs=60))
    assert again == pytest.approx(results, abs=1e-6)


def test_what_cannot_be_learnt_is_said(tmp_path: Path, groups: Path) -> None:
    model = checkpoint(tmp_path / "encoder", input_dim=3)
    archive, plain, *_ = write_graphs(tmp_path)
    with pytest.raises(InvalidInput, match="no node labels"):
        classify_nodes(model, plain, tmp_path / "out", Schedule())
    with pytest.raises(InvalidInput, match="12 graphs; one is needed"):
        predict_links(model, archive, Schedule())
    with pytest.raises(InvalidInput, match="6 features a node; this model reads 3"):
        predict_links(model, groups, Schedule())
    with pytest.raises(UnsupportedOption, match="lora"):
        Schedule("lora")


def test_whole_graphs_are_classified_by_the_common_command(tmp_path: Path) -> None:
    archive = write_graphs(tmp_path, graphs=60)[0]
    write_manifest(archive, tmp_path / "shapes.csv")
    model = checkpoint(tmp_path / "encoder", input_dim=3, encoder="gin", norm="layernorm", feature_dropout=0.0)
    options = {
        "task": "classification",
        "mode": "full",
        "epochs": 30,
        "patience": 30,
        "batch_size": 8,
        "learning_rate": 3e-3,
    }
    outcome = finetune(model, tmp_path / "shapes.csv", tmp_path / "out", options)
    assert outcome.test["balanced_accuracy"] > 0.8  # rings with chords against trees
    (answer,) = hub.from_pretrained(tmp_path / "out").run("classify", [tmp_path / "shape.json"])
    assert answer["label"] in ("0", "1")
