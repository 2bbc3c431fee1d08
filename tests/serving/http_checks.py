"""Checks that every way of running the service must pass, against its URL."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import openai
from arithmetic import POISON, expected, file_of

from serving.client import Client, ServiceError


def check_routes(url: str) -> None:
    with httpx.Client(base_url=url) as http:
        assert http.get("/healthz").json() == {"status": "ok"}
        assert http.get("/readyz").json()["status"] == "ready"
        assert "playground/app.js" in http.get("/").text
        assert http.get("/playground/app.js").headers["content-type"].startswith("text/javascript")
        assert http.get("/v1/models").json()["data"][0]["id"] == "dummy"
        assert http.get("/v1/models/org/other").json()["dimension"] == 4
        file = http.post("/v1/models/dummy/table", files={"file": ("a.num", file_of([1, 2]))})
        assert file.content == b"1.0,2.0"
        named = http.get("/nope", headers={"x-request-id": "my-id"})
        assert named.status_code == 404 and named.json()["error"]["code"] == "route_not_found"
        assert named.headers.get_list("x-request-id") == ["my-id"]
        assert 'fmhub_requests_total{model="",route="/healthz",status="200"}' in http.get("/metrics").text


def check_errors(url: str) -> None:
    body = {"model": "dummy", "input": "1"}
    with httpx.Client(base_url=url) as http:
        for content, status in (
            ({**body, "model": "nope"}, 404),
            ({**body, "pooling": "median"}, 422),
            ({**body, "input": {"data": "?"}}, 422),
            ({**body, "input": {"data": "QUJD"}}, 415),
            ({**body, "input": [[POISON]]}, 500),
        ):
            answer = http.post("/v1/embeddings", json=content)
            assert answer.status_code == status and set(answer.json()["error"]) == {
                "type", "message", "param", "code",
            }  # fmt: skip
        broken = http.post("/v1/embeddings", content=b"{", headers={"content-type": "application/json"})
        assert broken.status_code == 400
        big = http.post("/v1/embeddings", content=b" " * 200_001, headers={"content-type": "application/json"})
        assert big.status_code == 413 and big.json()["error"]["code"] == "body_too_large"


def check_openai(url: str) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0)
    assert [m.id for m in client.models.list()][:2] == ["dummy", "org/other"]
    # The client asks for base64 unless told otherwise.
    answer = client.embeddings.create(model="dummy", input=["1 2 3", "4"], user="me")
    np.testing.assert_allclose(answer.data[0].embedding, expected([1, 2, 3]), rtol=1e-6)
    # What is beyond OpenAI's shape is there for who looks, and in nobody's way.
    assert answer.model == "dummy" and len(answer.model_extra["weights"]) == 64  # type: ignore[index]
    assert len(answer.model_extra["embedding_space"]) == 32  # type: ignore[index]
    floats = client.embeddings.create(model="dummy", input="1 2 3", encoding_format="float", dimensions=2)
    assert np.linalg.norm(floats.data[0].embedding) > 0.999999
    encoded = base64.b64encode(file_of([1], [2])).decode()
    files = client.embeddings.create(model="dummy", input=[{"data": encoded}])  # type: ignore[list-item]
    assert [e.embedding[0] for e in files.data] == [1, 2] and files.usage.total_tokens == 2
    for call, kind in (
        (lambda: client.embeddings.create(model="nope", input="1"), openai.NotFoundError),
        (lambda: client.embeddings.create(model="dummy", input="x"), openai.UnprocessableEntityError),
    ):
        try:
            call()
        except kind as error:
            assert error.body["message"]  # type: ignore[index]
        else:
            raise AssertionError(kind)


def check_client(url: str, folder: str) -> None:
    path = f"{folder}/some.num"
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(file_of([1, 2], [3]))
    with Client(url) as client:
        assert client.models()[0]["id"] == "dummy" and client.model("org/other")["dimension"] == 4
        found = client.embed("dummy", [path, file_of([5]), "1 2", np.array([7.0]), [8, 9]], pooling="max")
        assert found.vectors[:, 0].tolist() == [2, 3, 5, 2, 7, 9]  # type: ignore[call-overload]
        assert [(i.input, i.source, i.key) for i in found.items][:3] == [
            (0, "some.num", "s0"), (0, "some.num", "s1"), (1, None, "s0"),
        ]  # fmt: skip
        assert found.cost == 2 + 1 + 1 + 2 + 1 + 2
        assert client.embed("dummy", np.zeros(3)).items[0].warnings == ("all numbers are zero",)
        tokens = client.embed("dummy", ["1 2 3", "4"], pooling="none").vectors
        assert [t.shape for t in tokens] == [(3, 4), (1, 4)]
        assert client.run("dummy", "total", ["1 2"]) == [{"total": 3.0}]
        assert client.run("dummy", "table", "1 2") == b"1.0,2.0"
        try:
            client.embed("dummy", ["1", "x"])
        except ServiceError as error:
            assert (error.status, error.param, error.code) == (422, "input[1]", "no_number")
            assert "no number" in str(error)
        else:
            raise AssertionError


def check_concurrency(url: str) -> None:
    """Requests side by side get their own answers, and a bad one among them fails alone."""
    rng = np.random.default_rng(0)
    jobs = [rng.normal(size=rng.choice([1, 3, 400])).tolist() for _ in range(60)]

    def one(number: int) -> tuple[int, list[list[float]]]:
        bad = {7: "x", 23: {"data": "?"}, 41: [POISON]}.get(number)
        values = [jobs[number], bad] if bad is not None else [jobs[number], [float(number)]]
        answer = http.post("/v1/embeddings", json={"model": "dummy", "input": values})
        return answer.status_code, [e["embedding"] for e in answer.json().get("data", [])]

    with httpx.Client(base_url=url, timeout=30) as http, ThreadPoolExecutor(12) as threads:
        for number, (status, vectors) in enumerate(threads.map(one, range(len(jobs)))):
            if number in (7, 23, 41):
                assert status == (500 if number == 41 else 422)
            else:
                assert status == 200
                wanted = [expected(jobs[number]), expected([number])]
                np.testing.assert_allclose(vectors, wanted, rtol=1e-4, atol=1e-5)
