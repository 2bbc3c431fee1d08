"""What a hostile client tries through requests: names, headers, sizes, other ways to send a key, and what is told."""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import json
import logging
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from arithmetic import MAGIC, file_of
from conftest import running_app, settings

from serving.app import create_app
from serving.engine import Engine
from serving.keys import hash_of, new_key
from serving.logs import configure_logging

KEY = new_key()
UPLOAD = "/v1/models/dummy/embeddings"
PATIENT = "ROENTGEN^ANNA"


def encoded(content: bytes, filename: str | None = None) -> dict[str, Any]:
    return {"data": base64.b64encode(content).decode()} | ({} if filename is None else {"filename": filename})


def test_a_key_counts_in_its_header_alone(run: Any) -> None:
    async def main() -> None:
        async with running_app(keys=[{"name": "a", "hash": hash_of(KEY)}]) as (client, _):
            for query in ("key", "api_key", "token", "access_token", "authorization"):
                assert (await client.get("/v1/models", params={query: KEY})).status_code == 401
            for name in ("X-Api-Key", "Api-Key", "Cookie", "Proxy-Authorization", "X-Authorization"):
                answer = await client.get("/v1/models", headers={name: f"Bearer {KEY}"})
                assert answer.status_code == 401 and KEY not in answer.text
            form = {"files": {"file": ("a", file_of([1]))}, "data": {"key": KEY, "authorization": f"Bearer {KEY}"}}
            assert (await client.post(UPLOAD, **form)).status_code == 401
            # Another header does not change what the path of the request is.
            for name in ("X-Original-URL", "X-Rewrite-URL", "X-Forwarded-Path", "X-Forwarded-Prefix"):
                assert (await client.get("/v1/models", headers={name: "/healthz"})).status_code == 401
            for path in ("/healthz/../v1/models", "/healthz/..%2fv1/models", "//v1/models", "/healthz;/v1/models"):
                assert (await client.get(path)).status_code in (401, 404)

    run(main())


