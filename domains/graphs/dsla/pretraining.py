"""D-SLA's pretext task: how far a perturbed graph is from its original (section 3)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch_geometric.utils import scatter

from domains.graphs.dsla.configuration import DslaConfig
from domains.graphs.dsla.losses import edit_distance, graph_discrimination, margin_loss
from domains.graphs.dsla.modeling import DslaModel
from domains.graphs.molecules.modeling import initialise
from hub.modeling import PretextModel, PretextOutput
from hub.ssl.multitask import weighted_sum


class DslaForPreTraining(PretextModel):
    """Encoder and score head with the losses of graph discrimination, edit distance and margin."""

    config: DslaConfig
    config_class = DslaConfig
    base_model_prefix = "gnn"
    main_input_name = "x"
    # An encoder's checkpoint has no score head; it starts fresh.
    _keys_to_ignore_on_load_missing: ClassVar[list[str]] = [r"^score\."]

    def __init__(self, config: DslaConfig) -> None:
        """Create encoder and score head with fresh weights."""
        super().__init__(config)
        self.gnn = DslaModel(config)
        width = config.hidden_size
        self.score = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)
        )
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        initialise(module)

    def candidates(
        self, x: Tensor, edges: Tensor, batch: Tensor, shape: torch.Size, edge_attr: Tensor | None = None
    ) -> Tensor:
        """Return the embedding of each candidate, the mean of its nodes, ``(graphs, candidates, hidden)``.

        Args:
            x: ``(nodes, features)`` int64, the candidates of each graph one after another.
            edges: ``(edges, 2)`` int64.
            batch: ``(nodes,)`` int64, which candidate each node belongs to, counted through the batch.
            shape: ``(graphs, candidates)``.
            edge_attr: ``(edges, 2)`` int64, or ``None`` where edges have no features.
        """
        nodes = self.gnn.nodes(x, edges, edge_attr)
        return scatter(nodes, batch, dim_size=shape.numel(), reduce="mean").view(*shape, -1)

    def forward(
        self, x: Tensor, edges: Tensor, batch: Tensor, distances: Tensor, edge_attr: Tensor | None = None
    ) -> PretextOutput:
        """Compare each graph with its perturbed copies.

        Args:
            x: See `candidates`.
            edges: See `candidates`.
            batch: See `candidates`.
            distances: ``(graphs, candidates)`` int64, edits that made each candidate, 0 for the original, which is
                the first; the strongly perturbed copy, where the configuration has one, is the last.
            edge_attr: See `candidates`.

        Returns:
            The weighted sum of the losses; metrics ``graph_discrimination``, ``edit_distance`` and ``margin`` (each
            unweighted), and ``accuracy``, the share of graphs whose original has the highest score; the scores
            ``(graphs, candidates)``.
        """
        graphs = self.candidates(x, edges, batch, distances.shape, edge_attr)
        scores = self.score(graphs).squeeze(-1)
        terms = {
            "graph_discrimination": graph_discrimination(scores),
            "edit_distance": edit_distance(graphs, distances),
        }
        weights = {"graph_discrimination": 1.0, "edit_distance": float(self.config.edit_weight)}
        if self.config.margin_weight:
            alike = graphs[:, :-1] if self.config.strong else graphs
            terms["margin"] = margin_loss(alike, float(self.config.margin))
            weights["margin"] = float(self.config.margin_weight)
        total, logged = weighted_sum(terms, weights)
        accuracy = (scores.detach().argmax(1) == 0).to(torch.float32).mean()
        return PretextOutput(
            loss=total,
            metrics={**logged, "accuracy": accuracy},
            predictions=scores,
            states=graphs,
        )
