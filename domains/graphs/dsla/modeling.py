"""D-SLA's encoder: the one that all molecular systems share."""

from __future__ import annotations

from domains.graphs.dsla.configuration import DslaConfig
from domains.graphs.molecules.modeling import ChemGNN


class DslaModel(ChemGNN):
    """A graph encoder pretrained by D-SLA; see `ChemGNN`."""

    config: DslaConfig
    config_class = DslaConfig
