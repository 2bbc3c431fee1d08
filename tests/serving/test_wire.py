from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from hub.embedder import Prepared
from hub.errors import InvalidInput, TooLarge
from hub.modeling import TaskFile
from hub.reading import Sample, Source
from serving.jobs import Refused
from serving.readers import frames
from serving.readers.wire import Garbled, Types, Unsendable, decode, encode

TYPES = Types([__name__])


class Pair(NamedTuple):
    first: Any
    second: Any


@dataclass(frozen=True, slots=True)
class Slotted:
    value: Any


@dataclass(frozen=True)
class Strict:
    value: int

    def __post_init__(self) -> None:
        raise AssertionError("a constructor was run")


@dataclass(frozen=True)
class Lazy:
    source: Source
    shape: tuple[int, ...]
    open: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"source": self.source, "shape": self.shape}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, open="reopened")


class Ordinary:
    pass


def there_and_back(value: Any, types: Types = TYPES) -> Any:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        head, pieces = encode(value)
        frames.send(ours, head, pieces)
        return decode(*frames.receive(theirs, 1 << 30), types)


ARRAYS = [
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(24).reshape(2, 3, 4)[:, ::2],
    np.zeros((0, 3), np.int8),
    np.array(3 + 4j, np.complex64),
    np.array(["a", "bc"]),
    np.array(["2020-01-01"], "M8[s]"),
    np.array([True, False]),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}{a.shape}")
def test_arrays_arrive_as_they_were(array: np.ndarray) -> None:
    found = there_and_back([array, array[..., :1] if array.ndim else array])
    assert found[0].dtype == array.dtype and found[0].shape == array.shape and (found[0] == array).all()
    assert found[0].flags.f_contiguous == array.flags.f_contiguous or not array.flags.c_contiguous
    if array.size and array.dtype.kind in "fc":
        found[0][...] = 0  # what a model gets it may change


def test_plain_values_records_and_errors_arrive_as_they_were() -> None:
    error = TooLarge("message", code="too_long", source="a.wav")
    value = {
        "plain": [None, True, 1, -1.5, float("inf"), "text é \udc80"],
        ("key", 2): ((1, 2), [(1, [2]), {}], b"bytes", frozenset({1})),
        "scalar": np.float32(1.5),
        "records": [Pair(1, [2, (3,)]), Slotted(Pair(1, 2)), TaskFile(b"x", "text/plain", "n")],
    }
    assert there_and_back(value) == value
    assert np.isnan(there_and_back(float("nan")))
    sample = Sample([1.0], "k", ("warn",), {"a": 1}, None)
    assert there_and_back(sample) == sample and there_and_back(Refused("k", error)).error.source == "a.wav"
    back = there_and_back(error)
    assert type(back) is TooLarge and vars(back) == vars(error)

    class Finer(InvalidInput):
        pass

    assert type(there_and_back(Finer("m"))) is InvalidInput
    for dtype in (torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64):
        tensor = torch.tensor([[0, 1], [2, 3]]).to(dtype).t()
        assert there_and_back(tensor).dtype == dtype and torch.equal(there_and_back(tensor), tensor)
    prepared = there_and_back(Prepared((torch.ones(2), 0.5), 2, sample, "a.wav"))
    assert torch.equal(prepared.features[0], torch.ones(2)) and prepared.features[1] == 0.5 and prepared.cost == 2


def test_no_constructor_is_run_and_no_file_comes_along() -> None:
    strict = object.__new__(Strict)
    object.__setattr__(strict, "value", 5)
    assert there_and_back(strict).value == 5
    lazy = there_and_back(Lazy(Source.from_bytes(b"content", "a.tif"), (2, 3), open=Ordinary()))
    assert lazy.source == Source("a.tif") and lazy.shape == (2, 3) and lazy.open == "reopened"


UNSENDABLE = {"object": Ordinary(), "class": Ordinary, "function": print, "array": np.array([None]), "bare": object()}


@pytest.mark.parametrize("value", UNSENDABLE.values(), ids=UNSENDABLE)
def test_what_is_no_data_is_not_sent(value: Any) -> None:
    with pytest.raises(Unsendable):
        encode({"value": [value]})


