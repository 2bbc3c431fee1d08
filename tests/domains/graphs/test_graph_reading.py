"""Graph files of every format, good and bad, through the domain's reader."""

from __future__ import annotations

import csv
import io
import json
import pickle
import zipfile
from pathlib import Path

import networkx
import numpy as np
import pytest
import torch

from domains.graphs.corpora import write_manifest
from domains.graphs.reading import GraphReader
from domains.graphs.samples import write_graphs
from hub.errors import InvalidInput, TooLarge, UnsupportedFormat
from hub.manifest import read_manifest
from hub.reading import Sample, Source

# Two graphs: a path of three nodes and a triangle.
TU = {
    "A": "1, 2\n2, 1\n2, 3\n3, 2\n4, 5\n5, 4\n5, 6\n6, 5\n4, 6\n6, 4\n",
    "graph_indicator": "1\n1\n1\n2\n2\n2\n",
    "graph_labels": "-1\n1\n",
    "node_labels": "0\n2\n0\n1\n1\n1\n",
}


def read(content: str | bytes, name: str = "file", **limits: int) -> list[Sample]:
    content = content.encode() if isinstance(content, str) else content
    return list(GraphReader(**limits).read(Source.from_bytes(content, name)))


def packed(files: dict[str, str], folder: str = "SET/SET_") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(f"{folder}{name}.txt", text)
    return stream.getvalue()


def undirected(sample: Sample) -> set[tuple[int, int]]:
    """The edges of a graph, which must come in both directions, once each, and without self loops."""
    pairs = [tuple(pair) for pair in sample.data.edge_index.t().tolist()]
    assert len(set(pairs)) == len(pairs) and all((b, a) in pairs and a != b for a, b in pairs)
    return {(a, b) for a, b in pairs if a < b}


def test_a_tu_set_is_read_from_archive_folder_and_file(tmp_path: Path) -> None:
    from_zip = read(packed(TU))
    windows = read(packed({n: t.replace("\n", "\r\n") + "\r\n\r\n" for n, t in TU.items()}, "other-name/SET_"))
    for name, text in TU.items():
        (tmp_path / f"SET_{name}.txt").write_text(text)
    (tmp_path / "README.txt").write_text("A set.")
    reader = GraphReader()
    from_folder = list(reader.read(Source.from_path(tmp_path)))
    assert reader.find(tmp_path, (".txt",)) == [tmp_path / "SET_A.txt"]
    from_file = list(reader.read(Source.from_path(tmp_path / "SET_A.txt")))
    for samples in (from_zip, windows, from_folder, from_file):
        assert [s.key for s in samples] == ["graph 1", "graph 2"]
        assert [s.metadata["label"] for s in samples] == ["-1", "1"]
        assert [undirected(s) for s in samples] == [{(0, 1), (1, 2)}, {(0, 1), (1, 2), (0, 2)}]
        torch.testing.assert_close(samples[0].data.x, torch.eye(3)[[0, 2, 0]])


def test_a_tu_set_keeps_trailing_nodes_without_edges() -> None:
    files = {**TU, "graph_indicator": TU["graph_indicator"] + "2\n3\n", "graph_labels": "0\n1\n0\n"}
    del files["node_labels"]
    samples = read(packed(files))
    assert [s.data.num_nodes for s in samples] == [3, 4, 1]
    assert all(s.data.x.shape[1] == 0 for s in samples)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"graph_indicator": None}, "SET_graph_indicator.txt is missing"),
        ({"graph_indicator": "0\n0\n0\n1\n1\n1\n"}, "counted from 1"),
        ({"graph_indicator": "1\n1\n1\n3\n3\n3\n"}, "line 4: graph 3 after graph 1"),
        ({"graph_indicator": "1\n2\n1\n2\n2\n2\n"}, "line 3: graph 1 after graph 2"),
        ({"A": "1, 2\n2, 7\n"}, "edge 2 names a node that is not there"),
        ({"A": "0, 1\n"}, "edge 1 names a node that is not there"),
        ({"A": "1, 4\n"}, "edge 1 joins nodes of two graphs"),
        ({"A": "1, 2\n2\n"}, "line 2 has 1 numbers instead of 2"),
        ({"A": "1, 2\nx, 1\n"}, "line 2 holds something that is no number"),
        ({"A": "1, 2\n1.5, 1\n"}, "not whole"),
        ({"node_labels": "0\n1\n"}, "2 lines for 6 nodes"),
        ({"node_labels": "0\n-1\n0\n1\n1\n1\n"}, "negative label"),
        ({"graph_labels": "1\n"}, "1 labels for 2 graphs"),
    ],
)
def test_a_tu_set_that_contradicts_itself_is_refused(change, message) -> None:
    files = {name: text for name, text in {**TU, **change}.items() if text is not None}
    with pytest.raises(InvalidInput, match=message):
        read(packed(files))


