from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import httpx
import numpy as np
import pytest
from arithmetic import MAGIC, POISON, expected, file_of
from conftest import model_of, settings
from conftest import running_app as threaded_app
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from serving.app import create_app
from serving.engine import Engine
from serving.schemas import EmbeddingAnswer, ErrorAnswer, TaskAnswer

# As the service runs by default.
running_app = partial(threaded_app, reader_workers=1)
FILE = base64.b64encode(file_of([1, 2, 3], [4, 5])).decode()


def matrix(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.array([e["embedding"] for e in answer.json()["data"]], np.float32)


def problem(answer: httpx.Response) -> dict[str, Any]:
    ErrorAnswer.model_validate_json(answer.content)
    assert answer.headers["content-type"] == "application/json" and answer.headers["x-request-id"]
    return answer.json()["error"]


async def post(client: httpx.AsyncClient, value: Any, **options: Any) -> httpx.Response:
    return await client.post("/v1/embeddings", json={"model": "dummy", "input": value, **options})


def test_one_and_many_inputs_of_each_form(run: Any) -> None:
    async def main() -> None:
        async with running_app() as (client, _):
            np.testing.assert_allclose(matrix(await post(client, "1 2 3")), [expected([1, 2, 3])])
            # An array is many inputs, each element one.
            two = await post(client, ["1 2 3", [4, 5]])
            np.testing.assert_allclose(matrix(two), [expected([1, 2, 3]), expected([4, 5])])
            mixed = await post(client, [{"data": FILE, "filename": "dir/a.num"}, "7", {"data": FILE}])
            assert mixed.status_code == 200
            answer = EmbeddingAnswer.model_validate(mixed.json())
            assert [e.index for e in answer.data] == [0, 1, 2, 3, 4]
            assert [(e.item.input, e.item.source, e.item.key) for e in answer.data] == [
                (0, "a.num", "s0"), (0, "a.num", "s1"), (1, None, ""), (2, None, "s0"), (2, None, "s1"),
            ]  # fmt: skip
            assert answer.usage.prompt_tokens == answer.usage.total_tokens == 5 + 1 + 5
            assert answer.model == "dummy"

    run(main())


def test_upload_gives_the_same_answer_as_json(run: Any) -> None:
    async def main() -> None:
        async with running_app() as (client, _):
            content = base64.b64decode(FILE)
            names = ["a.num", "b.num"]
            uploads = [("file", (n, content, "audio/wav")) for n in names]
            upload = await client.post("/v1/models/dummy/embeddings", files=uploads, data={"pooling": "max"})
            entries = [{"data": FILE, "filename": n} for n in names]
            plain = await post(client, entries, pooling="max")
            on_path = await client.post("/v1/models/dummy/embeddings", json={"input": entries, "pooling": "max"})
            assert upload.status_code == 200
            assert upload.json() == plain.json() == on_path.json()

    run(main())


def test_base64_and_floats_are_equal(run: Any) -> None:
    async def main() -> None:
        async with running_app() as (client, _):
            values = [0.1, 1 / 3, 1e-18, -7e10]
            floats = matrix(await post(client, [values]))
            answer = await post(client, [values], encoding_format="base64")
            decoded = np.frombuffer(base64.b64decode(answer.json()["data"][0]["embedding"]), "<f4")
            assert np.array_equal(floats[0], decoded)

    run(main())


def test_token_states(run: Any) -> None:
    async def main() -> None:
        async with running_app() as (client, _):
            floats = await post(client, ["1 2 3", "4"], pooling="none")
            first, second = (np.array(e["embedding"]) for e in floats.json()["data"])
            assert first.shape == (3, 4) and second.shape == (1, 4)
            answer = await post(client, "1 2 3", pooling="none", encoding_format="base64")
            entry = answer.json()["data"][0]
            assert entry["shape"] == [3, 4]
            decoded = np.frombuffer(base64.b64decode(entry["embedding"]), "<f4").reshape(3, 4)
            assert np.array_equal(decoded, first.astype(np.float32))

    run(main())


def test_dimensions_truncate_and_normalise(run: Any) -> None:
    async def main() -> None:
        async with running_app() as (client, _):
            got = matrix(await post(client, [[3.0, 3.0]], dimensions=2))[0]
            np.testing.assert_allclose(got, np.array([3, 9]) / np.hypot(3, 9), rtol=1e-6)
            whole = matrix(await post(client, [[3.0, 3.0]], dimensions=4))[0]
            assert np.linalg.norm(whole) == pytest.approx(1, abs=1e-6)
            zero = matrix(await post(client, [[0.0]], dimensions=1))[0]
            assert zero.tolist() == [0.0]
            for bad in (5, 0, -1, 1.5, "2", True):
                refusal = await post(client, "1", dimensions=bad)
                assert refusal.status_code == 422 and problem(refusal)["param"] == "dimensions"

    run(main())


def test_warnings_travel_with_their_sample(run: Any) -> None:
    async def main() -> None:
        async with running_app() as (client, _):
            data = (await post(client, ["1 2", "0 0"])).json()["data"]
            assert "warnings" not in data[0] and data[1]["warnings"] == ["all numbers are zero"]

    run(main())


ERRORS: list[tuple[Any, int, str | None, str]] = [
    # (body or (content, headers), status, param, code)
    ((b"", {}), 415, None, "unsupported_content_type"),
    ((b"a=1", {"content-type": "application/x-www-form-urlencoded"}), 415, None, "unsupported_content_type"),
    ((b"", {"content-type": "application/json"}), 400, None, "invalid_json"),
    ((b"{", {"content-type": "application/json"}), 400, None, "invalid_json"),
    ((b"\xff\xfe\x00", {"content-type": "application/json"}), 400, None, "invalid_json"),
    ((b"[" * 100_000, {"content-type": "application/json"}), 400, None, "invalid_json"),
    ((b'{"model": "dummy", "input": [[NaN]]}', {"content-type": "application/json"}), 400, None, "invalid_json"),
    ((b'{"model": "dummy", "input": [[-Infinity]]}', {"content-type": "application/json"}), 400, None, "invalid_json"),
    ((b'{"model": "dummy", "input": [' + b"9" * 5000 + b"]}", {"content-type": "application/json"}),
     400, None, "invalid_json"),
    ([], 422, None, "invalid_request"),
    ({"model": "dummy"}, 422, "input", "missing_field"),
    ({"input": "1"}, 422, "model", "missing_field"),
    ({"model": 3, "input": "1"}, 422, "model", "invalid_request"),
    ({"model": "dummy", "input": "1", "temperature": 1}, 422, "temperature", "unknown_field"),
    ({"model": "dummy", "input": "1", "encoding_format": "hex"}, 422, "encoding_format", "invalid_request"),
    ({"model": "dummy", "input": "1", "pooling": "median"}, 422, "pooling", "unsupported_option"),
    ({"model": "dummy", "input": "1", "pooling": 3}, 422, "pooling", "invalid_request"),
    ({"model": "dummy", "input": "1", "layer": 9}, 422, "layer", "unsupported_option"),
    ({"model": "dummy", "input": "1", "layer": "top"}, 422, "layer", "invalid_request"),
    ({"model": "dummy", "input": []}, 422, "input", "empty_input"),
    ({"model": "dummy", "input": ["1"] * 51}, 413, None, "too_many_inputs"),
    ({"model": "nope", "input": "1"}, 404, "model", "model_not_found"),
    ({"model": "dummy", "input": ["1", "x"]}, 422, "input[1]", "no_number"),
    ({"model": "dummy", "input": ["1", [1e999]]}, 400, None, "invalid_json"),
    ({"model": "dummy", "input": None}, 422, "input[0]", "invalid_input"),
    ({"model": "dummy", "input": {"data": "?"}}, 422, "input[0]", "invalid_base64"),
    ({"model": "dummy", "input": {"data": ""}}, 422, "input[0]", "empty_input"),
    ({"model": "dummy", "input": {"data": "QUJD"}}, 415, "input[0]", "unsupported_format"),
    ({"model": "dummy", "input": {"data": 3}}, 422, "input[0]", "invalid_input"),
    ({"model": "dummy", "input": {"data": FILE, "file_name": "a"}}, 422, "input[0]", "invalid_input"),
    ({"model": "dummy", "input": ["1", "2 " * 5001]}, 413, "input[1]", "too_large"),
    ({"model": "dummy", "input": [[1e30]]}, 422, "input[0]", "embedding_not_finite"),
    ({"model": "dummy", "input": ["3", [POISON]]}, 500, "input[1]", "internal_error"),
    ({"model": "dummy", "input": ["3", [404]]}, 500, "input[1]", "internal_error"),
]  # fmt: skip


def test_every_error_has_one_shape_and_its_status(run: Any) -> None:
    async def main() -> None:
        async with running_app(max_inputs=50) as (client, _):
            for body, status, param, code in ERRORS:
                if isinstance(body, tuple):
                    answer = await client.post("/v1/embeddings", content=body[0], headers=body[1])
                else:
                    content = json.dumps(body).encode()
                    answer = await client.post(
                        "/v1/embeddings", content=content, headers={"content-type": "application/json"}
                    )
                shown = str(body)[:100]
                assert answer.status_code == status, (shown, answer.text)
                found = problem(answer)
                assert (found["param"], found["code"]) == (param, code), shown
                assert "secret" not in answer.text and "Traceback" not in answer.text
            np.testing.assert_allclose(matrix(await post(client, "3")), [expected([3])])

    run(main())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["data", "filename", "x"]), inner),
    max_leaves=8,
)


