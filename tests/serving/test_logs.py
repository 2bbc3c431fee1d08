from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import warnings
from typing import Any

import pytest
from arithmetic import MAGIC, POISON, file_of
from conftest import model_of, running_app, settings

from serving.keys import hash_of, new_key
from serving.logs import configure_logging, current_request, without_content

SECRET = "JANE-DOE-1970"


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def configured(**values: Any) -> io.StringIO:
    stream = io.StringIO()
    configure_logging(settings(**values), stream)
    return stream


def test_a_request_is_one_line_without_content_or_identity(run: Any) -> None:
    key = new_key()
    entry = {"name": "clinic", "hash": hash_of(key)}
    stream = configured(log_format="json")

    async def main() -> None:
        async with running_app(keys=[entry]) as (client, _):
            headers = {"Authorization": f"Bearer {key}"}
            content = MAGIC + f"{SECRET}: 1 2\n{SECRET}: x".encode()
            files = {"file": (f"{SECRET}.num", content)}
            await client.post(
                f"/v1/models/dummy/embeddings?{SECRET}=1", files=files, headers=headers | {"X-Request-Id": "r1"}
            )
            await client.post("/v1/models/dummy/embeddings", files={"file": (SECRET, MAGIC + b"x: x")}, headers=headers)
            for value in ([POISON], [404], SECRET):
                body = {"model": "dummy", "input": [{"data": "?", "filename": SECRET}] if value == SECRET else [value]}
                await client.post("/v1/embeddings", json=body, headers=headers | {"X-Request-Id": f"r-{SECRET[-4:]}"})
            await client.get(f"/v1/models/{SECRET}", headers=headers)
            await client.request(SECRET, f"/{SECRET}")
            await client.get("/healthz")

    run(main())
    text = stream.getvalue()
    assert SECRET not in text and key not in text and "secret" not in text and "Traceback" not in text
    requests = [line for line in lines(stream) if line["logger"] == "fmhub.access"]
    first = requests[0]
    assert first["bytes_in"] > 100 and first["bytes_out"] > 100 and first["ms"] > 0
    assert {k: first[k] for k in ("method", "route", "status", "model", "key", "request_id", "level", "error")} == {
        "method": "POST", "route": "/v1/models/{model}/embeddings", "status": 200, "model": "dummy", "key": "clinic",
        "request_id": "r1", "level": "info", "error": "",
    }  # fmt: skip
    assert set(first) == {
        "time", "level", "logger", "message", "request_id", "method", "route", "status", "ms", "bytes_in", "bytes_out",
        "model", "key", "error",
    }  # fmt: skip
    assert [line["status"] for line in requests] == [200, 422, 500, 500, 422, 404, 401]
    assert [line["error"] for line in requests] == [
        "", "no_number", "internal_error", "internal_error", "invalid_base64", "model_not_found", "missing_api_key",
    ]  # fmt: skip
    assert requests[-1]["method"] == "OTHER" and requests[-1]["key"] == "" and len(requests[-1]["request_id"]) == 32
    failures = [line for line in lines(stream) if line["message"].startswith("request failed")]
    # Every line of a request carries its id, and a failure its place in the code.
    assert [f["request_id"] for f in failures] == ["r-1970"] * 2
    assert "RuntimeError at arithmetic.py" in failures[0]["message"]
    assert re.search(r"KeyError at arithmetic.py:\d+ prepare", failures[1]["message"])


def test_the_id_is_known_in_the_reading_threads(run: Any, monkeypatch: Any) -> None:
    import arithmetic

    seen: list[str] = []
    parse = arithmetic.NumberReader.parse
    monkeypatch.setattr(arithmetic.NumberReader, "parse", lambda *a: seen.append(current_request.get()) or parse(*a))

    async def main() -> None:
        async with running_app(reader_workers=0) as (client, _):
            body = {"model": "dummy", "input": ["1", "2"]}
            for name in ("one", "two"):
                await client.post("/v1/embeddings", json=body, headers={"X-Request-Id": name})

    run(main())
    assert seen == ["one", "one", "two", "two"] and current_request.get() == ""


