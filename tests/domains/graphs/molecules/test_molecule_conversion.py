from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import hub
from domains.graphs.molecules.configuration import LAYERS, ChemGNNConfig
from domains.graphs.molecules.modeling import ChemGNN
from hub.conversion import convert_checkpoint
from hub.errors import InvalidCheckpoint, UnsupportedOption

SMILES = ["CC(=O)Oc1ccccc1C(=O)O", "F/C=C/CCO", "C"]


def encoder(gnn: str = "gin", **sizes: Any) -> ChemGNN:
    torch.manual_seed(3)
    return ChemGNN(ChemGNNConfig(gnn=gnn, hidden_size=10, num_hidden_layers=2, **sizes))


def published(folder: Path, tensors: dict[str, Tensor], name: str = "model.pth") -> Path:
    file = folder / name
    save_file(tensors, file) if file.suffix == ".safetensors" else torch.save(tensors, file)
    return file


def embeddings(folder: Path) -> np.ndarray:
    return np.asarray(hub.from_pretrained(folder).embed(SMILES).vectors)


@pytest.mark.parametrize("gnn", LAYERS)
def test_every_kind_is_told_from_the_tensors(gnn: str, tmp_path: Path) -> None:
    sizes = {"edge_types": 5, "node_types": 119} if gnn == "molclr_gcn" else {}
    model = encoder(gnn, **sizes)
    file = published(tmp_path, model.state_dict(), f"{gnn}_masking.pth")
    card = convert_checkpoint("pretrain_gnns", file, tmp_path / "out", license="mit")
    loaded = hub.from_pretrained(tmp_path / "out")
    assert loaded.model.config.gnn == gnn and loaded.model.config.node_types == model.config.node_types
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    assert card.metadata["fmhub"]["converted_from"]["file"] == file.name
    assert np.isfinite(embeddings(tmp_path / "out")).all()


def test_heads_are_left_out_and_prefixes_removed(tmp_path: Path) -> None:
    model = encoder()
    tuned = {f"gnn.{name}": tensor for name, tensor in model.state_dict().items()}
    tuned |= {"graph_pred_linear.weight": torch.zeros(1, 10), "graph_pred_linear.bias": torch.zeros(1)}
    file = published(tmp_path, tuned)
    convert_checkpoint("graphmae_mol", file, tmp_path / "tuned")
    convert_checkpoint("graphmae_mol", published(tmp_path, model.state_dict(), "b.safetensors"), tmp_path / "plain")
    np.testing.assert_array_equal(embeddings(tmp_path / "tuned"), embeddings(tmp_path / "plain"))
    assert "graph_pred_linear.bias" in (tmp_path / "tuned" / "README.md").read_text()


def test_gcn_and_graphsage_are_asked_for_when_nothing_tells(tmp_path: Path) -> None:
    tensors = encoder("graphsage").state_dict()
    unnamed = published(tmp_path, tensors, "masking.pth")
    with pytest.raises(InvalidCheckpoint, match="--option gnn=gcn"):
        convert_checkpoint("pretrain_gnns", unnamed, tmp_path / "a")
    convert_checkpoint("pretrain_gnns", unnamed, tmp_path / "b", options={"gnn": "graphsage"})
    convert_checkpoint("pretrain_gnns", published(tmp_path, tensors, "graphsage_x.pth"), tmp_path / "c")
    convert_checkpoint("pretrain_gnns", unnamed, tmp_path / "d", options={"gnn": "gcn"})
    np.testing.assert_array_equal(embeddings(tmp_path / "b"), embeddings(tmp_path / "c"))
    assert np.abs(embeddings(tmp_path / "b") - embeddings(tmp_path / "d")).max() > 1e-3
    with pytest.raises(UnsupportedOption, match="those of gcn or graphsage"):
        convert_checkpoint("pretrain_gnns", unnamed, tmp_path / "e", options={"gnn": "gin"})
    with pytest.raises(UnsupportedOption, match="are of kind gin"):
        gin = published(tmp_path, encoder().state_dict(), "gin.pth")
        convert_checkpoint("pretrain_gnns", gin, tmp_path / "f", options={"gnn": "gcn"})


def test_dsla_of_social_graphs_is_known_by_its_only_node_table(tmp_path: Path) -> None:
    social = encoder("gcn", node_types=9, node_tags=0, edge_types=0, edge_tags=0).state_dict()
    social["x_embedding.weight"] = social.pop("x_embedding1.weight")
    convert_checkpoint("dsla", published(tmp_path, social, "gcn.pth"), tmp_path / "social")
    loaded = hub.from_pretrained(tmp_path / "social")
    assert loaded.processor.node_features == "degree" and loaded.processor.max_degree == 7
    star = {"edge_index": [[0, 0, 0], [1, 2, 3]], "x": [[1.0]] * 4}
    assert np.isfinite(np.asarray(loaded.embed(star).vectors)).all()
    convert_checkpoint("dsla", published(tmp_path, encoder().state_dict()), tmp_path / "molecules")
    assert hub.from_pretrained(tmp_path / "molecules").processor.node_features == "atoms"


class _Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("run",))


def test_wrong_files_are_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = encoder().state_dict()
    torch.save({**tensors, "x": _Runs()}, tmp_path / "runs.pth")
    (tmp_path / "noise.pth").write_bytes(bytes(range(256)) * 8)
    (tmp_path / "noise.safetensors").write_bytes(bytes(range(256)) * 8)
    torch.save({"step": 3, "model": tensors}, tmp_path / "nested.pth")
    torch.save({"conv1.weight": torch.zeros(3, 3)}, tmp_path / "other.pth")
    torch.save({k: v for k, v in tensors.items() if "gnns.1.mlp.0" not in k}, tmp_path / "lacks.pth")
    torch.save({**tensors, "gnns.0.mlp.2.bias": torch.zeros(4)}, tmp_path / "shape.pth")
    for name, reason in {
        "runs.pth": "asks for",
        "noise.pth": "refused|no checkpoint",
        "noise.safetensors": "no checkpoint",
        "nested.pth": "a dictionary of tensors was expected",
        "other.pth": "Unexpected: conv1.weight",
        "lacks.pth": r"Missing: gnns.1.mlp.0.bias, gnns.1.mlp.0.weight. Unexpected: none",
        "shape.pth": "Of another shape: gnns.0.mlp.2.bias",
    }.items():
        with pytest.raises(InvalidCheckpoint, match=reason) as caught:
            convert_checkpoint("pretrain_gnns", tmp_path / name, tmp_path / "never")
        assert name in str(caught.value)
    assert "run" not in capsys.readouterr().out and not (tmp_path / "never").exists()