def test_no_body_makes_the_service_fail(run: Any) -> None:
    async def main() -> None:
        async with running_app() as (client, _):
            loop = asyncio.get_running_loop()

            def send(path: str, content: bytes, kind: str) -> httpx.Response:
                request = client.post(path, content=content, headers={"content-type": kind})
                return asyncio.run_coroutine_threadsafe(request, loop).result(10)

            def check(answer: httpx.Response) -> None:
                assert answer.status_code < 500, answer.text
                if answer.status_code != 200:
                    problem(answer)

            @hypothesis_settings(max_examples=150, deadline=None)
            @given(
                json_values, st.dictionaries(st.sampled_from(["pooling", "layer", "dimensions", "user"]), json_values)
            )
            def values(value: Any, options: dict[str, Any]) -> None:
                body = {"model": "dummy", "input": value, **options}
                check(send("/v1/embeddings", json.dumps(body).encode(), "application/json"))

            @hypothesis_settings(max_examples=100, deadline=None)
            @given(st.binary(max_size=60))
            def raw(content: bytes) -> None:
                check(send("/v1/embeddings", content, "application/json"))
                body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + content
                for form in (content, b"--b" + content, body, body + b"\r\n--b--", MAGIC + body):
                    check(send("/v1/models/dummy/embeddings", form, "multipart/form-data; boundary=b"))

            await asyncio.to_thread(values)
            await asyncio.to_thread(raw)

    run(main())


