"""The message-passing layers of GraphMAE and ParetoGNN: attention (GAT), isomorphism (GIN) and convolution (GCN).

All take the states of all nodes and the edges of the batch as an `Adjacency`; self loops are edges like any other and
are expected to be there. ``rows`` asks for the output at some nodes alone.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from domains.graphs.adjacency import Adjacency
from domains.graphs.dropout import dropout

ACTIVATIONS = {"prelu": nn.PReLU, "relu": nn.ReLU, "elu": nn.ELU}
NORMS = {"batchnorm": nn.BatchNorm1d, "layernorm": nn.LayerNorm}


def make_activation(name: str | None) -> nn.Module:
    """Return an activation of its own; ``None`` for none."""
    return nn.Identity() if name is None else ACTIVATIONS[name]()


def make_norm(name: str | None, width: int) -> nn.Module:
    """Return a normalisation over ``width`` features; ``None`` for none."""
    return nn.Identity() if name is None else NORMS[name](width)


def make_residual(wanted: bool, inputs: int, outputs: int) -> nn.Module | None:
    """Return the path around a layer: nothing, the identity, or a linear map where the widths differ."""
    if not wanted:
        return None
    return nn.Identity() if inputs == outputs else nn.Linear(inputs, outputs, bias=False)


def initialise_linear(layer: nn.Linear) -> None:
    """Draw a linear layer's weights as torch does by default."""
    init.kaiming_uniform_(layer.weight, a=math.sqrt(5))
    if layer.bias is not None:
        bound = 1 / math.sqrt(layer.in_features)
        init.uniform_(layer.bias, -bound, bound)


class GATLayer(nn.Module):
    """Graph attention (Velickovic et al., ICLR 2018), heads concatenated."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        heads: int = 1,
        *,
        negative_slope: float = 0.2,
        feature_dropout: float = 0.0,
        attention_dropout: float = 0.0,
        residual: bool = False,
        norm: str | None = None,
        activation: str | None = None,
    ) -> None:
        """Create the layer.

        Args:
            inputs: Features of a node.
            outputs: Features of a node afterwards, over all heads.
            heads: Attention heads; must divide ``outputs``.
            negative_slope: Of the leaky ReLU on the scores.
            feature_dropout: On the input.
            attention_dropout: On the normalised scores.
            residual: Add the input, after dropout, through a linear map where the widths differ.
            norm: After the sum, ``batchnorm``, ``layernorm`` or ``None``.
            activation: After the normalisation.
        """
        super().__init__()
        self.heads = heads
        self.negative_slope = negative_slope
        self.feature_dropout = feature_dropout
        self.attention_dropout = attention_dropout
        self.linear = nn.Linear(inputs, outputs, bias=False)
        self.attention_source = nn.Parameter(torch.empty(heads, outputs // heads))
        self.attention_target = nn.Parameter(torch.empty(heads, outputs // heads))
        self.bias = nn.Parameter(torch.empty(outputs))
        self.residual = make_residual(residual, inputs, outputs)
        self.norm = make_norm(norm, outputs)
        self.activation = make_activation(activation)

    def initialise(self) -> None:
        """Draw weights and attention vectors by Xavier's rule with the gain of ReLU; the bias starts at zero."""
        gain = nn.init.calculate_gain("relu")
        init.xavier_normal_(self.linear.weight, gain=gain)
        for vector in (self.attention_source, self.attention_target):
            # As for the published (1, heads, features) tensor, whose fans are (heads, 1) times the features.
            width = vector.shape[1]
            init.normal_(vector, std=gain * math.sqrt(2.0 / (width + self.heads * width)))
        init.zeros_(self.bias)
        if isinstance(self.residual, nn.Linear):
            init.xavier_normal_(self.residual.weight, gain=gain)

    def forward(self, adjacency: Adjacency, states: Tensor, rows: Tensor | None = None) -> Tensor:
        """Map ``(nodes, inputs)`` to ``(nodes, outputs)``, or to ``(rows, outputs)``."""
        states = dropout(states, self.feature_dropout, self.training)
        # Not where adapters stand beside the map: they act on what it is given.
        plain = type(self.linear) is nn.Linear and self.residual is None
        if plain and self.linear.in_features * self.heads < self.linear.out_features:
            return self._sum_then_map(adjacency, states, rows)
        around = None if self.residual is None else self.residual(states)
        return self.attend(adjacency, self.linear(states), around, rows)

    def attend(
        self, adjacency: Adjacency, mapped: Tensor, around: Tensor | None = None, rows: Tensor | None = None
    ) -> Tensor:
        """Let each node attend to its neighbours, from mapped states on.

        Args:
            adjacency: The edges.
            mapped: ``(nodes, outputs)``, the input after dropout and the linear map.
            around: ``(nodes, outputs)``, what the residual path adds.
            rows: Nodes whose output is wanted.
        """
        by_head = mapped.unflatten(1, (self.heads, -1))
        from_source = (by_head * self.attention_source).sum(-1)
        at_target = (by_head * self.attention_target).sum(-1)
        adjacency, at_target, around = _at(rows, adjacency, at_target, around)
        weights = self._weights(adjacency, from_source, at_target)
        heads = [adjacency.aggregate(by_head[:, h], weights[:, h]) for h in range(self.heads)]
        return self._finish(torch.cat(heads, dim=1), around)

    def _sum_then_map(self, adjacency: Adjacency, states: Tensor, rows: Tensor | None) -> Tensor:
        """Do the same with the linear map last: cheaper where it widens, since sums of maps are maps of sums."""
        maps = self.linear.weight.unflatten(0, (self.heads, -1))
        from_source = states @ torch.einsum("hof,ho->fh", maps, self.attention_source)
        at_target = states @ torch.einsum("hof,ho->fh", maps, self.attention_target)
        adjacency, at_target, _ = _at(rows, adjacency, at_target, None)
        weights = self._weights(adjacency, from_source, at_target)
        heads = [F.linear(adjacency.aggregate(states, weights[:, h]), maps[h]) for h in range(self.heads)]
        return self._finish(torch.cat(heads, dim=1), None)

    def _weights(self, adjacency: Adjacency, from_source: Tensor, at_target: Tensor) -> Tensor:
        """Return the attention of each edge, ``(edges, heads)``."""
        scores = from_source[adjacency.source] + at_target[adjacency.target]
        weights = adjacency.softmax(F.leaky_relu(scores, self.negative_slope))
        return dropout(weights, self.attention_dropout, self.training)

    def _finish(self, summed: Tensor, around: Tensor | None) -> Tensor:
        states = summed + self.bias
        return self.activation(self.norm(states if around is None else states + around))


