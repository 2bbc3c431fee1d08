"""GraphMAE's molecular encoder: the one that all molecular systems share."""

from __future__ import annotations

from domains.graphs.graphmae_mol.configuration import GraphMAEMolConfig
from domains.graphs.molecules.modeling import ChemGNN


class GraphMAEMolModel(ChemGNN):
    """A molecular graph encoder pretrained by GraphMAE; see `ChemGNN`."""

    config: GraphMAEMolConfig
    config_class = GraphMAEMolConfig
