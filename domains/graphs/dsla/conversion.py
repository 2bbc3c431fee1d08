"""Encoders that D-SLA's own training writes, of molecules and of social graphs, to checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from domains.graphs.dsla.modeling import DslaModel
from domains.graphs.dsla.processing import DslaProcessor
from domains.graphs.molecules.conversion import convert_encoder, encoder_weights
from hub.official_files import read_state_dict


def convert(path: Path, output: Path, *, gnn: str | None = None) -> dict[str, Any]:
    """Write a checkpoint from such a file; see `convert_encoder`."""
    weights, _ = encoder_weights(read_state_dict(path))
    if "x_embedding1.weight" in weights and "x_embedding2.weight" not in weights:
        # Rows of the only node table: degrees from 0, and the mask.
        processor = DslaProcessor(node_features="degree", max_degree=len(weights["x_embedding1.weight"]) - 2)
        social = {"strong": False, "margin_weight": 0.0}
        return convert_encoder(path, output, DslaModel, processor, gnn, **social)
    return convert_encoder(path, output, DslaModel, DslaProcessor(), gnn)
