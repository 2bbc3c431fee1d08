"""GraphMAE: masks, shortcuts of the pretext task, embeddings, and official files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch_geometric.data import Data

import hub
from domains.graphs.adjacency import Adjacency
from domains.graphs.graphmae.collation import GraphMAECollator
from domains.graphs.graphmae.configuration import DECODERS, ENCODERS, GraphMAEConfig
from domains.graphs.graphmae.conversion import config_from_weights, convert
from domains.graphs.graphmae.modeling import GraphMAEModel
from domains.graphs.graphmae.pretraining import GraphMAEForPreTraining
from domains.graphs.processing import GraphProcessor
from domains.graphs.reading import GraphReader
from domains.graphs.samples import write_graphs
from domains.graphs.sampling import NeighbourSampler
from hub.domain import get_system
from hub.errors import InvalidCheckpoint, InvalidInput, InvalidRecipe
from hub.publishing import card_metadata, save_checkpoint, write_card
from hub.reading import Sample, Source
from hub.training.collation import Randomness, seeded_generator
from hub.training.pretrain import pretrain
from hub.training.recipe import load_recipe

WIDTH = 12


def graph(nodes: int, seed: int = 0, width: int = WIDTH) -> Sample:
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.randint(nodes, (2, 3 * nodes), generator=generator)
    pairs = pairs[:, pairs[0] != pairs[1]]
    both = torch.cat([pairs, pairs.flip(0)], dim=1).unique(dim=1)
    x = torch.rand(nodes, width, generator=generator) * (torch.rand(nodes, width, generator=generator) < 0.3)
    return Sample(Data(x=x, edge_index=both))


def config(**changes: Any) -> GraphMAEConfig:
    sizes = {"input_dim": WIDTH, "hidden_size": 16, "num_attention_heads": 4}
    still = {"feature_dropout": 0.0, "attention_dropout": 0.0}
    return GraphMAEConfig(**{**sizes, **still, **changes})


def batch_of(samples: list[Sample], model: GraphMAEConfig, seed: int = 0, **pretext: Any) -> dict[str, torch.Tensor]:
    collator = GraphMAECollator(GraphProcessor(WIDTH), model, **pretext)
    views = [collator.view(s, seeded_generator(seed, i)) for i, s in enumerate(samples)]
    return collator.collate(views, Randomness.seeded(len(views), seed))


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("decoder", DECODERS)
def test_every_pair_learns_to_rebuild(encoder, decoder) -> None:
    torch.manual_seed(0)
    task = GraphMAEForPreTraining(config(encoder=encoder, decoder=decoder, norm="batchnorm", gamma=2)).train()
    optimizer = torch.optim.Adam(task.parameters(), lr=1e-2)
    samples, losses = [graph(20, seed) for seed in range(3)], []
    for step in range(40):
        output = task(**batch_of(samples, task.config, step, mask_rate=0.5, replace_rate=0.1))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append(output.loss.item())
    assert all(p.grad is not None for p in task.parameters())
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_the_decoder_sees_nothing_of_masked_nodes_but_their_neighbours() -> None:
    """Re-masking: what the encoder makes of a masked node itself must not reach its own prediction."""
    task = GraphMAEForPreTraining(config()).eval()
    batch = batch_of([graph(20)], task.config, mask_rate=0.5)
    states = torch.randn(20, 16, requires_grad=True)
    rebuilt = task.rebuild([states], Adjacency(batch["edges"], 20), batch["masked"], batch["masked"].nonzero()[:, 0])
    (gradient,) = torch.autograd.grad(rebuilt.sum(), states)
    assert (gradient[batch["masked"]] == 0).all() and (gradient[~batch["masked"]] != 0).any()


def test_sparse_input_is_the_dense_input() -> None:
    task = GraphMAEForPreTraining(config()).train()
    torch.nn.init.normal_(task.mask_token)
    samples = [graph(20, 1), graph(7, 2)]
    results = []
    for sparse in (False, True):
        output = task(**batch_of(samples, task.config, mask_rate=0.6, replace_rate=0.3, sparse=sparse))
        gradients = torch.autograd.grad(output.loss, list(task.parameters()))
        results.append((output.loss, *gradients))
    for dense, sparse in zip(*results, strict=True):
        torch.testing.assert_close(sparse, dense, atol=1e-5, rtol=1e-4)


def test_masks_have_the_published_sizes() -> None:
    batch = batch_of(
        [graph(n, n) for n in (30, 41, 30)], config(), mask_rate=0.75, replace_rate=0.1, drop_edge_rate=0.5
    )
    masked, token, source = batch["masked"], batch["token"], batch["source"]
    noise = source != torch.arange(101)
    assert masked.sum() == 75 and token.sum() == 67 and noise.sum() <= 7
    assert (masked | ~token).all() and (masked | ~noise).all() and not (token & noise).any()
    loops = (batch["encoder_edges"][:, 0] == batch["encoder_edges"][:, 1]).sum()
    # A fresh self loop at every node beside those that were not dropped.
    assert 101 < loops < 202
    assert set(map(tuple, batch["encoder_edges"].tolist())) <= set(map(tuple, batch["edges"].tolist()))


def test_masks_by_graph_leave_no_graph_out() -> None:
    sizes = [1, 2, 3, 30, 49]
    batch = batch_of([graph(n, n) if n > 1 else _single() for n in sizes], config(), scope="graph", mask_rate=0.5)
    counts = torch.zeros(len(sizes)).index_add_(0, batch["batch"], batch["masked"].float())
    assert counts.tolist() == [1, 1, 1, 15, 24]
    assert (batch["batch"][batch["source"]] == batch["batch"]).all()


def _single() -> Sample:
    return Sample(Data(x=torch.ones(1, WIDTH), edge_index=torch.zeros(2, 0, dtype=torch.int64)))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_numbering_and_company_change_no_embedding(encoder) -> None:
    torch.manual_seed(0)
    model = GraphMAEModel(config(encoder=encoder, norm="batchnorm", num_hidden_layers=3)).eval()
    processor = GraphProcessor(WIDTH)
    samples = [graph(n, n) for n in (5, 40, 17)] + [_single()]
    together = processor.pad([processor.prepare(s) for s in samples])
    for i, sample in enumerate(samples):
        nodes = int(sample.data.num_nodes)
        order = torch.randperm(nodes)
        place = order.argsort()
        shuffled = Sample(Data(x=sample.data.x[order], edge_index=place[sample.data.edge_index]))
        alone = processor.pad([processor.prepare(shuffled)])
        for pooling in model.poolings:
            torch.testing.assert_close(
                model.embed(alone, pooling)[0], model.embed(together, pooling)[i], atol=1e-5, rtol=1e-5
            )
        torch.testing.assert_close(
            model.embed(alone, "none")[0], model.embed(together, "none")[i][order], atol=1e-5, rtol=1e-5
        )


def test_edges_are_embedded_by_their_ends() -> None:
    model, processor = GraphMAEModel(config()).eval(), GraphProcessor(WIDTH)
    samples = [graph(9, 1), _single()]
    batch = processor.pad([processor.prepare(s) for s in samples])
    answers, states = model.embed_edges(batch, samples), model.embed(batch, "none")
    u, v = answers[0]["edges"][0]
    assert u < v and len(answers[0]["edges"]) == samples[0].data.edge_index.shape[1] // 2
    np.testing.assert_allclose(answers[0]["embeddings"][0], (states[0][u] * states[0][v]).numpy(), atol=1e-6)
    assert answers[1] == {"edges": [], "embeddings": []}


def test_features_of_another_width_are_named() -> None:
    processor = GraphProcessor(5)
    with pytest.raises(InvalidInput, match="12 features a node; this model reads 5"):
        processor.prepare(graph(4))
    with pytest.raises(InvalidInput, match="this is a molecule"):
        processor.prepare(next(iter(GraphReader().parse("CCO"))))
    with pytest.raises(InvalidInput, match="no atoms"):
        GraphProcessor(119, "atoms").prepare(graph(4))
    atoms = GraphProcessor(119, "atoms").prepare(next(iter(GraphReader().parse("CCO")))).x
    assert atoms.argmax(1).tolist() == [5, 5, 7] and (atoms.sum(1) == 1).all()


def test_features_by_degree_and_their_normalisation() -> None:
    star = Sample(
        Data(x=torch.zeros(5, 0), edge_index=torch.tensor([[0, 0, 0, 0, 1, 2, 3, 4], [1, 2, 3, 4, 0, 0, 0, 0]]))
    )
    assert GraphProcessor(3, "degree").prepare(star).x.argmax(1).tolist() == [2, 1, 1, 1, 1]
    sample = graph(50)
    sample.data.x[3] = 0
    rows = GraphProcessor(WIDTH, normalise="rows").prepare(sample).x.sum(1)
    assert rows[3] == 0 and torch.allclose(rows[rows != 0], torch.ones(()))
    columns = GraphProcessor(WIDTH, normalise="columns").prepare(sample).x
    torch.testing.assert_close(columns.mean(0), torch.zeros(WIDTH), atol=1e-5, rtol=0)
    torch.testing.assert_close(columns.std(0, correction=0), torch.ones(WIDTH), atol=1e-5, rtol=0)


def test_a_sampled_part_has_what_it_needs() -> None:
    whole = GraphProcessor(WIDTH).prepare(graph(2000))
    whole.x[:, 0] = torch.arange(2000)  # tells the nodes apart
    part = NeighbourSampler([4, 2], 50).sample(whole, seeded_generator(1))
    again = NeighbourSampler([4, 2], 50).sample(whole, seeded_generator(1))
    assert all(torch.equal(a, b) for a, b in zip(part[:2], again[:2], strict=True))
    assert 50 < len(part.x) <= 50 * (1 + 4 + 8)
    numbers = part.x[:, 0].long()
    edges = set(map(tuple, numbers[part.edges].tolist()))
    known = set(map(tuple, whole.edges.tolist()))
    chosen = set(numbers.tolist())
    assert edges == {(a, b) for a, b in known if a in chosen and b in chosen}
    everything = NeighbourSampler([10_000], 2000).sample(whole, seeded_generator(2))
    assert torch.equal(everything.x, whole.x) and len(everything.edges) == len(whole.edges)


def test_neighbour_sampled_training_runs_from_a_recipe(tmp_path: Path) -> None:
    sample = graph(300)
    np.savez(tmp_path / "graph.npz", edge_index=sample.data.edge_index.numpy(), x=sample.data.x.numpy())
    recipe = load_recipe("graphmae/tiny").with_training(steps=4, log_every=1, save_every=4)
    recipe = replace(recipe, pretext={"mask_rate": 0.5, "fanouts": [5, 5], "seeds": 10})
    run = pretrain(recipe, tmp_path, tmp_path / "run")
    assert hub.from_pretrained(run).embed(tmp_path / "graph.npz", pooling="none").vectors[0].shape == (300, 32)


def test_recipes_that_cannot_be_are_refused() -> None:
    for model, pretext, message in (
        ({"input_dim": 5}, {}, "input_dim=5"),
        ({}, {"mask_rate": 0.0}, "mask_rate"),
        ({}, {"scope": "node"}, "scope"),
        ({"encoder": "gin"}, {"sparse": True}, "sparse"),
        ({}, {"fanouts": [3]}, "go together"),
    ):
        with pytest.raises(InvalidRecipe, match=message):
            GraphMAECollator(GraphProcessor(WIDTH), config(**model), **pretext)
    for wrong in ({"encoder": "mlp"}, {"hidden_size": 15}, {"gamma": 0.5}, {"norm": "graphnorm"}):
        with pytest.raises(Exception, match=next(iter(wrong))):
            config(**wrong)


def official(model: GraphMAEForPreTraining, *, pyg: bool) -> dict[str, torch.Tensor]:
    """Return the weights of a GAT or GIN model under the published names."""
    names = {"linear.weight": "lin_src.weight" if pyg else "fc.weight"}
    names |= {"attention_source": "att_src" if pyg else "attn_l", "attention_target": "att_dst" if pyg else "attn_r"}
    inner = "nn" if pyg else "apply_func"
    gin = {"expand": "linears.0", "contract": "linears.1", "inner_norm": "norms.0", "inner_activation": "activations.0"}
    layers, found = ("gat_layers" if model.config.encoder == "gat" else "layers"), {}
    for name, tensor in model.state_dict().items():
        if name == "mask_token" or name.startswith("bridge."):
            found["enc_mask_token" if name == "mask_token" else "encoder_to_decoder.weight"] = tensor
            continue
        decoder = name.startswith("decoder.")
        layer, rest = ("0", name.removeprefix("decoder.")) if decoder else name.split(".", 3)[2:]
        head, _, tail = rest.partition(".")
        if layers == "layers":
            part = f"{'' if decoder else 'mlp.'}{gin[head]}" if head in gin else {"activation": "act"}.get(head, head)
            rest = f"{inner}.{part}.{tail}"
        rest = names.get(rest, rest)
        prefix = f"{'decoder' if decoder else 'encoder'}.{layers}.{layer}."
        found[prefix + rest] = tensor[None] if "att" in rest else tensor
        if rest == "lin_src.weight":
            found[prefix + "lin_dst.weight"] = tensor
    return found


@pytest.mark.parametrize("pyg", [False, True], ids=["dgl", "pyg"])
@pytest.mark.parametrize("encoder", ["gat", "gin"])
def test_official_files_are_converted(tmp_path: Path, encoder: str, pyg: bool) -> None:
    model = GraphMAEForPreTraining(config(encoder=encoder, decoder=encoder, norm="batchnorm", num_hidden_layers=3))
    torch.save(official(model, pyg=pyg), tmp_path / "checkpoint.pt")
    facts = convert(tmp_path / "checkpoint.pt", tmp_path / "out", gamma=2, pooling="sum")
    assert facts["layers"] == f"3 ({encoder})"
    write_card(tmp_path / "out", card_metadata(get_system("graphmae"), license="mit"), "# converted\n\nFor a test.")
    embedder = hub.from_pretrained(tmp_path / "out")
    batch = embedder.processor.pad([embedder.processor.prepare(graph(9))])
    expected = model.graphmae.eval().embed(batch, "sum")[0]
    torch.testing.assert_close(embedder.model.embed(batch)[0], expected)


def test_wrong_official_files_are_refused_by_name(tmp_path: Path) -> None:
    weights = official(GraphMAEForPreTraining(config()), pyg=False)
    missing = {k: v for k, v in weights.items() if k != "decoder.gat_layers.0.bias"}
    file = tmp_path / "checkpoint.pt"
    for wrong, message in (
        (missing, "Missing: decoder.bias"),
        ({**weights, "extra.weight": torch.ones(1)}, "Unexpected: extra.weight"),
        ({"a": torch.ones(1)}, "enc_mask_token"),
        ([1, 2], "holds list; a dictionary of tensors"),
    ):
        torch.save(wrong, file)
        with pytest.raises(InvalidCheckpoint, match=message):
            convert(file, tmp_path / "out")
    torch.save({"a": Path("x")}, file)
    with pytest.raises(InvalidCheckpoint, match="asks for pathlib"):
        convert(file, tmp_path / "out")
    file.write_bytes(b"nothing of the kind")
    with pytest.raises(InvalidCheckpoint):
        convert(file, tmp_path / "out")
    assert config_from_weights(weights, "x").num_attention_heads == 4


def test_a_set_is_pretrained_saved_and_embedded(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    archive = write_graphs(data)[0]
    recipe = load_recipe("graphmae/mutag").with_training(steps=6, log_every=3, save_every=6)
    sizes = {"model": {**recipe.model, "input_dim": 3}, "processor": {**recipe.processor, "width": 3}}
    left_out: list[InvalidInput] = []
    run = pretrain(replace(recipe, **sizes), data, tmp_path / "run", on_error=left_out.append)
    # The edge list has no features: it is reported and left out, and the run goes on with the others.
    assert [Path(str(e.source)).name for e in left_out] == ["shape.edges"] and "0 features" in left_out[0].message
    embedder = hub.from_pretrained(run)
    result = embedder.embed(Source.from_path(archive))
    assert result.vectors.shape == (12, 32) and np.isfinite(result.vectors).all()
    save_checkpoint(tmp_path / "again", embedder.model, embedder.processor)