NAMES = (
    "../../etc/passwd",
    "/etc/passwd",
    "C:\\Windows\\win.ini",
    "a/../b",
    "..",
    "x\r\nSet-Cookie: a=b",
    "\u202egnp.exe",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_files_name_is_no_path_and_no_header(run: Any, name: str) -> None:
    async def main() -> None:
        async with running_app() as (client, _):
            answers = [
                await client.post("/v1/embeddings", json={"model": "dummy", "input": encoded(file_of([1]), name)})
            ]
            answers.append(await client.post(UPLOAD, files={"file": (name, file_of([1]))}))
            table = await client.post("/v1/models/dummy/table", files={"file": (name, MAGIC + f"{name}: 1".encode())})
            for answer in (*answers, table):
                assert answer.status_code in (200, 400, 422), answer.text
                assert "set-cookie" not in answer.headers and answer.headers["x-content-type-options"] == "nosniff"
            for source in (a.json()["data"][0]["item"].get("source", "") for a in answers if a.status_code == 200):
                assert "/" not in source and "\\" not in source
            disposition = table.headers.get("content-disposition", "")
            assert "/" not in disposition and "\\" not in disposition and "\n" not in disposition

    run(main())


def test_models_and_ids_of_requests_are_no_headers(run: Any) -> None:
    async def main() -> None:
        async with running_app() as (client, _):
            for name in ("x%0d%0aSet-Cookie:%20a=b", "%00", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc", "a" * 9_000):
                for answer in (await client.get(f"/v1/models/{name}"), await client.post(f"/v1/models/{name}/total")):
                    assert answer.status_code in (404, 415) and "set-cookie" not in answer.headers
                    assert len(answer.content) < 1_000
            for given in ("a\tb", "a b", "<script>", "a" * 65, "ä".encode().decode("latin-1"), "${jndi:ldap://x}"):
                answer = await client.get("/healthz", headers=[(b"x-request-id", given.encode("latin-1"))])
                assert answer.headers["x-request-id"].isalnum() and len(answer.headers["x-request-id"]) == 32

    run(main())


def test_everything_oversized_is_refused_and_quickly(run: Any) -> None:
    many = {f"f{n}": "1" for n in range(40)}

    async def main() -> None:
        async with running_app(max_body_bytes=2_000_000, max_inputs=50) as (client, _):

            async def status(**request: Any) -> int:
                answer = await client.post(UPLOAD, **request)
                assert set(answer.json()) == {"error"} and len(answer.content) < 2_000
                return answer.status_code

            file = {"file": ("a", file_of([1]))}
            assert await status(files=file, data=many) == 400
            assert await status(files=file, data={"pooling": "m" * 10_000}) == 400
            assert await status(files=file, data={"p" * 20_000: "1"}) in (400, 422)
            assert await status(files=[("file", ("a", b"x"))] * 51) == 413
            assert await status(files={"file": ("n" * 50_000, file_of([1]))}) in (400, 413, 422)
            assert await status(content=b"x" * 2_000_001) in (413, 415)
            boundary = {"Content-Type": "multipart/form-data; boundary=" + "b" * 5_000}
            assert await status(content=b"--" + b"b" * 5_000 + b"--\r\n", headers=boundary) in (400, 422)
            for body in (
                b"[" * 100_000,
                b'{"input":' * 100_000,
                b'{"input": "' + b"1" * 1_900_000 + b'"}',
                b'{"input": ' + b"9" * 1_000_000 + b"}",
                b"{" + b",".join(b'"k%d":1' % n for n in range(20_000)) + b"}",
                b'{"input": [' + b"1," * 50_000 + b"1]}",
                b'{"input": 1, "layer": ' + b"9" * 4_000 + b"}",
                b'{"input": "1", "dimensions": 1e400}',
            ):
                assert await status(content=body, headers={"Content-Type": "application/json"}) in (400, 413, 422)

    run(main())


def test_compressed_bodies_are_not_unpacked(run: Any) -> None:
    body = gzip.compress(json.dumps({"model": "dummy", "input": "1"}).encode())

    async def main() -> None:
        async with running_app() as (client, _):
            for coding in ("gzip", "deflate", "br", "zstd", "gzip, gzip", "GZIP"):
                headers = {"Content-Type": "application/json", "Content-Encoding": coding}
                answer = await client.post("/v1/embeddings", content=body, headers=headers)
                assert answer.status_code == 415 and "Content-Encoding" in answer.json()["error"]["message"]
            headers = {"Content-Encoding": "identity"}
            answer = await client.post("/v1/embeddings", json={"model": "dummy", "input": "1"}, headers=headers)
            assert answer.status_code == 200

    run(main())


def _scan() -> bytes:
    import pydicom

    from domains.medical.samples import as_dicom, phantom

    data = pydicom.dcmread(io.BytesIO(as_dicom(900 * phantom(3, 64, 64, 1)[1])))
    data.PatientName = data.ReferringPhysicianName = data.InstitutionName = PATIENT
    data.PatientID, data.AccessionNumber, data.StudyInstanceUID = "PID-4711", "ACC-4711", "1.2.3.4711"
    data.SeriesInstanceUID, data.ImageComments = "1.2.3.4711.1", f"{PATIENT} 1845-03-27"
    buffer = io.BytesIO()
    data.save_as(buffer)
    return buffer.getvalue()


def _recording() -> bytes:
    from domains.eeg.samples import simulate
    from domains.eeg.writing import edf_bytes

    content = edf_bytes(simulate(seconds=8.0))
    return content[:8] + f"PID-4711 F 27-MAR-1845 {PATIENT}".encode().ljust(80) + content[88:]


def _picture() -> bytes:
    from PIL import Image

    exif = Image.Exif()
    exif[0x010E], exif[0x013B] = PATIENT, PATIENT
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 8.0, 47.11)})
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def test_nobody_is_named_in_logs_or_answers() -> None:
    stream = io.StringIO()
    chosen = settings(
        "lvm-med-tiny",
        "eegformer-tiny",
        embedder_factory="hub:from_pretrained",
        log_format="json",
        request_timeout_s=120,
    )
    configure_logging(chosen, stream)
    logging.getLogger().setLevel(logging.DEBUG)
    for name in ("fmhub", "fmhub.access", "pydicom", "mne", "PIL"):
        logging.getLogger(name).setLevel(logging.DEBUG)
    told: list[str] = []

    async def main() -> None:
        engine = Engine(chosen)
        await engine.wait_ready()
        transport = httpx.ASGITransport(app=create_app(engine))
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            files = {"lvm-med-tiny": [_scan(), _picture()], "eegformer-tiny": [_recording()]}
            for model, contents in files.items():
                for content in contents:
                    half = content[: len(content) // 2]
                    for sent, status in ((content, 200), (half, 422)):
                        answer = await client.post(f"/v1/models/{model}/embeddings", files={"file": ("scan", sent)})
                        assert answer.status_code == status, answer.text
                        told.append(f"{answer.headers} {answer.text}")
            for path in ("/", "/metrics", "/v1/models", "/v1/models/lvm-med-tiny"):
                told.append((await client.get(path)).text)
        await engine.close()

    asyncio.run(asyncio.wait_for(main(), 180))
    assert "fmhub.access" in stream.getvalue()
    for text in (stream.getvalue(), *told):
        for secret in (
            PATIENT,
            "ROENTGEN",
            "PID-4711",
            "ACC-4711",
            "1.2.3.4711",
            "MAR-1845",
            "1845-03",
            str(Path.home()),
            "Traceback",
            "site-packages",
        ):
            assert secret not in text
