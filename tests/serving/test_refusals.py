"""What the service refuses, and how it says so."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
from arithmetic import MAGIC, POISON, expected, file_of
from asking import FILE, matrix, post, problem, running_app
from conftest import model_of
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

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
