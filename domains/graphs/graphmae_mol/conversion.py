"""GraphMAE's published molecular encoder (``pretrained.pth``) to a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from domains.graphs.graphmae_mol.modeling import GraphMAEMolModel
from domains.graphs.molecules.conversion import convert_encoder
from domains.graphs.molecules.processing import MoleculeProcessor


def convert(path: Path, output: Path) -> dict[str, Any]:
    """Write a checkpoint from a published file; see `convert_encoder`."""
    return convert_encoder(path, output, GraphMAEMolModel, MoleculeProcessor())
