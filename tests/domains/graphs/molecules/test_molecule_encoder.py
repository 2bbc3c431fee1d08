from __future__ import annotations

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from torch_geometric.nn import GATConv, GCNConv, GINConv, SAGEConv

from domains.graphs.molecules.configuration import LAYERS, ChemGNNConfig
from domains.graphs.molecules.layers import LAYER_CLASSES, GraphLayer, Neighbourhood
from domains.graphs.molecules.modeling import ChemGNN, initialise
from domains.graphs.molecules.processing import Graph, MoleculeProcessor, join
from domains.graphs.molecules.reading import parse_smiles

SMILES = ["CC(C)Cc1ccc(cc1)C(C)C(=O)O", "F/C=C/CCO", "[Na+].[Cl-]", "C", "C[C@H](N)C(=O)O", "c1ccc2c(c1)cccc2"]


class Limits:
    max_nodes = 200


def graphs() -> list[Graph]:
    return [MoleculeProcessor().prepare(parse_smiles(s, Limits())) for s in SMILES]


def encoder(gnn: str, jump: str = "last") -> ChemGNN:
    torch.manual_seed(1)
    model = ChemGNN(ChemGNNConfig(gnn=gnn, hidden_size=12, num_hidden_layers=3, jumping_knowledge=jump)).eval()
    for norm in model.batch_norms:
        torch.nn.init.normal_(norm.running_mean)
        torch.nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return model


def permuted(graph: Graph, order: Tensor) -> Graph:
    """The same graph with node ``order[i]`` as number i, and its edges in another order."""
    place = order.argsort()
    edges = torch.randperm(len(graph.edges))
    assert graph.edge_attr is not None
    return Graph(graph.x[order], place[graph.edges][edges], graph.edge_attr[edges])


@pytest.mark.parametrize("jump", ["last", "max", "sum"])
@pytest.mark.parametrize("gnn", LAYERS)
def test_order_of_atoms_and_company_in_a_batch_change_nothing(gnn: str, jump: str) -> None:
    model = encoder(gnn, jump)
    for pooling in ("mean", "sum", "max"):
        together = torch.stack(model.embed(join(graphs()), pooling=pooling))
        for row, graph in enumerate(graphs()):
            alone = model.embed(join([graph]), pooling=pooling)[0]
            shuffled = model.embed(join([permuted(graph, torch.randperm(len(graph.x)))]), pooling=pooling)[0]
            torch.testing.assert_close(alone, together[row], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(shuffled, alone, atol=1e-5, rtol=1e-5)
    order = torch.randperm(len(graphs()[0].x))
    states = model.embed(join([graphs()[0]]), pooling="none")[0]
    moved = model.embed(join([permuted(graphs()[0], order)]), pooling="none")[0]
    torch.testing.assert_close(moved, states[order], atol=1e-5, rtol=1e-5)


def test_layers_without_edge_terms_are_those_of_pytorch_geometric() -> None:
    """With all edge tables at zero, each layer is a textbook layer."""
    config = ChemGNNConfig(hidden_size=12, num_attention_heads=2)
    batch = join(graphs())
    edges = batch["edges"].t()
    states = torch.randn(len(batch["x"]), 12)

    def ours(gnn: str) -> GraphLayer:
        config.gnn = gnn
        layer = LAYER_CLASSES[gnn](config)
        for module in layer.modules():
            initialise(module)
        torch.nn.init.zeros_(layer.edge_embedding1.weight)
        torch.nn.init.zeros_(layer.edge_embedding2.weight)
        return layer

    def check(layer: GraphLayer, textbook: torch.nn.Module, theirs: Tensor) -> None:
        graph = Neighbourhood.build(batch["edges"], batch["edge_attr"], len(states), config, torch.float32)
        torch.testing.assert_close(layer(states, graph), textbook(states, theirs))

    layer = ours("gin")
    loops = torch.cat([edges, torch.arange(len(states)).repeat(2, 1)], 1)
    check(layer, GINConv(layer.mlp), edges)
    layer, textbook = ours("gcn"), GCNConv(12, 12)
    textbook.lin.weight.data = layer.linear.weight.data
    torch.nn.init.zeros_(layer.linear.bias)  # added before the sum here, after it there
    check(layer, textbook, edges)
    layer, mean = ours("graphsage"), SAGEConv(12, 12, aggr="mean", root_weight=False, normalize=True)
    mean.lin_l.load_state_dict(layer.linear.state_dict())
    check(layer, mean, loops)
    layer, attention = ours("gat"), GATConv(12, 12, heads=2, concat=False, bias=False)
    torch.nn.init.zeros_(layer.weight_linear.bias)
    attention.lin.weight.data = layer.weight_linear.weight.data
    attention.att_dst.data, attention.att_src.data = layer.att.data[..., :12], layer.att.data[..., 12:]
    check(layer, attention, edges)


def _graph(batch: dict[str, Tensor], config: ChemGNNConfig, nodes: int) -> Neighbourhood:
    return Neighbourhood.build(batch["edges"], batch["edge_attr"], nodes, config, torch.float32)


@pytest.mark.parametrize("gnn", ["gin", "gcn", "graphsage"])
def test_counting_edge_types_is_summing_edge_embeddings(gnn: str) -> None:
    config = ChemGNNConfig(gnn=gnn, hidden_size=12)
    batch = join(graphs())
    graph = _graph(batch, config, len(batch["x"]))
    layer = LAYER_CLASSES[gnn](config)
    assert graph.kinds is not None
    each = layer.edge_embedding1(graph.kinds[:, 0]) + layer.edge_embedding2(graph.kinds[:, 1])
    if graph.weight is not None:
        each = each * graph.weight[:, None]
    one_by_one = torch.zeros(len(batch["x"]), 12).index_add(0, graph.target, each)
    nothing = torch.zeros(len(batch["x"]), 12)
    torch.testing.assert_close(layer.aggregate(nothing, graph), one_by_one)


def test_one_atom_in_training_is_no_error() -> None:
    model = encoder("gin").train()
    states = model.nodes(*[graphs()[3].x, graphs()[3].edges, graphs()[3].edge_attr])
    assert torch.isfinite(states).all()
    states.sum().backward()


@pytest.mark.parametrize(
    "wrong",
    [{"gnn": "mlp"}, {"jumping_knowledge": "concat"}, {"edge_types": 3}, {"edge_types": 0}, {"hidden_size": 0}],
)
def test_sizes_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(StrictDataclassError, match=next(iter(wrong))):
        ChemGNNConfig(**wrong)


def test_half_precision_is_close() -> None:
    model = encoder("gin")
    exact = torch.stack(model.embed(join(graphs())))
    rough = torch.stack(model.to(torch.bfloat16).embed(join(graphs())))
    assert np.corrcoef(exact.flatten(), rough.flatten())[0, 1] > 0.999
