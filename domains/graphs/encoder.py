"""What the encoders of both systems share: a stack of message-passing layers, from a flat batch to dense states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from domains.graphs.adjacency import Adjacency
from domains.graphs.layers import initialise_linear
from hub.modeling import EmbeddingModel, EncoderOutput
from hub.reading import Sample


def initialise(module: nn.Module) -> None:
    """Draw the weights of one module: a layer's own rule, or torch's for a linear map."""
    own = getattr(module, "initialise", None)
    if callable(own):
        own()
    elif isinstance(module, nn.Linear):
        initialise_linear(module)


def to_dense(states: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
    """Spread node states over a row a graph.

    Args:
        states: ``(nodes, features)``, the graphs one after the other.
        batch: ``(nodes,)`` int64, number of each node's graph, ascending, without gaps.

    Returns:
        ``(graphs, most nodes, features)``, zero where a graph has fewer nodes, and the mask of real nodes.
    """
    counts = torch.bincount(batch)
    starts = counts.cumsum(0) - counts
    place = torch.arange(len(batch), device=batch.device) - starts[batch]
    mask = torch.arange(int(counts.max()), device=batch.device) < counts[:, None]
    dense = states.new_zeros(*mask.shape, states.shape[1])
    dense[batch, place] = states
    return dense, mask


class GraphEncoder(EmbeddingModel):
    """Nodes with features to node states; a graph's embedding is a reduction over its nodes."""

    poolings = ("mean", "sum", "max")
    tasks: ClassVar[Mapping[str, str]] = {"embed_edges": "embed_edges"}
    layers: nn.ModuleList

    @property
    def num_hidden_states(self) -> int:
        """One a layer that is as wide as the last; below the first the width is that of the features."""
        return len([w for w in self.widths if w == self.config.hidden_size])

    @property
    def widths(self) -> list[int]:
        """Width of each layer's output."""
        return [int(self.config.hidden_size)] * int(self.config.num_hidden_layers)

    def _init_weights(self, module: Any) -> None:
        initialise(module)

    def encode(self, features: Tensor, adjacency: Adjacency) -> list[Tensor]:
        """Return each layer's output, ``(nodes, hidden)``.

        Args:
            features: ``(nodes, features)``.
            adjacency: The edges, self loops included.
        """
        states = [features]
        for layer in self.layers:
            states.append(layer(adjacency, states[-1]))
        return states[1:]

    def forward(self, x: Tensor, edges: Tensor, batch: Tensor, output_hidden_states: bool = False) -> EncoderOutput:
        """Encode a batch of graphs.

        Args:
            x: ``(nodes, features)``, the graphs one after the other.
            edges: ``(edges, 2)`` int64, source and target of each, self loops included.
            batch: ``(nodes,)`` int64, number of each node's graph.
            output_hidden_states: Whether to return the output of every layer as wide as the last.

        Returns:
            Node states ``(graphs, most nodes, hidden)``, their mask, and the hidden states if asked for.
        """
        states = self.encode(x.to(self.dtype), Adjacency(edges, len(x)))
        kept = [s for s in states if s.shape[1] == self.config.hidden_size] if output_hidden_states else states[-1:]
        dense = [to_dense(s, batch) for s in kept]
        return EncoderOutput(
            last_hidden_state=dense[-1][0],
            mask=dense[-1][1],
            hidden_states=tuple(d for d, _ in dense) if output_hidden_states else None,
        )

    def embed_edges(self, batch: Mapping[str, Tensor], samples: Sequence[Sample]) -> list[dict[str, Any]]:
        """Embed each edge by the product of its nodes' states: ``{"edges": [[u, v], ...], "embeddings": [...]}``.

        Each edge comes once, with the smaller node first; nodes are counted from 0 in each graph.
        """
        states, _ = self.token_states(batch)
        answers = []
        for row, sample in zip(states.float(), samples, strict=True):
            edges = sample.data.edge_index.t()
            edges = edges[edges[:, 0] < edges[:, 1]]
            ends = edges.to(row.device)
            answers.append({"edges": edges.tolist(), "embeddings": (row[ends[:, 0]] * row[ends[:, 1]]).tolist()})
        return answers
