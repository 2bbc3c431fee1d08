from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from arithmetic import POISON, expected, file_of
from conftest import running_app

INFER = "/v2/models/dummy/infer"


def tensor(name: str, datatype: str, shape: list[int], data: Any = None, **parameters: Any) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
    return entry | ({} if data is None else {"data": data}) | ({"parameters": parameters} if parameters else {})


def elements(*values: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(v)) + v for v in values)


async def post_binary(
    http: httpx.AsyncClient, body: dict[str, Any], *pieces: bytes, path: str = INFER, length: bytes | None = None
) -> httpx.Response:
    text = json.dumps(body).encode()
    headers = [(b"inference-header-content-length", length or str(len(text)).encode())]
    return await http.post(path, content=b"".join([text, *pieces]), headers=headers)


def outputs_of(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    head = answer.headers.get("inference-header-content-length")
    content = answer.content if head is None else answer.content[: int(head)]
    behind = b"" if head is None else answer.content[int(head) :]
    found = {}
    for output in json.loads(content)["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            found[output["name"]] = np.array(output["data"]).reshape(output["shape"])
            continue
        raw, behind = behind[:size], behind[size:]
        kind = {"FP32": "<f4", "INT64": "<i8"}.get(output["datatype"])
        found[output["name"]] = np.frombuffer(raw, kind).reshape(output["shape"]) if kind else raw
    assert not behind
    return found


def test_what_the_server_tells(run: Callable[..., Any]) -> None:
    async def main() -> None:
        async with running_app("dummy", "org/other", {"name": "later", "load": "first_use"}) as (http, _):
            told = (await http.get("/v2")).json()
            assert told["name"] == "fmhub" and "binary_tensor_data" in told["extensions"]
            assert (await http.get("/v2/health/live")).json() == {"live": True}
            assert (await http.get("/v2/health/ready")).json() == {"ready": True}
            for name in ("org/other", "later"):
                assert (await http.get(f"/v2/models/{name}/ready")).json() == {"name": name, "ready": True}
            facts = (await http.get("/v2/models/org/other")).json()
            assert facts["name"] == "org/other" and facts["outputs"][0]["shape"] == [-1, 4]
            assert "string of numbers" in facts["parameters"]["plain_form"]
            (version,) = facts["versions"]
            described = (await http.get("/v1/models/org/other")).json()
            assert version == described["embedding_space"]
            for rest in ("", "/ready", "/config", "/stats"):
                assert (await http.get(f"/v2/models/org/other/versions/{version}{rest}")).status_code == 200
                wrong = await http.get(f"/v2/models/org/other/versions/1{rest}")
                assert wrong.status_code == 404 and version in wrong.json()["error"]
            assert (await http.get("/v2/models/later")).json()["versions"] == []
            config = (await http.get("/v2/models/dummy/config")).json()
            assert config["max_batch_size"] == 0 and config["input"][0]["data_type"] == "TYPE_STRING"
            index = (await http.post("/v2/repository/index")).json()
            assert {m["name"]: m["state"] for m in index} == {
                "dummy": "READY", "org/other": "READY", "later": "UNAVAILABLE",
            }  # fmt: skip
            blank = await http.post("/v2/repository/index", content=b" ", headers={"content-type": "application/json"})
            assert blank.status_code == 400
            ready = (await http.post("/v2/repository/index", json={"ready": True})).json()
            assert [m["name"] for m in ready] == ["dummy", "org/other"]
            await http.post(INFER, json={"inputs": [tensor("value", "BYTES", [3], ["1", "2", "3"])]})
            (stats,) = (await http.get("/v2/models/dummy/stats")).json()["model_stats"]
            assert stats["inference_count"] == 3 and stats["inference_stats"]["compute_infer"]["ns"] > 0
            assert len((await http.get("/v2/models/stats")).json()["model_stats"]) == 3

    run(main())


def test_every_form_of_input_gives_the_same_vectors(run: Callable[..., Any]) -> None:
    async def main() -> None:
        async with running_app() as (http, _):
            file = file_of([1, 2, 3])
            want = expected([1, 2, 3])
            numbers = [1.0, 2.0, 3.0, 4.0]
            for body, raw, wanted in (
                ([tensor("file", "BYTES", [1], [base64.b64encode(file).decode()])], b"", [want]),
                ([tensor("file", "BYTES", [1], binary_data_size=4 + len(file))], elements(file), [want]),
                ([tensor("json", "BYTES", [2], ["[1, 2, 3]", '"4"'])], b"", [want, expected([4])]),
                ([tensor("value", "BYTES", [2], ["1 2 3", "4"])], b"", [want, expected([4])]),
                ([tensor("value", "FP32", [2, 2], numbers)], b"", [expected([1, 2]), expected([3, 4])]),
                ([tensor("value", "INT64", [2, 2], [[1, 2], [3, 4]])], b"", [expected([1, 2]), expected([3, 4])]),
                (
                    [
                        tensor("numbers", "INT16", [2, 2], binary_data_size=8),
                        tensor("scale", "FP64", [2], binary_data_size=16),
                    ],
                    np.array(numbers, "<i2").tobytes() + np.array([2, 1], "<f8").tobytes(),
                    [expected([2, 4]), expected([3, 4])],
                ),
                ([tensor("value", "FP16", [1, 3], binary_data_size=6)], np.arange(1, 4, dtype="<f2").tobytes(), [want]),
                (
                    [tensor("value", "BF16", [1, 3], binary_data_size=6)],
                    np.arange(1, 4, dtype="<f4").view("<u2")[1::2].tobytes(),
                    [want],
                ),
            ):
                found = outputs_of(await post_binary(http, {"inputs": body}, raw))
                np.testing.assert_allclose(found["embedding"], wanted, rtol=1e-6)
                assert found["item_input"].tolist() == list(range(len(wanted)))
            shared = {"inputs": [tensor("numbers", "FP32", [1, 2], [1, 2])], "parameters": {"scale": 3}}
            found = outputs_of(await http.post(INFER, json=shared))
            np.testing.assert_allclose(found["embedding"], [expected([3, 6])], rtol=1e-6)

    run(main())


def test_files_of_many_samples_and_what_cannot_be_used(run: Callable[..., Any]) -> None:
    async def main() -> None:
        async with running_app() as (http, _):
            files = [file_of([1], ["x"], [2]), file_of([3])]
            raw, names = elements(*files), elements(b"a.num", b"b.num")
            inputs = [
                tensor("file", "BYTES", [2], binary_data_size=len(raw)),
                tensor("filename", "BYTES", [2], binary_data_size=len(names)),
            ]
            body = {"id": "mine", "inputs": inputs, "parameters": {"binary_data_output": True}}
            answer = await post_binary(http, body, raw, names)
            assert answer.headers["content-type"] == "application/octet-stream"
            found = outputs_of(answer)
            assert found["embedding"][:, 0].tolist() == [1, 2, 3] and found["item_input"].tolist() == [0, 0, 1]
            assert found["item_key"] == elements(b"s0", b"s2", b"s0")
            (error,) = [json.loads(found["errors"][4:])]
            assert (error["input"], error["key"], error["code"]) == (0, "s1", "no_number")
            head = json.loads(answer.content[: int(answer.headers["inference-header-content-length"])])
            described = (await http.get("/v1/models/dummy")).json()
            assert head["id"] == "mine" and head["model_version"] == described["embedding_space"]
            assert head["parameters"] == {n: described[n] for n in ("weights", "processor", "embedding_space")}
            named = [{"name": "item_key"}, {"name": "embedding", "parameters": {"binary_data": False}}]
            mixed = await post_binary(http, {**body, "outputs": named}, raw, names)
            assert list(outputs_of(mixed)) == ["item_key", "embedding"]
            bad = await post_binary(http, {"inputs": inputs}, elements(b"?", file_of([1])), names)
            assert bad.status_code == 422 and "binary_data_size" in bad.json()["error"]
            raw = elements(b"damaged", file_of([1]))
            inputs[0] = tensor("file", "BYTES", [2], binary_data_size=len(raw))
            damaged = await post_binary(http, {"inputs": inputs}, raw, names)
            assert damaged.status_code == 415 and damaged.json() == {"error": "a.num: not a file of numbers"}

    run(main())


def test_options_and_tasks(run: Callable[..., Any]) -> None:
    async def main() -> None:
        async with running_app("dummy", {"name": "later", "load": "first_use"}) as (http, _):
            inputs = [tensor("value", "BYTES", [2], ["1 2 3", "4"])]

            async def ask(outputs: list[str] | None = None, model: str = "dummy", **parameters: Any) -> Any:
                body = {"inputs": inputs, "parameters": parameters}
                named = {} if outputs is None else {"outputs": [{"name": name} for name in outputs]}
                return await http.post(f"/v2/models/{model}/infer", json=body | named)

            assert outputs_of(await ask(pooling="max"))["embedding"][0].tolist() == [3, 9, 1, pytest.approx(0.003)]
            short = outputs_of(await ask(dimensions=2))["embedding"]
            assert short.shape == (2, 2) and np.allclose(np.linalg.norm(short, axis=1), 1)
            tokens = outputs_of(await ask(pooling="none"))
            assert tokens["embedding"].shape == (4, 4) and tokens["item_rows"].tolist() == [3, 1]
            assert outputs_of(await ask(layer=0))["embedding"][0, 0] == -2
            total = await ask(["total", "item_input"])
            assert [json.loads(t) for t in outputs_of(total)["total"]] == [{"total": 6.0}, {"total": 4.0}]
            assert "embedding_space" not in total.json()["parameters"]
            table = outputs_of(await ask(["table"], model="later", binary_data_output=True))["table"]
            assert table == elements(b"1.0,2.0,3.0", b"4.0")
            for answer, words in (
                (await ask(["nope"]), "total, table, broken"),
                (await ask(["total", "embedding"]), "a request of its own"),
                (await ask(["total"], pooling="max"), "not for a task"),
                (await ask(["item_rows"]), "pooling 'none'"),
                (await ask(dimensions=9), "more than the 4"),
                (await ask(pooling="median"), "none, mean, max, sum"),
                (await ask(priority=1), "priority is not supported"),
                (await ask(timeout=-1), "microseconds"),
                (await ask(sampling_rate=3), "no parameter 'sampling_rate'"),
            ):
                assert answer.status_code == 422 and words in answer.json()["error"], answer.text

    run(main())


def test_what_is_wrong_is_named(run: Callable[..., Any]) -> None:
    value = tensor("value", "FP32", [1, 2], [1, 2])

    async def main() -> None:
        async with running_app(max_body_bytes=5000, max_inputs=4) as (http, engine):
            for inputs, words in (
                ([tensor("value", "FP32", [1, 3], [1, 2])], "takes 3 elements, not 2"),
                ([tensor("value", "FP32", [1, 2], ["a", "b"])], "FP32 numbers alone"),
                ([tensor("value", "UINT8", [1, 2], [1, 256])], "UINT8 numbers alone"),
                ([tensor("value", "FP16", [1], [1])], "no form in JSON"),
                ([tensor("value", "BYTES", [1], [5])], "BYTES in JSON are strings"),
                ([tensor("value", "FP32", [1, 2], [[1], [2]])], "nested as [2, 1]"),
                ([tensor("value", "FP32", [1, 2])], "either 'data' or the parameter"),
                ([value, value], "same name"),
                ([value, tensor("file", "BYTES", [1], ["QUJD"])], "no other tensor"),
                ([tensor("numbers", "FP32", [1, 2], [1, 2]), tensor("scale", "FP32", [2], [1, 2])], "'scale' has 2"),
                ([tensor("value", "FP32", [], [1])], "'value' has 0"),
                ([tensor("value", "FP99", [1], [1])], "datatype"),
                ([tensor("json", "BYTES", [1], ["{"])], "input[0] is not JSON"),
                ([tensor("file", "BYTES", [1], ["?"])], "not base64"),
                ([tensor("value", "FP32", [1], [1], shared_memory_region="x")], "no parameter 'shared_memory_region'"),
                ([tensor("value", "FP32", [-1], [1])], "greater than or equal to 0"),
                ([], "at least 1 item"),
            ):
                answer = await http.post(INFER, json={"inputs": inputs})
                assert answer.status_code == 422 and words in answer.json()["error"], answer.text
            nan = np.array([1, np.nan], "<f4").tobytes()
            odd = await post_binary(http, {"inputs": [tensor("value", "FP32", [1, 2], binary_data_size=8)]}, nan)
            assert odd.status_code == 422 and "NaN" in odd.json()["error"]
            left = await post_binary(http, {"inputs": [value]}, b"abc")
            assert left.status_code == 422 and "3 bytes are left" in left.json()["error"]
            cut = [tensor("file", "BYTES", [1], binary_data_size=6)]
            answer = await post_binary(http, {"inputs": cut}, b"\xff\xff\xff\xffab")
            assert answer.status_code == 422 and "cut off" in answer.json()["error"]
            for length in ("99999", "x", "²", "-1", "9" * 5000):
                wrong = await post_binary(http, {"inputs": [value]}, length=length.encode())
                assert wrong.status_code == 422, wrong.text
            for headers, status in (
                ({"content-type": "text/plain"}, 415),
                ({"content-encoding": "gzip"}, 415),
                ({"content-type": "application/json"}, 400),
            ):
                assert (await http.post(INFER, content=b"{", headers=headers)).status_code == status
            assert (await http.post(INFER, content=b" " * 5001)).status_code == 413
            many = await http.post(INFER, json={"inputs": [tensor("value", "FP32", [5], [1] * 5)]})
            assert many.status_code == 413
            unknown = await http.post("/v2/models/nope/infer", json={"inputs": [value]})
            assert unknown.status_code == 404 and "served: dummy" in unknown.json()["error"]
            broken = await http.post(INFER, json={"inputs": [tensor("value", "FP32", [1, 1], [POISON])]})
            assert broken.status_code == 500 and "secret" not in broken.text
            pinned = await http.post("/v2/models/dummy/versions/1/infer", json={"inputs": [value]})
            assert pinned.status_code == 404
            assert (await http.get(INFER)).status_code == 405 and (await http.get("/v2/nope")).status_code == 404
            series = engine.metrics.exposition()[0].decode()
            assert 'route="/v2/models/{model}/infer",status="422"' in series
            assert 'fmhub_rejected_requests_total{code="version_not_found",model="dummy"} 1.0' in series

    run(main())


def test_time_runs_out(run: Callable[..., Any]) -> None:
    async def main() -> None:
        async with running_app() as (http, engine):
            model = engine.lane("dummy").embedder.model  # type: ignore[union-attr]
            model.gate.clear()
            body = {"inputs": [tensor("value", "BYTES", [1], ["1"])], "parameters": {"timeout": 50_000}}
            answer = await asyncio.wait_for(http.post(INFER, json=body), 5)
            assert answer.status_code == 503 and "0.05 s" in answer.json()["error"]
            model.gate.set()

    run(main())