def test_routes_that_do_not_exist_and_wrong_methods(run: Any) -> None:
    async def main() -> None:
        async with running_app("dummy", "org/other") as (client, _):
            for method, path, status in (
                ("GET", "/nope", 404),
                ("POST", "/v1/nope", 404),
                ("GET", "/v1/models/nope", 404),
                ("GET", "/v1/models/", 404),
                ("GET", "/v1/models/dummy/../../etc/passwd", 404),
                ("POST", "/v1/models/nope/embeddings", 404),
                ("POST", "/v1/models/dummy/fly", 404),
                ("POST", "/v1/models/dummy", 405),
                ("GET", "/v1/embeddings", 405),
                ("GET", "/v1/models/dummy/embeddings", 405),
                ("GET", "/v1/models/org/other/embeddings", 405),
                ("DELETE", "/v1/models", 405),
                ("POST", "/healthz", 405),
            ):
                answer = await client.request(method, path)
                assert answer.status_code == status, (method, path, answer.text)
                problem(answer)
                if status == 405:
                    assert answer.headers["allow"]

    run(main())


def test_multipart_faults(run: Any) -> None:
    async def main() -> None:
        async with running_app(max_inputs=3) as (client, _):
            path, good = "/v1/models/dummy/embeddings", ("a.num", file_of([1.0]))
            form = {"content-type": "multipart/form-data; boundary=b"}
            cases: list[tuple[dict[str, Any], int, str | None]] = [
                ({"content": b"", "headers": {"content-type": "multipart/form-data"}}, 400, None),
                ({"content": b"junk", "headers": form}, 400, None),
                ({"content": b"--b--\r\n", "headers": form}, 422, "file"),
                ({"files": {"upload": good}}, 422, "upload"),
                ({"files": {"file": good}, "data": {"colour": "red"}}, 422, "colour"),
                ({"files": {"file": good}, "data": {"dimensions": "many"}}, 422, "dimensions"),
                ({"files": {"file": good}, "data": {"pooling": "x" * 5000}}, 400, None),
                ({"data": {"file": "text"}, "files": {"file": good}}, 422, "file"),
                ({"files": [("file", good)] * 4}, 413, None),
                ({"files": [("file", good), ("file", ("b.num", b""))]}, 422, "file[1]"),
                ({"files": [("file", good), ("file", ("b.num", b"RIFF"))]}, 415, "file[1]"),
                ({"content": b"x", "headers": {"content-type": "text/plain"}}, 415, None),
            ]
            for request, status, param in cases:
                answer = await client.post(path, **request)
                assert answer.status_code == status, (request, answer.text)
                assert problem(answer)["param"] == param, request
            ok = await client.post(path, files={"file": good}, data={"dimensions": "2", "layer": "-1"})
            assert matrix(ok).shape == (1, 2)

    run(main())