def test_archives_that_mean_harm_are_refused() -> None:
    def archive(name: str, content: bytes = b"1, 2\n") -> bytes:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as target:
            target.writestr(name, content)
        return stream.getvalue()

    for name in ("../SET_A.txt", "/etc/SET_A.txt", "a/../../SET_A.txt", "C:/SET_A.txt", "..\\SET_A.txt"):
        with pytest.raises(InvalidInput, match="leaves its folder"):
            read(archive(name))
    with pytest.raises(TooLarge, match="unpacks to 10,000,000 bytes"):
        read(archive("SET_A.txt", b"0" * 10_000_000))
    with pytest.raises(TooLarge, match="unpacks to"):
        read(archive("SET_A.txt", bytes(range(256)) * 8), max_bytes=1_500, max_expansion=10_000)
    whole = packed(TU)
    for cut in (len(whole) // 2, len(whole) - 10):
        with pytest.raises(InvalidInput):
            read(whole[:cut])
    damaged = bytearray(whole)
    damaged[60:70] = b"\xff" * 10
    with pytest.raises(InvalidInput, match="damaged"):
        read(bytes(damaged))


def test_s2v_is_the_same_set_as_tu() -> None:
    text = "2\n3 -1\n0 1 1\n2 2 0 2\n0 1 1\n3 1\n1 2 1 2\n1 2 0 2\n1 2 0 1\n"
    for ours, theirs in zip(read(text), read(packed(TU)), strict=True):
        assert undirected(ours) == undirected(theirs) and torch.equal(ours.data.x, theirs.data.x)
        assert ours.metadata["label"] == theirs.metadata["label"]
    for bad in (text[: len(text) // 2], text.replace("2 2 0 2", "2 9 0 2"), text.replace("0 1 1", "0 1 8")):
        with pytest.raises(InvalidInput):
            read(bad)


def test_edge_lists_in_their_many_forms() -> None:
    wanted = {(0, 1), (1, 2), (2, 3)}
    for text in (
        "0 1\n1 2\n2 3\n",
        "# a comment\n0\t1\n1\t2\n3\t2\n1 0\n",
        "source,target,weight\n0,1,0.5\n1,2,0.25\n2,3,1\n",
        "weight,to,from\n0.5,1,0\n1.5,2,1\n1,3,2\n",
        "0,1\n1,2\n2,3\n2,2\n",
    ):
        (sample,) = read(text)
        assert undirected(sample) == wanted and sample.data.x.shape == (4, 0)
    for text, message in (("0 1\n1\n", "line 2"), ("0 1\n1 1.5\n", "not whole"), ("0 1\n1 -2\n", "node -2")):
        with pytest.raises(InvalidInput, match=message):
            read(text)
    with pytest.raises(TooLarge, match="1,000,000,001 nodes"):
        read("0 1000000000\n")


def test_a_graph_in_two_tables(tmp_path: Path) -> None:
    (tmp_path / "edges.csv").write_text("source,target\n0,1\n1,2\n")
    (tmp_path / "nodes.csv").write_text("id,a,b\n0,1,0.5\n1,0,2\n2,0,0\n")
    reader = GraphReader()
    assert reader.find(tmp_path, (".csv",)) == [tmp_path / "edges.csv"]
    for path in (tmp_path, tmp_path / "edges.csv"):
        (sample,) = reader.read(Source.from_path(path))
        assert sample.data.x.tolist() == [[1, 0.5], [0, 2], [0, 0]]
    (tmp_path / "nodes.csv").write_text("id,a\n1,1\n0,0\n2,0\n")
    with pytest.raises(InvalidInput, match="does not count from 0"):
        list(reader.read(Source.from_path(tmp_path)))


def npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def test_numpy_archives_dense_and_sparse() -> None:
    edges = np.array([[0, 1, 2], [1, 2, 0]])
    x = np.array([[1, 0], [0, 0], [0, 3]], np.float32)
    masks = {"train_mask": np.array([True, False, False])}
    sparse = {
        "x_indptr": np.array([0, 1, 1, 2]),
        "x_indices": np.array([0, 1]),
        "x_data": np.array([1.0, 3.0]),
        "x_shape": np.array([3, 2]),
    }
    for arrays in ({"x": x}, sparse):
        (sample,) = read(npz(edge_index=edges, y=np.array([0, 1, 1]), **masks, **arrays))
        assert sample.data.x.tolist() == x.tolist() and sample.data.y.tolist() == [0, 1, 1]
        assert sample.data.train_mask.tolist() == [True, False, False]
    for bad, message in (
        ({"x": x}, "a graph is 'edge_index'"),
        ({"edge_index": edges.T, "x": x}, "2 x edges"),
        ({"edge_index": edges + 1, "x": x}, "names node 3"),
        ({"edge_index": edges, "x": x * np.nan}, "NaN"),
        ({"edge_index": edges, "x": np.array([{}], dtype=object)}, "arrays of numbers"),
        ({"edge_index": edges, **{**sparse, "x_indices": np.array([0, 2])}}, "contradict"),
        ({"edge_index": edges, **{**sparse, "x_shape": np.array([3, 10**9])}}, "at most"),
    ):
        with pytest.raises(InvalidInput, match=message):
            read(npz(**bad))


def test_an_array_that_announces_more_than_it_holds_is_refused() -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**6, 10**6)})
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("x.npy", header.getvalue())
        archive.writestr("edge_index.npy", header.getvalue())
    with pytest.raises(InvalidInput, match="not what its header says"):
        read(stream.getvalue())


