from __future__ import annotations

import asyncio
import errno
import socket
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from arithmetic import expected, file_of
from conftest import running_app, settings

from serving.engine import Engine
from serving.errors import InvalidSettings
from serving.inputs import SpooledUpload, UploadedFile
from serving.spool import PREFIX, Scratch, SpooledFile

SMALL, LARGE = file_of([1, 2, 3]), file_of(*[[i, 2] for i in range(400)])


async def upload(client: httpx.AsyncClient, *contents: bytes, **fields: str) -> httpx.Response:
    files = [("file", (f"f{i}.num", content)) for i, content in enumerate(contents)]
    return await client.post("/v1/models/dummy/embeddings", files=files, data=fields)


def held(engine: Engine, root: Path) -> tuple[int, list[Path]]:
    return engine.spool.held, list(root.glob(f"{PREFIX}*/upload-*"))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_on_disk_gets_the_answer_that_it_gets_in_memory(run: Any, tmp_path: Path, workers: int) -> None:
    async def main() -> None:
        answers = []
        for threshold in (1 << 20, 1000, 0):
            options = {"spool_dir": tmp_path, "spool_threshold": threshold, "reader_workers": workers}
            async with running_app(**options) as (client, engine):
                answer = await upload(client, SMALL, LARGE, b"?", b"")
                # The refused ones come first; what is usable is asked for without them.
                assert answer.status_code in (415, 422)
                answer = await upload(client, SMALL, LARGE)
                assert answer.status_code == 200, answer.text
                answers.append(answer.json()["data"])
                assert held(engine, tmp_path) == (0, [])
            assert not list(tmp_path.iterdir())
        vectors = [entry["embedding"] for entry in answers[0]]
        assert np.allclose(vectors, [expected(s) for s in [[1, 2, 3], *([i, 2] for i in range(400))]])
        assert answers[0] == answers[1] == answers[2]

    run(main())


def test_files_lie_in_private_folders_of_their_own_while_they_are_read(run: Any, tmp_path: Path) -> None:
    async def main() -> None:
        async with running_app(spool_dir=tmp_path, spool_threshold=100) as (client, engine):
            model = engine.lane("dummy").embedder.model  # type: ignore[union-attr]
            model.gate.clear()
            waiting = asyncio.create_task(upload(client, LARGE, LARGE))
            while not model.entered.is_set():
                await asyncio.sleep(0.01)
            size, folders = held(engine, tmp_path)
            assert size == 2 * len(LARGE) and len(folders) == 2
            assert {p.stat().st_mode & 0o777 for p in (*folders, folders[0].parent)} == {0o700}
            assert {(p / "upload").stat().st_mode & 0o777 for p in folders} == {0o600}
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            assert held(engine, tmp_path) == (0, [])
            model.gate.set()

    run(main())


def test_too_much_on_disk_is_a_429_and_a_body_beyond_the_limit_a_413(run: Any, tmp_path: Path) -> None:
    async def main() -> None:
        limits = {"spool_threshold": 100, "max_spool_bytes": len(LARGE) + 10, "max_body_bytes": 3 * len(LARGE)}
        async with running_app(spool_dir=tmp_path, **limits) as (client, engine):
            assert (await upload(client, LARGE)).status_code == 200
            answer = await upload(client, LARGE, LARGE)
            assert answer.status_code == 429 and answer.headers["retry-after"] == "1"
            # In chunks, so that it is not refused by what it announces.
            boundary = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'

            async def endless() -> Any:
                yield boundary
                for _ in range(10):
                    yield LARGE[:1000] * 2

            url, kind = "/v1/models/dummy/embeddings", "multipart/form-data; boundary=b"
            answer = await client.post(url, content=endless(), headers={"content-type": kind})
            assert answer.status_code in (413, 429)
            assert held(engine, tmp_path) == (0, []) and (await upload(client, LARGE)).status_code == 200

    run(main())


def test_memory_is_not_counted_for_what_lies_on_disk(run: Any, tmp_path: Path) -> None:
    async def main() -> None:
        # Three times what may be in memory, of which no more than a stretch ever is.
        big = file_of([1, 2], [3, 4]) + b" " * (6 << 20)
        limits = {"max_pending_bytes": (2 << 20), "max_body_bytes": (2 << 20)}
        async with running_app(spool_dir=tmp_path, **limits) as (client, engine):
            engine.settings = engine.settings.model_copy(update={"max_body_bytes": 8 << 20})
            parts = [big[i : i + 65536] for i in range(0, len(big), 65536)]

            async def body() -> Any:
                yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
                for part in parts:
                    yield part
                yield b"\r\n--b--\r\n"

            url, kind = "/v1/models/dummy/embeddings", "multipart/form-data; boundary=b"
            answer = await client.post(url, content=body(), headers={"content-type": kind})
            assert answer.status_code == 200 and len(answer.json()["data"]) == 2

    run(main())