class GINLayer(nn.Module):
    """Graph isomorphism network layer (Xu et al., ICLR 2019) with epsilon 0 and an MLP of two linear maps."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        hidden: int,
        feature_dropout: float = 0.0,
        residual: bool = False,
        norm: str | None = None,
        activation: str = "prelu",
        last: bool = False,
    ) -> None:
        """Create the layer.

        Args:
            inputs: Features of a node.
            outputs: Features of a node afterwards.
            hidden: Width between the two linear maps.
            feature_dropout: On the input.
            residual: Add the input, after dropout, to the result.
            norm: Between the linear maps and after them.
            activation: Between the linear maps and after them.
            last: A decoder: nothing follows the second linear map.
        """
        super().__init__()
        self.feature_dropout = feature_dropout
        self.expand = nn.Linear(inputs, hidden)
        self.inner_norm = make_norm(norm, hidden)
        self.inner_activation = make_activation(activation)
        self.contract = nn.Linear(hidden, outputs)
        self.norm = make_norm(None if last else norm, outputs)
        self.activation = make_activation(None if last else activation)
        self.residual = make_residual(residual, inputs, outputs)

    def forward(self, adjacency: Adjacency, states: Tensor, rows: Tensor | None = None) -> Tensor:
        """Map ``(nodes, inputs)`` to ``(nodes, outputs)``, or to ``(rows, outputs)``."""
        states = dropout(states, self.feature_dropout, self.training)
        summed = states + adjacency.aggregate(states)
        # The inner normalisation may be over the batch: every node passes it, wanted or not.
        inner = self.inner_activation(self.inner_norm(self.expand(summed)))
        states, inner = (states, inner) if rows is None else (states[rows], inner[rows])
        output = self.activation(self.norm(self.contract(inner)))
        return output if self.residual is None else output + self.residual(states)


class GCNLayer(nn.Module):
    """Graph convolution with symmetric normalisation (Kipf and Welling, ICLR 2017)."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        feature_dropout: float = 0.0,
        residual: bool = False,
        norm: str | None = None,
        activation: str | None = None,
        norm_momentum: float = 0.1,
    ) -> None:
        """Create the layer.

        Args:
            inputs: Features of a node.
            outputs: Features of a node afterwards.
            feature_dropout: On the input.
            residual: Add the input, after dropout, through a linear map where the widths differ.
            norm: After the sum.
            activation: After the normalisation.
            norm_momentum: Of the running statistics of a batch normalisation.
        """
        super().__init__()
        self.feature_dropout = feature_dropout
        self.linear = nn.Linear(inputs, outputs, bias=False)
        self.bias = nn.Parameter(torch.empty(outputs))
        self.residual = make_residual(residual, inputs, outputs)
        self.norm = make_norm(norm, outputs)
        if isinstance(self.norm, nn.BatchNorm1d):
            self.norm.momentum = norm_momentum
        self.activation = make_activation(activation)

    def initialise(self) -> None:
        """Draw the weights by Xavier's rule; the bias starts at zero."""
        init.xavier_uniform_(self.linear.weight)
        init.zeros_(self.bias)

    def forward(self, adjacency: Adjacency, states: Tensor, rows: Tensor | None = None) -> Tensor:
        """Map ``(nodes, inputs)`` to ``(nodes, outputs)``, or to ``(rows, outputs)``."""
        states = dropout(states, self.feature_dropout, self.training)
        around = None if self.residual is None else self.residual(states)
        # The two differ where edges were dropped in one direction.
        at_source, at_target = (
            d.clamp(min=1).to(states.dtype).rsqrt() for d in (adjacency.out_degrees, adjacency.degrees)
        )
        widens = self.linear.in_features < self.linear.out_features
        mapped = states if widens else self.linear(states)
        adjacency, at_target, around = _at(rows, adjacency, at_target, around)
        summed = adjacency.aggregate(mapped, at_source[adjacency.source] * at_target[adjacency.target])
        states = (self.linear(summed) if widens else summed) + self.bias
        return self.activation(self.norm(states if around is None else states + around))


def _at(
    rows: Tensor | None, adjacency: Adjacency, at_target: Tensor, around: Tensor | None
) -> tuple[Adjacency, Tensor, Tensor | None]:
    """Keep what belongs to the wanted targets."""
    if rows is None:
        return adjacency, at_target, around
    return adjacency.into(rows), at_target[rows], None if around is None else around[rows]