def test_json_and_graphml_written_by_networkx() -> None:
    graph = networkx.Graph([("a", "b"), ("b", "c"), ("c", "d")])
    for number, node in enumerate(graph.nodes):
        graph.nodes[node].update(mass=float(number), name=f"node {number}")
    written = io.BytesIO()
    networkx.write_graphml(graph, written)
    for content in (
        written.getvalue(),
        json.dumps(networkx.node_link_data(graph, edges="links")),
        json.dumps(networkx.node_link_data(graph, edges="edges")),
    ):
        (sample,) = read(content)
        assert undirected(sample) == {(0, 1), (1, 2), (2, 3)}
        assert sample.data.x.tolist() == [[0], [1], [2], [3]]
    bomb = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "bb">]><graphml>&b;</graphml>'
    for text in (bomb, "<html></html>", written.getvalue().decode()[:-30]):
        with pytest.raises(InvalidInput):
            read(text)


def test_one_bad_graph_of_a_list_leaves_the_others() -> None:
    good, bad = {"edge_index": [[0], [1]], "x": [[1.0], [2.0]]}, {"edge_index": [[0], [5]], "x": [[1.0]]}
    samples = read(json.dumps([good, bad, good]))
    assert [s.error is None for s in samples] == [True, False, True]
    assert "graph 2: edge 0 names node 5" in str(samples[1].error)
    with pytest.raises(InvalidInput, match="graph 1: "):
        read(json.dumps([bad, bad]))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"edge_index": [[0], [1]]}, "'x' is missing"),
        ({"edge_index": [[0], [1]], "x": [[1], [2]], "name": 1}, "1 unknown fields"),
        ({"edge_index": [[0], [True]], "x": [[1], [2]]}, "no number"),
        ({"edge_index": [[0, 1], [1]], "x": [[1], [2]]}, "ragged: row 1 has 1 numbers, row 0 has 2"),
        ({"edge_index": [[0], [1]], "x": [[1], ["2"]]}, "no number"),
        ({"edge_index": [[0], [1]], "x": [[1e400], [2]]}, "NaN or infinite"),
        ({"edge_index": [[0], [1]], "x": [[1e39], [2]]}, "NaN or infinite"),
        ({"edge_index": [[0], [1]], "x": [[1], [2]], "edge_attr": [[1], [2]]}, "2 rows for 1 edges"),
        ({"edge_index": [[0], [1]], "x": [[1], [2]], "edge_attr": [[float("nan")]]}, "'edge_attr' holds NaN"),
        ({"edge_index": [0, 1], "x": [[1], [2]]}, "list of lists"),
        ("C1CC", "unclosed"),
        ("", "empty"),
    ],
)
def test_plain_values_that_are_no_graph_are_refused(value, message) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        list(GraphReader().parse(value, "input[3]"))
    assert caught.value.source == "input[3]"


