"""The layers against PyTorch Geometric's, and their shortcuts against the long way."""

from __future__ import annotations

import pytest
import torch
from torch_geometric.nn import GATConv, GCNConv, GINConv

from domains.graphs.adjacency import Adjacency, sparse_linear
from domains.graphs.dropout import dropout
from domains.graphs.layers import GATLayer, GCNLayer, GINLayer

NODES = 30


@pytest.fixture
def edges() -> torch.Tensor:
    """Random undirected edges with a self loop at every node, in no order."""
    pairs = torch.randint(NODES, (80, 2))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]].unique(dim=0)
    both = torch.cat([pairs, pairs.flip(1)]).unique(dim=0)
    loops = torch.arange(NODES)[:, None].expand(-1, 2)
    every = torch.cat([both, loops])
    return every[torch.randperm(len(every))]


def assert_same_with_gradients(ours, theirs, parameters) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    weights = torch.randn_like(ours)
    for one, other in parameters:
        first = torch.autograd.grad((ours * weights).sum(), one, retain_graph=True)[0]
        second = torch.autograd.grad((theirs * weights).sum(), other, retain_graph=True)[0]
        torch.testing.assert_close(first, second.reshape(first.shape), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("inputs", [6, 12], ids=["linear map last", "linear map first"])
def test_attention_is_that_of_pyg(edges, inputs) -> None:
    heads = 2 if inputs == 12 else 1
    x = torch.randn(NODES, inputs, requires_grad=True)
    reference = GATConv(inputs, 12 // heads, heads, add_self_loops=False)
    torch.nn.init.normal_(reference.bias)
    layer = GATLayer(inputs, 12, heads)
    with torch.no_grad():
        layer.linear.weight.copy_(reference.lin.weight)
        layer.attention_source.copy_(reference.att_src[0])
        layer.attention_target.copy_(reference.att_dst[0])
        layer.bias.copy_(reference.bias)
    pairs = [
        (x, x),
        (layer.linear.weight, reference.lin.weight),
        (layer.attention_source, reference.att_src),
        (layer.attention_target, reference.att_dst),
    ]
    assert_same_with_gradients(layer(Adjacency(edges, NODES), x), reference(x, edges.t()), pairs)


@pytest.mark.parametrize("outputs", [4, 12])
def test_convolution_is_that_of_pyg(edges, outputs) -> None:
    x = torch.randn(NODES, 8, requires_grad=True)
    reference = GCNConv(8, outputs, add_self_loops=False)
    layer = GCNLayer(8, outputs)
    with torch.no_grad():
        layer.linear.weight.copy_(reference.lin.weight)
        layer.bias.copy_(reference.bias)
    pairs = [(x, x), (layer.linear.weight, reference.lin.weight)]
    assert_same_with_gradients(layer(Adjacency(edges, NODES), x), reference(x, edges.t()), pairs)


def test_isomorphism_layer_is_that_of_pyg(edges) -> None:
    x = torch.randn(NODES, 8, requires_grad=True)
    layer = GINLayer(8, 5, hidden=7, norm="layernorm")
    mlp = torch.nn.Sequential(
        layer.expand, layer.inner_norm, layer.inner_activation, layer.contract, layer.norm, layer.activation
    )
    theirs = GINConv(mlp)(x, edges.t())
    assert_same_with_gradients(layer(Adjacency(edges, NODES), x), theirs, [(x, x), (layer.expand.weight,) * 2])


@pytest.mark.parametrize(
    "layer",
    [GATLayer(6, 12), GATLayer(12, 6, 2, residual=True), GCNLayer(6, 12, residual=True), GINLayer(6, 5, hidden=4)],
    ids=["gat, map last", "gat", "gcn", "gin"],
)
def test_some_rows_are_those_of_the_whole(edges, layer) -> None:
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    inputs = next(m for m in layer.modules() if isinstance(m, torch.nn.Linear)).in_features
    x, rows = torch.randn(NODES, inputs), torch.randperm(NODES)[:9]
    adjacency = Adjacency(edges, NODES)
    torch.testing.assert_close(layer(adjacency, x, rows), layer(adjacency, x)[rows], atol=1e-4, rtol=1e-4)


def test_sums_over_neighbours_have_the_right_gradients(edges) -> None:
    adjacency = Adjacency(edges[:40], NODES, NODES)
    states = torch.randn(NODES, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(40, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s, w: adjacency.aggregate(s, w), (states, weights))


def test_sparse_features_are_mapped_as_dense_ones() -> None:
    x = torch.randn(NODES, 20) * (torch.rand(NODES, 20) < 0.1)
    entries = x.nonzero()[torch.randperm(int((x != 0).sum()))]
    weight = torch.randn(7, 20, requires_grad=True)
    mapped = sparse_linear(entries, x[entries[:, 0], entries[:, 1]], NODES, weight)
    assert_same_with_gradients(mapped, x @ weight.t(), [(weight, weight)])


def test_dropout_keeps_the_share_and_the_mean() -> None:
    kept = dropout(torch.ones(1000, 1000), 0.2, training=True)
    assert set(kept.unique().tolist()) == {0.0, kept.max().item()}
    # A share of a million draws: five standard deviations are 0.002.
    assert abs(float((kept == 0).float().mean()) - 0.2) < 0.002
    assert abs(float(kept.mean()) - 1) < 0.0025
    # Bits of one draw must not be alike: neighbouring elements, and every fourth, are independent.
    flat = (kept.flatten() == 0).float() - 0.2
    for lag in (1, 2, 3, 4, 1000):
        assert abs(float((flat[:-lag] * flat[lag:]).mean())) < 0.001, lag
    same = torch.ones(5)
    assert dropout(same, 0.2, training=False) is same