def test_a_file_name_is_stripped_of_its_folder_and_named_in_messages(run: Any) -> None:
    async def main() -> None:
        async with running_app() as (client, _):
            answer = await client.post(
                "/v1/models/dummy/embeddings", files={"file": ("../../etc/x.num", MAGIC + b"a: one")}
            )
            assert problem(answer)["message"] == "x.num[a]: something is no number"

    run(main())


def test_bad_samples_of_a_file_are_listed_beside_the_good(run: Any) -> None:
    content = MAGIC + b"a: one\nb: 1 2\nc: nan\nd: 4"

    async def main() -> None:
        async with running_app() as (client, _):
            answer = await client.post("/v1/models/dummy/embeddings", files={"file": ("x.num", content)})
            body = answer.json()
            np.testing.assert_allclose(matrix(answer), [expected([1, 2]), expected([4])], rtol=1e-6)
            assert [(e["index"], e["item"]["key"]) for e in body["data"]] == [(0, "b"), (1, "d")]
            assert [(e["item"], e["code"]) for e in body["errors"]] == [
                ({"input": 0, "source": "x.num", "key": "a"}, "no_number"),
                ({"input": 0, "source": "x.num", "key": "c"}, "not_finite"),
            ]
            # An input of which nothing can be used is an error of the request, with its first reason.
            nothing = await post(client, ["1", {"data": base64.b64encode(MAGIC + b"a: one\nb: x").decode()}])
            assert nothing.status_code == 422 and problem(nothing)["param"] == "input[1]"

    run(main())


def test_the_body_is_capped_announced_or_not(run: Any) -> None:
    async def main() -> None:
        async with running_app(max_body_bytes=10_000, max_pending_bytes=10_000) as (client, _):
            headers = {"content-type": "application/json"}
            body = json.dumps({"model": "dummy", "input": "1 " * 8000}).encode()
            announced = await client.post("/v1/embeddings", content=body, headers=headers)
            assert announced.status_code == 413 and problem(announced)["code"] == "body_too_large"
            sent = 0

            async def endless() -> AsyncIterator[bytes]:
                nonlocal sent
                while True:
                    sent += 1000
                    yield b" " * 1000

            streamed = await client.post("/v1/embeddings", content=endless(), headers=headers)
            assert streamed.status_code == 413 and sent < 15_000
            form = {"content-type": "multipart/form-data; boundary=b"}
            upload = await client.post("/v1/models/dummy/embeddings", content=endless(), headers=form)
            assert upload.status_code in (400, 413)
            assert matrix(await post(client, "1")).shape == (1, 4)

    run(main())


def test_bodies_in_memory_are_limited_together(run: Any) -> None:
    async def main() -> None:
        async with running_app(max_body_bytes=1000, max_pending_bytes=1500) as (client, engine):
            model = model_of(engine)
            model.gate.clear()
            held = asyncio.create_task(post(client, " " * 800 + "1"))
            await asyncio.to_thread(model.entered.wait, 5)
            refused = await post(client, " " * 800 + "2")
            assert refused.status_code == 429 and refused.headers["retry-after"] == "1"
            model.gate.set()
            assert (await held).status_code == 200
            assert (await post(client, " " * 800 + "2")).status_code == 200

    run(main())


