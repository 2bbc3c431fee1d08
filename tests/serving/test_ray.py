from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import http_checks
import httpx
import pytest
from conftest import settings
from ray import serve

from serving.client import Client, Retries, ServiceError
from serving.cluster import ray_service
from serving.deployment import build
from serving.errors import InvalidSettings
from serving.keys import hash_of, new_key

pytestmark = pytest.mark.ray


@pytest.fixture(scope="session")
def spool(tmp_path_factory: Any) -> Path:
    return tmp_path_factory.mktemp("spool")


def readers(spool: Path) -> dict[int, int]:
    """Reader processes of the service, each with the replica that it is of."""
    found = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and (entry / "cwd").resolve().is_relative_to(spool.resolve()):
                found[int(entry.name)] = parent(parent(int(entry.name)))
    return found


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.fixture(scope="session")
def url(spool: Path) -> Iterator[str]:
    """The service on a real Ray Serve instance: started once, since starting takes seconds."""
    chosen = settings(
        "dummy",
        "org/other",
        port=0,
        max_body_bytes=200_000,
        reader_workers=1,
        spool_dir=spool,
        ray={"num_cpus": 0, "object_store_memory": 80 * 1024**2},
    )
    with ray_service(chosen) as found:
        yield found


def test_routes(url: str) -> None:
    http_checks.check_routes(url)


def test_errors(url: str) -> None:
    http_checks.check_errors(url)


def test_openai_client(url: str) -> None:
    http_checks.check_openai(url)


def test_own_client(url: str, tmp_path: Any) -> None:
    http_checks.check_client(url, str(tmp_path))


def test_concurrency(url: str) -> None:
    http_checks.check_concurrency(url)


def test_models_come_without_a_restart_and_health_is_checked(url: str) -> None:
    replica = serve.get_app_handle("fmhub")
    replica.reconfigure.remote({"models": ["dummy", "org/other", "third"]}).result(timeout_s=30)
    with Client(url) as client:
        assert [m["id"] for m in client.models()] == ["dummy", "org/other", "third"]
        assert client.embed("third", "1 2").vectors[0, 0] == 1.5
    assert replica.check_health.remote().result(timeout_s=30) is None


def test_keys_can_be_asked_for_without_a_restart(url: str) -> None:
    key = new_key()
    values = {"models": ["dummy", "org/other"]}
    replica = serve.get_app_handle("fmhub")
    keys = [{"name": "lab", "hash": hash_of(key), "models": ["dummy"]}]
    replica.reconfigure.remote({**values, "keys": keys}).result(timeout_s=30)
    try:
        with Client(url) as stranger, pytest.raises(ServiceError) as refused:
            stranger.models()
        assert refused.value.status == 401
        with Client(url, key=key) as client:
            assert [m["id"] for m in client.models()] == ["dummy"]
            found = client.embed("dummy", ["1 2", "3"])
            assert found.vectors[0, 0] == 1.5 and len(found.weights) == 64  # type: ignore[call-overload]
            with pytest.raises(ServiceError) as forbidden:
                client.embed("org/other", "1")
            assert forbidden.value.status == 403
            headers = {"Authorization": f"Bearer {key}", "X-Request-Timeout": "20"}
            answer = httpx.post(f"{url}/v1/embeddings", json={"model": "dummy", "input": "1"}, headers=headers)
            assert "forward;dur=" in answer.headers["server-timing"]
            assert len(answer.headers.get_list("x-request-id")) == 1
    finally:
        replica.reconfigure.remote(values).result(timeout_s=30)
    with Client(url) as client:
        assert len(client.models()) == 2


def test_the_builder_refuses_bad_arguments() -> None:
    assert isinstance(build({"models": ["dummy"]}), serve.Application)
    with pytest.raises(InvalidSettings, match="colour"):
        build({"models": ["dummy"], "colour": 1})


def test_a_killed_replica_leaves_no_reader_process_and_is_replaced(url: str, spool: Path) -> None:
    before = readers(spool)
    assert len(before) == 1
    (replica,) = before.values()
    os.kill(replica, signal.SIGKILL)
    stop = time.monotonic() + 60
    while set(before) & set(readers(spool)):
        assert time.monotonic() < stop
        time.sleep(0.05)
    with Client(url, retries=Retries(attempts=20)) as client:
        assert client.embed("dummy", "1 2").vectors[0, 0] == 1.5
    # What it left on disk went with it, or with the next start.
    assert len(readers(spool)) == 1 and len(list(spool.iterdir())) == 1