def test_text_lines_and_switching_requests_off(run: Any) -> None:
    stream = configured()

    async def main() -> None:
        for log_requests in (True, False):
            async with running_app(log_requests=log_requests) as (client, _):
                await client.get("/v1/models", headers={"X-Request-Id": "abc"})

    run(main())
    pattern = (
        r"20\S+ info request method=GET route=/v1/models status=200 ms=\S+ bytes_in=0 bytes_out=\d+ request_id=abc"
    )
    assert re.fullmatch(pattern, stream.getvalue().strip())


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_message_cannot_forge_a_second_line(form: str) -> None:
    stream = configured(log_format=form)
    logging.getLogger("fmhub.serving").warning("a\n2026-01-01 info request status=200\r\nb")
    assert len(stream.getvalue().splitlines()) == 1


def test_other_libraries_are_silent_and_own_failures_outside_of_requests_are_not() -> None:
    stream = configured()
    logging.getLogger("pydicom").warning("bad value %s", SECRET)
    warnings.warn(SECRET, stacklevel=1)
    assert stream.getvalue() == ""
    try:
        raise ValueError("no such file")
    except ValueError:
        logging.getLogger("fmhub.serving").exception("model x could not be loaded")
    assert "Traceback" in stream.getvalue() and "no such file" in stream.getvalue()


def test_an_error_is_described_by_kind_and_place() -> None:
    try:
        try:
            int(SECRET)
        except ValueError as error:
            raise RuntimeError(SECRET) from error
    except RuntimeError as error:
        found = without_content(error)
    assert re.fullmatch(
        r"RuntimeError at test_logs.py:\d+ test_\w+, caused by ValueError at test_logs.py:\d+ test_\w+", found
    )
    assert without_content(KeyError(SECRET)) == "KeyError at an unknown place"


def timings(answer: Any) -> dict[str, float]:
    return {n: float(d) for n, d in re.findall(r"(\w+);dur=([\d.]+)", answer.headers["server-timing"])}


def test_server_timing_tells_where_the_time_went(run: Any) -> None:
    async def main() -> None:
        async with running_app() as (client, engine):
            model_of(engine).delay = 0.05
            body = {"model": "dummy", "input": ["1", "2"]}
            one = timings(await client.post("/v1/embeddings", json=body))
            assert list(one) == ["read", "queue", "forward", "encode", "total"]
            assert 50 <= one["forward"] <= one["total"] < 1000 and one["read"] < 50
            # Behind another batch the second request waits about as long as that takes.
            both = await asyncio.gather(
                *(client.post("/v1/embeddings", json={**body, "pooling": p}) for p in ("mean", "max"))
            )
            assert max(timings(a)["queue"] for a in both) > 25
            task = await client.post("/v1/models/dummy/total", files={"file": ("a", file_of([1]))})
            assert timings(task)["forward"] >= 0
            assert "server-timing" not in (await client.get("/v1/models")).headers

    run(main())


def test_a_request_can_say_how_long_it_waits(run: Any) -> None:
    async def main() -> None:
        async with running_app(request_timeout_s=0.6) as (client, engine):
            model = model_of(engine)
            model.gate.clear()

            async def ask(value: str, timeout: str | None) -> Any:
                headers = {"X-Request-Timeout": timeout} if timeout is not None else {}
                return await client.post("/v1/embeddings", json={"model": "dummy", "input": value}, headers=headers)

            first = asyncio.create_task(ask("1", None))
            await asyncio.to_thread(model.entered.wait, 5)
            late = [asyncio.create_task(ask("2", t)) for t in ("0.1", "0.15")]
            kept = asyncio.create_task(ask("3", None))
            refused = await asyncio.gather(*late)
            assert [a.status_code for a in refused] == [503, 503]
            assert refused[0].json()["error"]["code"] == "timeout" and "0.1 s" in refused[0].text
            model.gate.set()
            assert [a.status_code for a in await asyncio.gather(first, kept)] == [200, 200]
            # The samples of the expired requests never reached the model.
            assert model.batches == [1, 1]
            # More than the service's own limit is not to be had.
            model.gate.clear()
            capped = await ask("4", "3600")
            assert capped.status_code == 503 and "0.6 s" in capped.text
            model.gate.set()
            for bad in ("", "0", "-1", "nan", "inf", "1e3", "2 s", "1" * 20):
                answer = await ask("1", bad)
                assert answer.status_code == 422, bad
                assert answer.json()["error"]["param"] == "X-Request-Timeout"

    run(main())
