"""The encoder of pretrain-gnns and of MolCLR: the one that all molecular systems share."""

from __future__ import annotations

from domains.graphs.molecules.modeling import ChemGNN
from domains.graphs.pretrain_gnns.configuration import PretrainGNNsConfig


class PretrainGNNsModel(ChemGNN):
    """A molecular graph encoder; see `ChemGNN`."""

    config: PretrainGNNsConfig
    config_class = PretrainGNNsConfig