def test_overflow_of_the_queue(run: Any) -> None:
    async def main() -> None:
        async with running_app({"name": "dummy", "max_queued_requests": 4}) as (client, engine):
            model = model_of(engine)
            model.gate.clear()
            tasks = [asyncio.create_task(post(client, str(n))) for n in range(10)]
            while engine.lane("dummy").pending < 4 or sum(t.done() for t in tasks) < 6:
                await asyncio.sleep(0.01)
            model.gate.set()
            answers = await asyncio.gather(*tasks)
            refused = [a for a in answers if a.status_code == 429]
            assert len(refused) == 6 and all(int(a.headers["retry-after"]) >= 1 for a in refused)
            assert problem(refused[0])["code"] == "overloaded"
            good = [(n, matrix(a)[0, 0]) for n, a in enumerate(answers) if a.status_code == 200]
            assert len(good) == 4 and all(n == mean for n, mean in good)

    run(main())


def test_one_bad_item_among_concurrent_requests(run: Any) -> None:
    async def main() -> None:
        async with running_app() as (client, _):
            values = [[n, n + 1, n + 2] for n in range(40)]
            tasks = [post(client, [v, v[:1]]) for v in values]
            bad = [post(client, ["1", "x"]), post(client, [[POISON], "2"]), post(client, {"data": "QQ=="})]
            answers = await asyncio.gather(*tasks, *bad)
            for value, answer in zip(values, answers, strict=False):
                np.testing.assert_allclose(matrix(answer), [expected(value), expected(value[:1])], rtol=1e-5)
            assert [a.status_code for a in answers[40:]] == [422, 500, 415]

    run(main())


def test_padding_does_not_change_an_embedding(run: Any) -> None:
    async def main() -> None:
        async with running_app({"name": "dummy", "batch_cost": 100_000}) as (client, engine):
            short, long = [0.5, 0.25], [7.0] * 2000
            alone = matrix(await post(client, [short]))
            model_of(engine).batches.clear()
            beside = matrix(await post(client, [short, long]))
            assert np.abs(beside[:1] - alone).max() <= 1e-5

    run(main())


def test_tasks(run: Any) -> None:
    async def main() -> None:
        async with running_app("dummy", "org/other") as (client, _):
            totals = await client.post("/v1/models/org/other/total", json={"input": ["1 2", "3"]})
            answer = TaskAnswer.model_validate(totals.json())
            assert [e.result for e in answer.data] == [{"total": 3.0}, {"total": 3.0}]
            assert answer.data[0].object == "total"
            file = await client.post("/v1/models/dummy/table", files={"file": ("a.num", file_of([1, 2]))})
            assert file.content == b"1.0,2.0" and file.headers["content-type"].startswith("text/csv")
            assert file.headers["content-disposition"] == "attachment; filename*=UTF-8''s0.csv"
            files = await client.post("/v1/models/dummy/table", json={"input": ["1", "2"]})
            results = [e["result"] for e in files.json()["data"]]
            assert base64.b64decode(results[1]["data"]) == b"2.0" and results[1]["media_type"] == "text/csv"
            extra = await client.post(
                "/v1/models/dummy/total", files={"file": ("a.num", file_of([1]))}, data={"pooling": "mean"}
            )
            assert extra.status_code == 422 and problem(extra)["param"] == "pooling"
            broken = await client.post("/v1/models/dummy/broken", json={"input": "1"})
            assert broken.status_code == 500 and "secret" not in broken.text
            unknown = await client.post("/v1/models/dummy/fly", json={"input": "1"})
            assert unknown.status_code == 404 and problem(unknown)["code"] == "task_not_found"

    run(main())


def test_models_are_listed_and_described(run: Any) -> None:
    async def main() -> None:
        async with running_app("dummy", "org/other", {"name": "lazy", "load": "first_use"}) as (client, _):
            listed = (await client.get("/v1/models")).json()
            assert listed["object"] == "list"
            assert [(m["id"], m["state"]) for m in listed["data"]] == [
                ("dummy", "ready"), ("org/other", "ready"), ("lazy", "not_loaded"),
            ]  # fmt: skip
            found = (await client.get("/v1/models/org/other")).json()
            assert found["id"] == "org/other" and found["dimension"] == 4 and found["owned_by"] == "org"
            assert found["inputs"]["files"] == [".num"] and "numbers" in found["inputs"]["plain"]
            assert found["limits"]["max_numbers"] == 5000 and found["request_limits"]["max_inputs"] == 2048
            assert found["poolings"] == ["none", "mean", "max", "sum"] and found["license"] == "apache-2.0"
            assert found["tasks"] == ["total", "table", "broken"] and found["summary"] == "Adds numbers."
            assert (await client.get("/v1/models/org%2Fother")).json() == found
            lazy = (await client.get("/v1/models/lazy")).json()
            assert lazy["state"] == "not_loaded" and "dimension" not in lazy

    run(main())


