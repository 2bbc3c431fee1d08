"""ParetoGNN's pretext: several tasks on one encoder, weighted so that none works against the others (section 3)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from domains.graphs.adjacency import Adjacency
from domains.graphs.encoder import initialise
from domains.graphs.layers import GCNLayer
from domains.graphs.paretognn.configuration import ParetoGNNConfig
from domains.graphs.paretognn.losses import canonical_correlation, node_against_graph
from domains.graphs.paretognn.modeling import ParetoGNNModel
from hub.modeling import PretextModel, PretextOutput
from hub.ssl.contrastive import nt_xent
from hub.ssl.multitask import multiple_gradient_weights
from hub.ssl.reconstruction import scaled_cosine_error


class Heads(nn.Module):
    """The parts that each task has for itself."""

    def __init__(self, config: ParetoGNNConfig) -> None:
        """Create the heads of the tasks that are trained."""
        super().__init__()
        width, inner, tasks = config.hidden_size, config.head_size, config.pretext_tasks
        if "p_recon" in tasks:
            self.mask_token = nn.Parameter(torch.zeros(1, config.input_dim))
            self.bridge = nn.Linear(width, width, bias=False)
            self.decoder = GCNLayer(width, config.input_dim)
        if "p_ming" in tasks:
            self.discriminator = nn.Parameter(torch.empty(width, width))
        if "p_minsg" in tasks:
            self.projection = nn.Sequential(nn.Linear(width, inner), nn.ReLU(), nn.Linear(inner, width))
        if "p_link" in tasks:
            self.link_hidden = nn.Linear(width, inner)
            self.link_score = nn.Linear(inner, 1)

    def initialise(self) -> None:
        """Draw the linear maps by Xavier's rule with zero biases; the mask token starts at zero."""
        for module in self.modules():
            if type(module) is nn.Linear:
                init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    init.zeros_(module.bias)
        if hasattr(self, "mask_token"):
            init.zeros_(self.mask_token)
        if hasattr(self, "discriminator"):
            bound = len(self.discriminator) ** -0.5
            init.uniform_(self.discriminator, -bound, bound)


class ParetoGNNForPreTraining(PretextModel):
    """The shared encoder, the heads, and the losses of the tasks."""

    config: ParetoGNNConfig
    config_class = ParetoGNNConfig
    base_model_prefix = "paretognn"
    main_input_name = "x"
    # An encoder's checkpoint has no heads; they start fresh.
    _keys_to_ignore_on_load_missing: ClassVar[list[str]] = [r"^heads\."]

    def __init__(self, config: ParetoGNNConfig) -> None:
        """Create encoder and heads with fresh weights."""
        super().__init__(config)
        self.paretognn = ParetoGNNModel(config)
        self.heads = Heads(config)
        self.post_init()

    def _init_weights(self, module: Any) -> None:
        initialise(module)

    def forward(self, x: Tensor, edges: Tensor, batch: Tensor, **views: Tensor) -> PretextOutput:
        """Compute each task's loss and weigh them.

        Args:
            x: ``(nodes, features)``.
            edges: ``(edges, 2)`` int64, self loops included.
            batch: ``(nodes,)`` int64, number of each node's graph.
            views: What the collator drew for each task, see `ParetoGNNCollator.collate`.

        Returns:
            The weighted sum. The weights are those of the point of smallest norm between the tasks' gradients on the
            encoder (Eq. 6), each scaled to unit length; where no gradients are computed they are equal. Metrics are
            each task's loss and weight.
        """
        losses = self.losses(x, edges, batch, views)
        weights = {name: 1 / len(losses) for name in losses}
        if torch.is_grad_enabled() and len(losses) > 1:
            weights = multiple_gradient_weights(losses, self.paretognn.parameters())
        metrics = {name: loss.detach() for name, loss in losses.items()}
        metrics |= {f"weight_{name}": x.new_tensor(weight) for name, weight in weights.items()}
        total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
        return PretextOutput(loss=total, metrics=metrics)

    def losses(self, x: Tensor, edges: Tensor, batch: Tensor, views: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return each task's loss, a scalar, by name; a task that the batch gives nothing to do is left out."""
        losses: dict[str, Tensor] = {}
        for task in self.config.pretext_tasks:
            if task == "p_recon":
                losses[task] = self.reconstruction(x, views["recon_edges"], views["recon_masked"])
            elif task == "p_ming":
                adjacency = Adjacency(edges, len(x))
                states, corrupted = self._encode(x, adjacency), self._encode(x[views["shuffle"]], adjacency)
                losses[task] = node_against_graph(states, corrupted, self.heads.discriminator)
            elif task in ("p_decor", "p_minsg"):
                first, second = self._two_views(x, batch, views, task.removeprefix("p_"))
                if task == "p_minsg":
                    first, second = first[views["anchors"]], second[views["anchors"]]
                losses[task] = self.compare_views(task, first, second)
            elif len(views["link_pairs"]):
                seen = x * views["link_columns"][batch]
                losses[task] = self.links(seen, views["link_edges"], views["link_pairs"], views["link_labels"])
        return losses

    def compare_views(self, task: str, first: Tensor, second: Tensor) -> Tensor:
        """Return the loss of ``p_decor`` or ``p_minsg`` on two views of the same nodes, ``(nodes, hidden)``."""
        if task == "p_decor":
            return canonical_correlation(first, second, self.config.decorrelation_weight)
        projected = self.heads.projection(first), self.heads.projection(second)
        return nt_xent(*projected, temperature=self.config.temperature)

    def reconstruction(self, x: Tensor, edges: Tensor, masked: Tensor) -> Tensor:
        """Rebuild the features of masked nodes, as GraphMAE does (``p_recon``), a scalar."""
        adjacency = Adjacency(edges, len(x))
        states = self._encode(torch.where(masked[:, None], self.heads.mask_token, x), adjacency)
        hidden = self.heads.bridge(states).masked_fill(masked[:, None], 0.0)
        rows = masked.nonzero()[:, 0]
        return scaled_cosine_error(self.heads.decoder(adjacency, hidden, rows), x[rows], gamma=self.config.gamma)

    def links(self, x: Tensor, edges: Tensor, pairs: Tensor, labels: Tensor) -> Tensor:
        """Tell pairs of nodes with an edge from pairs without (``p_link``), a scalar.

        Args:
            x: ``(nodes, features)``.
            edges: ``(edges, 2)``, those asked for left out.
            pairs: ``(pairs, 2)`` int64.
            labels: ``(pairs,)``, 1 where there is an edge.
        """
        states = F.normalize(self._encode(x, Adjacency(edges, len(x))), dim=1)
        hidden = F.relu(self.heads.link_hidden(states))
        scores = self.heads.link_score(hidden[pairs[:, 0]] * hidden[pairs[:, 1]])[:, 0]
        return F.binary_cross_entropy_with_logits(scores, labels.to(scores.dtype))

    def _encode(self, x: Tensor, adjacency: Adjacency) -> Tensor:
        return self.paretognn.encode(x, adjacency)[-1]

    def _two_views(self, x: Tensor, batch: Tensor, views: dict[str, Tensor], task: str) -> list[Tensor]:
        """Return the states of two views with edges and feature columns dropped."""
        return [
            self._encode(x * views[f"{task}{i}_columns"][batch], Adjacency(views[f"{task}{i}_edges"], len(x)))
            for i in (1, 2)
        ]