@pytest.mark.parametrize("workers", [0, 1])
def test_a_full_disk_is_a_503_and_loses_nothing_else(run: Any, tmp_path: Path, monkeypatch: Any, workers: int) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def main() -> None:
        async with running_app(spool_dir=tmp_path, spool_threshold=1000, reader_workers=workers) as (client, engine):
            with monkeypatch.context() as patch:
                patch.setattr(SpooledFile, "_append", full)
                small, large = await asyncio.gather(upload(client, SMALL), upload(client, LARGE))
            assert small.status_code == 200
            assert large.status_code == 503 and large.json()["error"]["code"] == "spool_full"
            assert int(large.headers["retry-after"]) > 0 and str(tmp_path) not in large.text
            assert held(engine, tmp_path) == (0, [])
            with monkeypatch.context() as patch:
                patch.setattr(Scratch, "subfolder", full)
                assert (await upload(client, LARGE)).json()["error"]["code"] == "spool_full"
            assert (await upload(client, LARGE)).status_code == 200

    run(main())


def test_a_folder_that_cannot_be_used_is_said_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="spool_dir"):
        Engine(settings(spool_dir=tmp_path / "missing"))


def test_what_a_killed_process_left_is_removed_and_what_a_running_one_needs_is_not(tmp_path: Path) -> None:
    running = Scratch(tmp_path)
    kept = running.folder
    left, strange = tmp_path / f"{PREFIX}left", tmp_path / f"{PREFIX}strange"
    for folder in (left, strange):
        folder.mkdir()
    (left / "lock").touch()
    (left / "upload").write_bytes(b"of a patient")
    target = tmp_path / "elsewhere"
    target.mkdir()
    (target / "lock").touch()
    (tmp_path / f"{PREFIX}link").symlink_to(target)
    other = Scratch(tmp_path)
    assert other.folder.exists() and other.folder != kept
    # One without a lock may be a moment old.
    assert kept.exists() and not left.exists() and strange.exists() and (target / "lock").exists()
    running.close()
    other.close()
    assert not kept.exists() and not other.folder.exists()


def test_fingerprints_do_not_tell_where_a_file_was(tmp_path: Path) -> None:
    path = tmp_path / "upload"
    path.write_bytes(LARGE)
    on_disk, in_memory = (SpooledUpload(path, "x/a.num"), UploadedFile(LARGE, "a.num"))
    assert on_disk.fingerprint() == in_memory.fingerprint() and on_disk.filename == "a.num"
    assert SpooledUpload(tmp_path / "gone", "a").fingerprint() is None


def test_nothing_is_fetched(run: Any, monkeypatch: Any, tmp_path: Path) -> None:
    asked = []
    refuse = partial(lambda name, *a, **k: asked.append(name), "socket")
    (tmp_path / "a.num").write_bytes(SMALL)

    async def main() -> None:
        async with running_app() as (client, _):
            monkeypatch.setattr(socket.socket, "connect", refuse)
            monkeypatch.setattr(socket, "getaddrinfo", refuse)
            for url in ("http://127.0.0.1:9/a.num", "https://example.org/a", f"file://{tmp_path}/a.num", "//host/a"):
                for value in (url, {"data": url}, {"url": url}, {"data": url, "filename": url}, {"image_url": url}):
                    answer = await client.post("/v1/embeddings", json={"model": "dummy", "input": [value]})
                    assert answer.status_code in (415, 422), (value, answer.text)
                answer = await upload(client, url.encode())
                assert answer.status_code == 415

    run(main())
    assert not asked


def test_a_multipart_body_that_is_cut_off_loses_no_file_in_silence(run: Any) -> None:
    async def main() -> None:
        async with running_app() as (client, _):
            two = [("file", ("a.num", file_of([1, 2]))), ("file", ("b.num", file_of([3, 4])))]
            whole = client.build_request("POST", "/v1/models/dummy/embeddings", files=two)
            body, headers = whole.read(), {"content-type": whole.headers["content-type"]}
            for length in (len(body) - 4, len(body) - 60, len(body) // 2, 40, 0):
                answer = await client.post(whole.url, content=body[:length], headers=headers)
                assert answer.status_code == 400 and "closing boundary" in answer.json()["error"]["message"]

    run(main())