def test_plain_values_take_tensors_edge_features_and_smiles() -> None:
    value = {"edge_index": np.array([[0, 1, 1], [1, 0, 2]]), "x": torch.eye(3), "edge_attr": [[1.0], [1.0], [3.0]]}
    (sample,) = GraphReader().parse(value)
    assert sample.data.edge_attr.tolist() == [[1], [1], [3], [3]] and "one direction" in sample.warnings[0]
    (edgeless,) = GraphReader().parse({"edge_index": [[], []], "x": [[1.0]]})
    assert edgeless.data.num_nodes == 1 and edgeless.data.edge_index.shape == (2, 0)
    (molecule,) = GraphReader().parse("[Na+].[Cl-]")
    assert not molecule.data.x.is_floating_point()


def test_limits_hold_before_anything_is_built() -> None:
    graph = {"edge_index": [[0, 1], [1, 2]], "x": [[1.0, 2.0]] * 3}
    for limit in ("max_nodes", "max_edges", "max_features"):
        with pytest.raises(TooLarge, match="at most 1 are read"):
            list(GraphReader(**{limit: 1}).parse(graph))
    with pytest.raises(TooLarge, match="at most 20 are read"):
        list(GraphReader(max_atoms=20).parse("C" * 21))
    assert set(GraphReader().limits()) >= {"max_bytes", "max_expansion", "max_nodes", "max_edges", "max_features"}


def test_pickles_are_never_read_from_uploads_and_hold_nothing_but_arrays(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("executed",)

    for protocol in (0, 2):
        with pytest.raises((UnsupportedFormat, InvalidInput)):
            read(pickle.dumps({"a": np.zeros(3)}, protocol))
    for part in ("tx", "allx", "y", "ty", "ally", "graph"):
        (tmp_path / f"ind.x.{part}").write_bytes(pickle.dumps(Attack(), 2))
    (tmp_path / "ind.x.test.index").write_text("0\n")
    with pytest.raises(InvalidInput, match=r"__builtin__\.print is not allowed"):
        list(GraphReader().read(Source.from_path(tmp_path)))


def test_sample_graphs_of_all_formats_are_read(tmp_path: Path) -> None:
    archive, plain, graphml, listed = write_graphs(tmp_path)
    reader = GraphReader()
    first = next(iter(reader.read(Source.from_path(archive))))
    for path in (plain, graphml, listed):
        (sample,) = reader.read(Source.from_path(path))
        assert sample.data.num_nodes == first.data.num_nodes
        assert sample.data.edge_index.shape == first.data.edge_index.shape
    manifest = tmp_path / "shapes.csv"
    assert write_manifest(archive, manifest) == 12
    rows = read_manifest(manifest, need=("file", "label"))
    assert [r.label for r in rows[:3]] == ["0", "1", "0"] and rows[0].item == "graph 1"


def test_real_sets(shared_data: Path) -> None:
    reader, root = GraphReader(), shared_data / "graphs"
    mutag = list(reader.read(Source.from_path(root / "tu/MUTAG/raw")))
    s2v = list(reader.read(Source.from_path(root / "tu/s2v/MUTAG.txt")))
    assert len(mutag) == len(s2v) == 188 and mutag[0].data.x.shape[1] == 7
    assert sorted(s.data.num_nodes for s in mutag) == sorted(s.data.num_nodes for s in s2v)
    (pickled,) = reader.read(Source.from_path(root / "planetoid/Cora/raw"))
    (plain,) = reader.read(Source.from_path(root / "planetoid/cora.npz"))
    for name in ("x", "edge_index", "y", "train_mask", "val_mask", "test_mask"):
        assert torch.equal(pickled.data[name], plain.data[name]), name


def test_malformed_files_are_answered_as_their_manifest_says(shared_data: Path) -> None:
    folder = shared_data / "graphs/malformed"
    with (folder / "manifest.csv").open(newline="") as stream:
        cases = list(csv.DictReader(stream))
    assert cases
    for case in cases:
        try:
            samples = list(GraphReader().read(Source.from_path(folder / case["file"])))
        except InvalidInput as error:
            assert case["expect"] != "accept" and len(error.message) > 10, case
        else:
            assert case["expect"] != "reject" and any(s.error is None for s in samples), case


def test_a_comma_in_a_name_makes_no_table(tmp_path) -> None:
    (tmp_path / "named.smi").write_text("CCO 2,3-thing\nCC other\n")
    samples = list(GraphReader().read(Source.from_path(tmp_path / "named.smi")))
    assert [s.key for s in samples] == ["2,3-thing", "other"]
    (tmp_path / "table.txt").write_text("compound id,smiles\n7,CCO\n")
    assert [s.key for s in GraphReader().read(Source.from_path(tmp_path / "table.txt"))] == ["7"]
