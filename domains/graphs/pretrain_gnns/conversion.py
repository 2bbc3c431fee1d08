"""The published encoders of pretrain-gnns and MolCLR to checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from domains.graphs.molecules.conversion import convert_encoder
from domains.graphs.molecules.processing import MoleculeProcessor
from domains.graphs.pretrain_gnns.modeling import PretrainGNNsModel


def convert(path: Path, output: Path, *, gnn: str | None = None) -> dict[str, Any]:
    """Write a checkpoint from a published file; see `convert_encoder`."""
    return convert_encoder(path, output, PretrainGNNsModel, MoleculeProcessor(), gnn)
