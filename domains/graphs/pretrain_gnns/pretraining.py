"""Attribute masking: the types of hidden atoms, classified from their own states (Hu et al., section 3.1.2)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from domains.graphs.molecules.modeling import initialise
from domains.graphs.pretrain_gnns.configuration import PretrainGNNsConfig
from domains.graphs.pretrain_gnns.modeling import PretrainGNNsModel
from hub.modeling import PretextModel, PretextOutput
from hub.ssl.distributed import mean_share
from hub.ssl.masking import IGNORED


class PretrainGNNsForPreTraining(PretextModel):
    """Encoder and a linear classifier with the cross-entropy over the hidden atoms."""

    config: PretrainGNNsConfig
    config_class = PretrainGNNsConfig
    base_model_prefix = "gnn"
    main_input_name = "x"
    # An encoder's checkpoint has no classifier; it starts fresh.
    _keys_to_ignore_on_load_missing: ClassVar[list[str]] = [r"^predict_atoms\."]

    def __init__(self, config: PretrainGNNsConfig) -> None:
        """Create encoder and classifier with fresh weights."""
        super().__init__(config)
        self.gnn = PretrainGNNsModel(config)
        # The last type stands for a hidden atom and is never one to restore.
        self.predict_atoms = nn.Linear(config.hidden_size, config.node_types - 1)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        initialise(module)

    def forward(self, x: Tensor, edges: Tensor, labels: Tensor, edge_attr: Tensor | None = None) -> PretextOutput:
        """Classify the hidden atoms.

        Args:
            x: ``(atoms, 2)`` int64, with hidden atoms.
            edges: ``(edges, 2)`` int64.
            labels: ``(atoms,)`` int64, the type of each hidden atom, -100 elsewhere.
            edge_attr: ``(edges, 2)`` int64.

        Returns:
            The loss; metric ``accuracy``; the logits of the hidden atoms, ``(hidden atoms, types)``.
        """
        hidden = labels != IGNORED
        states = self.gnn.nodes(x, edges, edge_attr)
        logits, wanted = self.predict_atoms(states[hidden]), labels[hidden]
        return PretextOutput(
            loss=mean_share(F.cross_entropy(logits.float(), wanted, reduction="none")),
            metrics={"accuracy": (logits.detach().argmax(1) == wanted).to(torch.float32).mean()},
            predictions=logits,
            states=states,
        )
