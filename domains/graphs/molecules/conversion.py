"""Published encoders of the pretrain-gnns family to checkpoints: its own, GraphMAE's, D-SLA's, MolCLR's.

All are a dictionary of tensors that differ in the kind of layer, which the tensors' names tell, but for GCN and
GraphSAGE, whose names and shapes are the same. Heads of pretraining or fine-tuning may lie beside the encoder, whose
names then begin with ``gnn.``; they are left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from torch import Tensor

from domains.graphs.molecules.configuration import ChemGNNConfig
from domains.graphs.molecules.modeling import ChemGNN
from domains.graphs.molecules.processing import MoleculeProcessor
from hub.errors import InvalidCheckpoint, UnsupportedOption
from hub.official_files import load_exactly, read_state_dict, some_names

HEADS = ("graph_pred_linear.", "score_func.", "feat_lin.", "out_lin.", "pred_head.")
"""What fine-tuning, D-SLA's and MolCLR's pretraining put beside the encoder."""
_KIND_BY_NAME = {
    "gnns.0.mlp.0.weight": "gin",
    "gnns.0.weight_linear.weight": "gat",
    "gnns.0.weight": "molclr_gcn",
}
_ALIKE = ("gcn", "graphsage")


def convert_encoder(
    path: Path,
    output: Path,
    model_class: type[ChemGNN],
    processor: MoleculeProcessor,
    gnn: str | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """Write a checkpoint (configuration, weights, processor) of an encoder from a published file.

    Args:
        path: A PyTorch file, or one of safetensors, of a dictionary of tensors.
        output: Folder to write to.
        model_class: Of the system.
        processor: Of the system.
        gnn: ``gcn`` or ``graphsage``, where neither the tensors nor the file's name tell.
        fields: Of the configuration, where they are not read from shapes.

    Returns:
        Facts for the model card, by name.

    Raises:
        InvalidCheckpoint: The file is damaged, wants something run, or holds other tensors than such an encoder; the
            text has the missing and unexpected names.
        UnsupportedOption: ``gnn`` is no such kind, or not that of the file.
    """
    weights, left_out = encoder_weights(read_state_dict(path))
    config = config_of(weights, model_class.config_class, path.name, gnn, **fields)
    model = model_class(config)
    load_exactly(model, weights, path.name, "the weights of such an encoder")
    output.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(output)
    processor.save_pretrained(output)
    facts = {
        "parameters": model.num_parameters(),
        "layers": f"{config.num_hidden_layers} of kind {config.gnn}, width {config.hidden_size}",
        "tensors_of_the_official_file": len(weights) + len(left_out),
        "bytes_of_the_official_file": path.stat().st_size,
    }
    return {**facts, "left_out": some_names(left_out)} if left_out else facts


def encoder_weights(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Return an encoder's tensors under their own names, and the names of the heads' that were left out."""
    left_out = sorted(name for name in tensors if name.startswith(HEADS))
    kept = {name: tensor for name, tensor in tensors.items() if name not in left_out}
    if kept and all(name.startswith("gnn.") for name in kept):
        kept = {name.removeprefix("gnn."): tensor for name, tensor in kept.items()}
    # D-SLA's encoder of social graphs has one table of nodes, and gives it no number.
    if "x_embedding.weight" in kept:
        kept["x_embedding1.weight"] = kept.pop("x_embedding.weight")
    return kept, left_out


def config_of(
    weights: Mapping[str, Tensor],
    config_class: type[ChemGNNConfig],
    source: str,
    gnn: str | None = None,
    **fields: Any,
) -> ChemGNNConfig:
    """Return the configuration that an encoder's tensors tell.

    Args:
        weights: From `encoder_weights`.
        config_class: Of the system.
        source: Name of the file; tells GCN from GraphSAGE where it names one of them.
        gnn: See `convert_encoder`.
        fields: Further fields.

    Raises:
        InvalidCheckpoint: They are no such encoder's.
        UnsupportedOption: See `convert_encoder`.
    """
    kind = next((kind for name, kind in _KIND_BY_NAME.items() if name in weights), None)
    if kind is None and "gnns.0.linear.weight" in weights:
        kind = _gcn_or_graphsage(source, gnn)
    elif gnn is not None and gnn != kind:
        raise UnsupportedOption(f"gnn={gnn}, but the tensors of {source} are of kind {kind}", param="gnn")
    table = weights.get("x_embedding1.weight")
    if kind is None or table is None or table.ndim != 2:
        raise InvalidCheckpoint(
            f"{source} does not hold a molecular graph encoder. Missing: x_embedding1.weight or gnns.0.*. "
            f"Unexpected: {some_names(weights)}."
        )
    layers = {m[1] for m in (re.match(r"gnns\.(\d+)\.", name) for name in weights) if m}
    sizes: dict[str, Any] = {
        "node_types": len(table),
        "node_tags": _rows(weights, "x_embedding2.weight"),
        "edge_types": _rows(weights, "gnns.0.edge_embedding1.weight"),
        "edge_tags": _rows(weights, "gnns.0.edge_embedding2.weight"),
    }
    if kind == "gat" and "gnns.0.att" in weights:
        sizes["num_attention_heads"] = weights["gnns.0.att"].shape[1]
    try:
        return config_class(gnn=kind, hidden_size=table.shape[1], num_hidden_layers=len(layers), **sizes, **fields)
    except StrictDataclassError as error:
        raise InvalidCheckpoint(f"{source} holds no encoder that can be built: {error}") from None


def _gcn_or_graphsage(source: str, gnn: str | None) -> str:
    """Tell apart the two kinds whose tensors are alike."""
    if gnn is not None:
        if gnn not in _ALIKE:
            raise UnsupportedOption(f"gnn={gnn}: the tensors of {source} are those of gcn or graphsage", param="gnn")
        return gnn
    named = [kind for kind in _ALIKE if kind in source.lower()]
    if len(named) != 1:
        raise InvalidCheckpoint(
            f"the tensors of {source} may be of a GCN or of a GraphSAGE, which are alike: give --option gnn=gcn or "
            "--option gnn=graphsage"
        )
    return named[0]


def _rows(weights: Mapping[str, Tensor], name: str) -> int:
    return len(weights[name]) if name in weights else 0
