"""Golden case of real published weights: converted, loaded, and run on the recorded molecules; see `check`."""

from __future__ import annotations

import importlib.util
import json
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.utils import scatter

from domains.graphs.pretrain_gnns.conversion import convert
from domains.graphs.pretrain_gnns.modeling import PretrainGNNsModel
from hub.official_files import read_state_dict

Compare = Callable[..., None]
RELATIVE = 1e-4  # of the tensor's largest magnitude
WEIGHTS = pathlib.Path("data") / "graphs" / "weights"


def _sibling(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, pathlib.Path(__file__).parent / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check(folder: pathlib.Path, compare: Compare) -> None:
    """Compare the featuriser's tensors, and each network's whose published file lies beside the golden cases."""
    settings = json.loads((folder / "config.json").read_text())
    io = load_file(folder / "io.safetensors")
    batch = _sibling("graphmae_chem").featurised(settings["smiles"])
    for name in ("x", "batch", "edge_attr"):
        compare(name, batch[name], io[name], atol=0.0)
    compare("edge_index", batch["edges"].t(), io["edge_index"], atol=0.0)
    files = {net: file for net in settings["nets"] if (file := _file(folder, net)) is not None}
    if not files:
        pytest.skip("the featuriser agrees; the published weights are not beside the golden cases")
    for net, file in files.items():
        with tempfile.TemporaryDirectory() as output:
            convert(file, pathlib.Path(output))
            model = PretrainGNNsModel.from_pretrained(output).eval()
        with torch.no_grad():
            nodes = model.nodes(batch["x"], batch["edges"], batch["edge_attr"])
            found = {"node": nodes, "graph_mean": scatter(nodes, batch["batch"], reduce="mean")}
            if net == "molclr_gcn":
                found |= _molclr_heads(found["graph_mean"], read_state_dict(file))
        for name, tensor in found.items():
            if (key := f"{net}.{name}") in io:
                compare(key, tensor, io[key], atol=RELATIVE * float(io[key].abs().max()))


def _file(folder: pathlib.Path, net: str) -> pathlib.Path | None:
    """Return the published file of a network, if it is there."""
    for root in folder.parents:
        for file in (root / WEIGHTS).glob(f"*{net}.*"):
            return file
    return None


def _molclr_heads(graphs: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return what MolCLR's projection heads make of the embedding; a checkpoint of ours leaves them out."""
    features = F.linear(graphs, tensors["feat_lin.weight"], tensors["feat_lin.bias"])
    hidden = F.linear(features, tensors["out_lin.0.weight"], tensors["out_lin.0.bias"]).relu()
    projected = F.linear(hidden, tensors["out_lin.2.weight"], tensors["out_lin.2.bias"])
    return {"graph_feat": features, "proj": projected}