def test_graphs_and_sparse_matrices() -> None:
    data = pytest.importorskip("torch_geometric.data")
    sparse = pytest.importorskip("scipy.sparse")
    graph = data.Data(x=torch.ones(2, 3), edge_index=torch.tensor([[0], [1]]), smiles="CC")
    back = there_and_back(Sample(graph)).data
    assert back.smiles == "CC" and back.num_nodes == 2 and torch.equal(back.edge_index, graph.edge_index)
    matrix = sparse.csr_array(np.eye(3))
    assert (there_and_back(Pair(matrix, None)).first != matrix).nnz == 0
    forged = json.loads(encode(matrix)[0])
    block = np.frombuffer(b"".join(encode(matrix)[1]), np.uint8)
    with pytest.raises(Garbled):
        decode(json.dumps([*forged[:-1], 1]).encode(), block, TYPES)  # its indices point outside


@pytest.mark.parametrize(
    "forged",
    [
        b"cos\nsystem\n(S'id'\ntR.",
        b"\x80\x05\x95",
        b"[",
        b'["?"]',
        b"[]",
        b'{"a": 1}',
        b"[" * 100_000,
        b'["r", "subprocess:Popen", "id"]',
        b'["r", "os:system", "id"]',
        b'["r", "hub.embedder:from_pretrained", "x"]',
        b'["r", "hub.domain:Domain", 1]',
        b'["r", "hub.reading:Source", "x", "/etc/passwd", null]',
        b'["r", "hub.reading:Sample", 1]',
        b'["r", "test_wire:Ordinary"]',
        b'["r", "test_wire:Pair.__init__", 1]',
        b'["r", "test_wire:Pair", 1, 2, 3]',
        b'["r", "test_wire:np", 1]',
        b'["r", "test_wire.nowhere:Pair", 1, 2]',
        b'["o", "test_wire:Pair", ["d", []]]',
        b'["o", "test_wire:Slotted", ["d", [["value", 1]]]]',
        b'["o", "test_wire:Lazy", ["d", [["__class__", 1]]]]',
        b'["a", "|O8", [1], false, 0, 8]',
        b'["a", "<f4", [3], false, 0, 8]',
        b'["a", "<f4", [-1], false, 0, 8]',
        b'["a", "<f4", [-1, -2], false, 0, 8]',
        b'["a", "<f4", [2], false, 4, 8]',
        b'["a", "<f4", [2], false, -8, 8]',
        b'["a", "<f4", [2.0], false, 0, 8]',
        b'["a", "<U999999999", [0], false, 0, 8]',
        b'["s", "|O8", "AAAAAAAAAAA="]',
        b'["b", 0, 9]',
        b'["p", ["l"]]',
        b'["d", [[["l"], 1]]]',
        b'["e", "KeyError", "m", "c", null]',
        b'["T", "<U1", [2], false, 0, 8, "float32"]',
        b'["T", "<f4", [2], false, 0, 8, "bfloat16", 1]',
        b'["g", 1]',
    ],
    ids=lambda f: f[:40].decode("latin-1"),
)
def test_forged_answers_are_refused(forged: bytes) -> None:
    with pytest.raises(Garbled):
        decode(forged, np.zeros(8, np.uint8), TYPES)


def test_a_message_of_any_size_comes_through_and_none_larger_than_allowed() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for count in (0, 1, 700):
            pieces = [memoryview(bytes([i % 256]) * 10) for i in range(count)]
            frames.send(ours, b"head", pieces)
            head, block = frames.receive(theirs, 1 << 20)
            assert head.strip() == b"head" and block.tobytes() == b"".join(pieces)
        frames.send(ours, b"x" * 100)
        with pytest.raises(frames.FrameTooLarge):
            frames.receive(theirs, 99)
        ours.sendall(bytes(24))
        with pytest.raises(frames.FrameTooLarge):
            frames.receive(theirs, 99)
        ours.close()
        with pytest.raises(frames.Closed):
            frames.receive(theirs, 99)