def test_health_readiness_and_the_page(run: Any) -> None:
    async def main() -> None:
        engine = Engine(settings("unready-<b>"))
        lane = engine.lane("unready-<b>")
        made, factory = [], lane._factory
        lane._factory = lambda *a, **k: made.append(factory(*a, **k)) or made[0]
        engine.start()
        transport = httpx.ASGITransport(app=create_app(engine))
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            assert (await client.get("/healthz")).status_code == 200
            not_ready = await client.get("/readyz")
            assert not_ready.status_code == 503 and problem(not_ready)["code"] == "not_ready"
            page = await client.get("/")
            assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
            while not made:
                await asyncio.sleep(0.01)
            made[0].warm_up_gate.set()
            await engine.wait_ready()
            assert (await client.get("/readyz")).json()["status"] == "ready"
            await engine.close()
            for path in ("/healthz", "/readyz"):
                assert (await client.get(path)).status_code == 503

    run(main())


def test_request_ids(run: Any) -> None:
    async def main() -> None:
        async with running_app() as (client, _):
            given = await client.get("/healthz", headers={"x-request-id": "abc-1.2_3"})
            assert given.headers["x-request-id"] == "abc-1.2_3"
            for bad in ("a b", "x" * 65, 'a"b', "a:b", "a\tb", "\u00e4".encode(), ""):
                made = (await client.get("/nope", headers={"x-request-id": bad})).headers["x-request-id"]
                assert made != bad and len(made) == 32
            failed = await post(client, [[POISON]])
            assert failed.headers["x-request-id"] in problem(failed)["message"]

    run(main())


def test_metrics(run: Any) -> None:
    async def main() -> None:
        async with running_app() as (client, _):
            await post(client, ["1", "2"])
            await post(client, "x")
            await post(client, "1", model="unheard-of")
            await client.get("/secret/path")
            answer = await client.get("/metrics")
            assert answer.headers["content-type"].startswith("text/plain")
            text = answer.text
            counted = 'fmhub_requests_total{model="%s",route="%s",status="%s"} 1.0'
            for labels in (
                ("dummy", "/v1/embeddings", 200),
                ("dummy", "/v1/embeddings", 422),
                ("", "/v1/embeddings", 404),
                ("", "unmatched", 404),
            ):
                assert counted % labels in text
            for stage in ("read", "queue", "forward", "encode"):
                assert f'fmhub_stage_duration_seconds_count{{model="dummy",stage="{stage}"}}' in text
            assert 'fmhub_batch_samples_sum{model="dummy"} 2.0' in text
            assert 'fmhub_pending_requests{model="dummy"} 0.0' in text
            assert "secret" not in text and "unheard-of" not in text

    run(main())


def test_the_openapi_document_names_all_routes(run: Any) -> None:
    async def main() -> None:
        async with running_app() as (client, _):
            document = (await client.get("/openapi.json")).json()
            assert set(document["paths"]) == {
                "/", "/healthz", "/readyz", "/metrics", "/v1/models", "/v1/models/{model}", "/v1/embeddings",
                "/v1/models/{model}/embeddings", "/v1/models/{model}/{task}", "/v1/models/{model}/preview",
                "/v1/models/{model}/neighbours", "/v1/models/{model}/examples", "/v1/models/{model}/examples/{name}",
                "/v1/models/{model}/examples/{name}/preview",
                "/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/stats", "/v2/repository/index",
                *(
                    f"/v2/models/{{model}}{version}{rest}"
                    for version in ("", "/versions/{version}")
                    for rest in ("", "/ready", "/config", "/stats", "/infer")
                ),
            }  # fmt: skip
            body = document["paths"]["/v1/embeddings"]["post"]["requestBody"]["content"]["application/json"]
            assert set(body["schema"]["required"]) == {"model", "input"}
            assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"

    run(main())
