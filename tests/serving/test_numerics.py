from __future__ import annotations

import asyncio
import importlib.util
from typing import Any

import numpy as np
import pytest
import torch
from arithmetic import expected, load
from conftest import running_app, running_engine, settings

from hub.embedder import from_pretrained
from serving.config import check_settings
from serving.engine import Engine
from serving.errors import InvalidSettings
from serving.inputs import PlainValue
from serving.numerics import Int8Linear, load_as_set, to_int8

SPEECH = all(importlib.util.find_spec(name) for name in ("soundfile", "soxr"))


@pytest.mark.parametrize(
    ("rows", "inputs", "outputs", "bias"), [(1, 1, 1, True), (3, 7, 5, False), (257, 129, 65, True)]
)
def test_an_int8_layer_is_a_linear_layer_to_within_its_steps(rows: int, inputs: int, outputs: int, bias: bool) -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(inputs, outputs, bias=bias)
    x = torch.randn(2, rows, inputs) * torch.logspace(-3, 3, rows)[:, None]
    layer = Int8Linear(linear)
    # Half a step of each factor, against the largest value of its row.
    bound = (x.abs().amax(-1, keepdim=True) * linear.weight.abs().amax(1)) * inputs * (1 / 127)
    assert ((layer(x) - linear(x)).abs() <= bound + 1e-6).all()
    assert (layer.weight - linear.weight).abs().max() <= linear.weight.abs().max() / 254 * 1.001
    # A row's result is its own: padding and neighbours do not matter, to the last bit.
    assert torch.equal(layer(x)[0, :1], layer(x[0, :1]))
    held = [*layer.buffers(), *layer.parameters()]
    assert sum(t.numel() * t.element_size() for t in held) <= inputs * outputs + 8 * outputs


def test_rows_of_zeros_stay_zero() -> None:
    linear = torch.nn.Linear(4, 3)
    torch.nn.init.zeros_(linear.weight)
    layer = Int8Linear(linear)
    assert torch.equal(layer(torch.randn(2, 4)), linear.bias.expand(2, 3))
    assert torch.isfinite(Int8Linear(torch.nn.Linear(4, 3))(torch.zeros(2, 4))).all()


def test_only_plain_linear_layers_on_the_cpu_are_replaced() -> None:
    attention = torch.nn.MultiheadAttention(8, 2)
    kept = attention.out_proj
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), attention)
    to_int8(model)
    assert isinstance(model[0], Int8Linear) and attention.out_proj is kept
    with pytest.raises(InvalidSettings, match="no linear layer"):
        to_int8(torch.nn.Sequential(torch.nn.Conv1d(1, 1, 1)))
    with pytest.raises(InvalidSettings, match="on the CPU"):
        to_int8(torch.nn.Sequential(torch.nn.Linear(1, 1, device="meta")))


def test_the_error_of_narrower_numbers_is_measured_and_told(run: Any) -> None:
    async def main() -> None:
        models = [{"name": "dummy", "alias": dtype, "dtype": dtype} for dtype in ("float32", "bfloat16", "int8")]
        async with running_app(*models) as (client, _):
            found = {}
            for dtype in ("float32", "bfloat16", "int8"):
                described = (await client.get(f"/v1/models/{dtype}")).json()
                assert described["dtype"] == dtype and described["compiled"] is False
                error = found[dtype] = described["dtype_error"]
                answer = await client.post("/v1/embeddings", json={"model": dtype, "input": [[0.1, 0.2, 0.3]]})
                vector = np.array(answer.json()["data"][0]["embedding"])
                if error is not None:
                    # It is what a client sees of the sample that the model is warmed up with.
                    difference = np.abs(vector - expected([0.1, 0.2, 0.3])).max()
                    assert difference == pytest.approx(error["largest_difference"], rel=1e-3)
                    assert error["largest_value"] == pytest.approx(1) and 0.999 < error["cosine"] <= 1
            assert found["float32"] is None
            assert 0 < found["bfloat16"]["largest_difference"] < 1 / 128
            assert 0 < found["int8"]["largest_difference"] < 1 / 100
            spaces = {(await client.get(f"/v1/models/{m['alias']}")).json()["embedding_space"] for m in models}
            assert len(spaces) == 3

    run(main())


def test_a_model_that_cannot_compute_so_says_so_when_it_loads(run: Any) -> None:
    def broken(*_: Any, dtype: str, **__: Any) -> Any:
        embedder = load("dummy", dtype=dtype)
        if dtype != "float32":
            embedder.model.forward = lambda **_: 1 / 0
        return embedder

    with pytest.raises(InvalidSettings, match="dummy cannot run with dtype bfloat16: ZeroDivisionError"):
        load_as_set(broken, settings({"name": "dummy", "dtype": "bfloat16"}).models[0])

    def infinite(*_: Any, dtype: str, **__: Any) -> Any:
        embedder = load("dummy", dtype=dtype)
        if dtype == "float16":
            torch.nn.init.constant_(embedder.model.mix.weight, 60000)
        return embedder

    with pytest.raises(InvalidSettings, match="overflows with dtype float16"):
        load_as_set(infinite, settings({"name": "dummy", "dtype": "float16"}).models[0])

    async def main() -> None:
        async with running_engine({"name": "dummy", "dtype": "bfloat16"}) as engine:
            outputs = await engine.embed("dummy", [PlainValue([float(n)]) for n in range(20)])
            assert [o[0].value[0] for o in outputs] == list(range(20))

    run(main())


@pytest.mark.skipif(not SPEECH, reason="needs the speech domain's packages")
@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_a_real_model_in_narrower_numbers(dtype: str) -> None:
    async def main() -> None:
        values = {"models": [{"name": "tera-tiny", "dtype": dtype}], "torch_threads": 1, "reader_workers": 0}
        engine = Engine(check_settings(values))
        await engine.wait_ready()
        lane = engine.lane("tera-tiny")
        plain = from_pretrained("tera-tiny")
        full = sum(p.numel() * p.element_size() for p in plain.model.parameters())
        assert lane.dtype_error is not None and lane.dtype_error.cosine > 0.999
        assert lane.dtype_error.largest_difference < 0.05 * lane.dtype_error.largest_value
        assert lane.bytes < 0.55 * full
        await engine.close()

    asyncio.run(main())


@pytest.mark.slow
@pytest.mark.skipif(not SPEECH, reason="needs the speech domain's packages")
def test_a_compiled_model_is_the_same_model() -> None:
    chosen = check_settings({"models": [{"name": "tera-tiny", "compile": True}]}).models[0]
    embedder, error = load_as_set(from_pretrained, chosen)
    assert error is not None and error.largest_difference < 1e-4 * error.largest_value
    rng = np.random.default_rng(0)
    plain = from_pretrained("tera-tiny")
    for seconds in (0.4, 1.1, 2.3):
        value = {"samples": rng.normal(size=int(16000 * seconds)).tolist(), "sampling_rate": 16000}
        one, two = embedder.embed(value).vectors, plain.embed(value).vectors
        np.testing.assert_allclose(one, two, atol=1e-4 * np.abs(two).max())
