"""GraphMAE's pretext task on molecules: the types of hidden atoms, decoded from re-masked states (section 3.2)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from domains.graphs.graphmae_mol.configuration import GraphMAEMolConfig
from domains.graphs.graphmae_mol.modeling import GraphMAEMolModel
from domains.graphs.molecules.layers import GINLayer, Neighbourhood
from domains.graphs.molecules.modeling import initialise
from hub.modeling import PretextModel, PretextOutput
from hub.ssl.masking import IGNORED
from hub.ssl.reconstruction import scaled_cosine_error


class AtomDecoder(nn.Module):
    """Node states to scores of atom types: PReLU, a linear map, the hidden atoms set to zero, one GIN layer."""

    def __init__(self, config: GraphMAEMolConfig) -> None:
        """Create the layers."""
        super().__init__()
        self.activation = nn.PReLU()
        self.enc_to_dec = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        # The last type stands for a hidden atom and is never one to restore.
        self.conv = GINLayer(config, output_size=config.node_types - 1)

    def forward(self, states: Tensor, hidden: Tensor, graph: Neighbourhood) -> Tensor:
        """Map ``(atoms, hidden)`` to ``(atoms, types)``.

        Args:
            states: Node states.
            hidden: ``(atoms,)`` bool, which atoms were hidden.
            graph: The bonds.
        """
        states = self.enc_to_dec(self.activation(states))
        return self.conv(states.masked_fill(hidden[:, None], 0.0), graph)


class GraphMAEMolForPreTraining(PretextModel):
    """Encoder and decoder with the scaled cosine error over the hidden atoms."""

    config: GraphMAEMolConfig
    config_class = GraphMAEMolConfig
    base_model_prefix = "gnn"
    main_input_name = "x"
    # An encoder's checkpoint has no decoder; it starts fresh.
    _keys_to_ignore_on_load_missing: ClassVar[list[str]] = [r"^decoder\."]

    def __init__(self, config: GraphMAEMolConfig) -> None:
        """Create encoder and decoder with fresh weights."""
        super().__init__(config)
        self.gnn = GraphMAEMolModel(config)
        self.decoder = AtomDecoder(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        initialise(module)

    def forward(self, x: Tensor, edges: Tensor, labels: Tensor, edge_attr: Tensor | None = None) -> PretextOutput:
        """Restore the types of the hidden atoms.

        Args:
            x: ``(atoms, 2)`` int64, with hidden atoms.
            edges: ``(edges, 2)`` int64.
            labels: ``(atoms,)`` int64, the type of each hidden atom, -100 elsewhere.
            edge_attr: ``(edges, 2)`` int64.

        Returns:
            The loss; metric ``accuracy``, the share of hidden atoms whose type has the highest score; the scores
            ``(atoms, types)``.
        """
        graph = self.gnn.neighbourhood(edges, edge_attr, len(x))
        hidden = labels != IGNORED
        states = self.gnn.jump(self.gnn.encode(x, graph))
        scores = self.decoder(states, hidden, graph)
        chosen, wanted = scores[hidden], labels[hidden]
        target = F.one_hot(wanted, scores.shape[1]).to(scores.dtype)
        return PretextOutput(
            loss=scaled_cosine_error(chosen, target, gamma=float(self.config.gamma)),
            metrics={"accuracy": (chosen.detach().argmax(1) == wanted).to(torch.float32).mean()},
            predictions=scores,
            states=states,
        )
