"""LVM-Med's pretext task: match two views of a batch of images as graphs, or contrast them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch_geometric.nn import DenseGCNConv
from torch_geometric.nn import Linear as GraphLinear
from transformers import initialization as init

from domains.medical.lvm_med.configuration import LVMMedConfig
from domains.medical.lvm_med.global_local import region_contrast, regions_of
from domains.medical.lvm_med.matching import GraphMatching, View
from domains.medical.lvm_med.modeling import LVMMedModel
from hub.modeling import PretextModel, PretextOutput
from hub.ssl import barlow_twins, multi_view_contrastive, nt_xent

Terms = dict[str, Tensor]


class LVMMedForPreTraining(PretextModel):
    """Encoder, projector and the objectives that ``config.objective`` names.

    The pretext task reads the last map, whatever stages make the token states.
    """

    config: LVMMedConfig
    config_class = LVMMedConfig
    base_model_prefix = "lvm_med"
    main_input_name = "first"
    input_modalities = "image"
    _supports_sdpa = True
    _no_split_modules: ClassVar[list[str]] = ["BasicBlock", "Bottleneck", "SamVisionLayer"]
    # An encoder's checkpoint has none of these; they start fresh.
    _keys_to_ignore_on_load_missing: ClassVar[list[str]] = [r"^projector\.", r"^matching\.", r"^region_projector\."]

    def __init__(self, config: LVMMedConfig) -> None:
        """Create encoder and heads with fresh weights."""
        super().__init__(config)
        self.lvm_med = LVMMedModel(config)
        self.projector = projector(config.map_size, config.projector_hidden, config.projection_size)
        if "graph_matching" in config.objectives:
            self.matching = GraphMatching(config)
        if "global_local" in config.objectives:
            self.region_projector = nn.Linear(config.map_size, config.projection_size)
        self.post_init()

    def _init_weights(self, module: Any) -> None:
        super()._init_weights(module)
        if isinstance(module, GraphLinear):
            init.xavier_uniform_(module.weight)
        if isinstance(module, GraphLinear | DenseGCNConv) and module.bias is not None:
            init.zeros_(module.bias)

    def forward(
        self,
        first: Tensor,
        second: Tensor,
        first_places: Tensor,
        second_places: Tensor,
        partition: Tensor,
        noise_seed: Tensor,
    ) -> PretextOutput:
        """Compare two views of each image.

        Args:
            first: ``(images, 3, size, size)``.
            second: The same of the second view.
            first_places: ``(images, cells, 2)`` where the cells of the map lie in the whole image, as shares of its
                rows and columns.
            second_places: The same of the second view.
            partition: ``(images,)`` which part of its volume a slice is from, counted along the axis.
            noise_seed: ``(1,)`` int64, of the noise on the scores.

        Returns:
            The sum of the objectives. Metrics: each of them where there are several; ``wrong_matches``, the share of
            images matched to another, for graph matching; ``global`` and ``local`` for ``global_local``.
        """
        # Both views in one pass: batch normalisation takes the statistics of both.
        cells = self.lvm_med.maps(torch.cat([first, second]))[-1].flatten(2).transpose(1, 2)
        nodes = self.projector(cells.mean(1))
        (cells_s, cells_t), (nodes_s, nodes_t) = cells.chunk(2), nodes.chunk(2)
        view_s, view_t = View(nodes_s, cells_s, first_places), View(nodes_t, cells_t, second_places)
        metrics: Terms = {}
        losses: Terms = {}
        for name in self.config.objectives:
            losses[name] = self._objective(name)(view_s, view_t, partition, noise_seed, metrics)
        if len(losses) > 1:
            metrics |= {name: loss.detach() for name, loss in losses.items()}
            if "graph_matching" in losses:
                losses["graph_matching"] = self.config.matching_weight * losses["graph_matching"]
        loss = torch.stack(list(losses.values())).sum()
        return PretextOutput(loss=loss, metrics=metrics, states=cells)

    def _objective(self, name: str) -> Callable[[View, View, Tensor, Tensor, Terms], Tensor]:
        return {
            "graph_matching": self._graph_matching,
            "nt_xent": self._nt_xent,
            "barlow_twins": self._barlow_twins,
            "global_local": self._global_local,
        }[name]

    def _graph_matching(self, s: View, t: View, partition: Tensor, noise_seed: Tensor, metrics: Terms) -> Tensor:
        matched = self.matching(s, t, torch.Generator().manual_seed(int(noise_seed)))
        metrics["wrong_matches"] = matched.wrong.mean()
        return matched.loss

    def _nt_xent(self, s: View, t: View, partition: Tensor, noise_seed: Tensor, metrics: Terms) -> Tensor:
        return nt_xent(s.nodes, t.nodes, temperature=self.config.temperature)

    def _barlow_twins(self, s: View, t: View, partition: Tensor, noise_seed: Tensor, metrics: Terms) -> Tensor:
        return barlow_twins(s.nodes, t.nodes, redundancy_weight=self.config.redundancy_weight)

    def _global_local(self, s: View, t: View, partition: Tensor, noise_seed: Tensor, metrics: Terms) -> Tensor:
        """Return both parts of Chaitanya et al. 2020, section 2 (G^D and the local loss)."""
        features, labels = torch.cat([s.nodes, t.nodes]), torch.cat([partition, partition])
        metrics["global"] = multi_view_contrastive(features, labels, temperature=self.config.temperature)
        regions = [self.region_projector(regions_of(v.cells)) for v in (s, t)]
        places = [regions_of(v.places) for v in (s, t)]
        metrics["local"] = region_contrast(*regions, *places, temperature=self.config.temperature)
        return metrics["global"] + self.config.local_weight * metrics["local"]


def projector(inputs: int, hidden: list[int] | tuple[int, ...], outputs: int) -> nn.Sequential:
    """Return linear layers with batch normalisation and rectifiers between; the last one has no bias."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.BatchNorm1d(width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs, bias=False))
