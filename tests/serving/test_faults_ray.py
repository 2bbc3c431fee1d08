"""What a real Ray Serve does when a process dies, a model hangs, or nobody asks for a while; and how long it takes."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from arithmetic import HANG
from conftest import settings

from serving.client import Client, Retries, ServiceError
from serving.cluster import ray_service

pytestmark = [pytest.mark.ray, pytest.mark.slow]

RAY = {"num_cpus": 0, "object_store_memory": 80 * 1024**2, "health_check_period_s": 1}


@contextmanager
def marked(folder: Path) -> Iterator[bytes]:
    """Let all processes that are started meanwhile be found by their environment."""
    os.environ["FMHUB_TEST_MARK"] = str(folder)
    try:
        yield f"FMHUB_TEST_MARK={folder}".encode()
    finally:
        del os.environ["FMHUB_TEST_MARK"]


def processes(mark: bytes, title: str) -> set[int]:
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cmdline").read_bytes().startswith(title.encode()):
                if mark in (process / "environ").read_bytes():
                    found.add(int(process.name))
        except OSError:
            continue
    return found


REPLICA, PROXY = "ray::ServeReplica:fmhub", "ray::ProxyActor"


def wait_for(what: Callable[[], Any], seconds: float) -> float:
    """Seconds until something holds."""
    began = time.monotonic()
    while not what():
        assert time.monotonic() - began < seconds
        time.sleep(0.05)
    return time.monotonic() - began


class Load:
    """Clients that ask all the time, as a user's program does: through the client library, with its retries."""

    def __init__(self, url: str, clients: int = 4) -> None:
        self.url, self.answered, self.lost, self.longest = url, 0, [], 0.0  # type: ignore[var-annotated]
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(clients)]

    def _ask(self, number: int) -> None:
        with Client(self.url) as client:
            while not self._stop.is_set():
                began = time.monotonic()
                try:
                    found = client.embed("org/other", [[float(number), 2.0]]).vectors
                    assert found[0, 0] == (number + 2) / 2  # type: ignore[call-overload]
                    self.answered += 1
                except (ServiceError, AssertionError) as error:
                    self.lost.append(error)
                self.longest = max(self.longest, time.monotonic() - began)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)


def test_replicas_come_with_load_and_go_to_none(tmp_path: Path) -> None:
    scale = {
        "min_replicas": 0, "max_replicas": 2, "target_ongoing_requests": 2, "upscale_delay_s": 0.5,
        "downscale_delay_s": 2, "metrics_interval_s": 0.5, "look_back_period_s": 1,
    }  # fmt: skip
    # The first requests wait for a replica's start, which takes long on a busy machine.
    values = {"port": 0, "shutdown_grace_s": 1, "request_timeout_s": 180, "ray": {**RAY, "autoscaling": scale}}
    chosen = settings("dummy", "org/other", **values)
    with marked(tmp_path) as mark, ray_service(chosen) as url:
        # The service may start with none at all.
        with Load(url, 8) as load:
            first = wait_for(lambda: load.answered, 180)
            up = wait_for(lambda: len(processes(mark, REPLICA)) == 2, 120)
            wait_for(lambda: load.answered > 500, 60)
        down = wait_for(lambda: not processes(mark, REPLICA), 90)
        began = time.monotonic()
        with Client(url, timeout=180, retries=Retries(attempts=1)) as client:
            assert client.embed("dummy", "1 2").vectors[0, 0] == 1.5  # type: ignore[call-overload]
        cold = time.monotonic() - began
    print(
        f"scaling: first answer after {first:.1f} s of load, 2 replicas {up:.1f} s later, none {down:.1f} s after its "
        f"end; the next answer took {cold:.1f} s; {load.answered} answered"
    )
    assert load.lost == []


@pytest.fixture(scope="module")
def service(tmp_path_factory: Any) -> Iterator[tuple[str, bytes]]:
    ray = {**RAY, "num_replicas": 2}
    chosen = settings("dummy", "org/other", port=0, request_timeout_s=2, shutdown_grace_s=1, ray=ray)
    with marked(tmp_path_factory.mktemp("ray")) as mark, ray_service(chosen) as url:
        yield url, mark


def counted(url: str) -> dict[str, float]:
    """Requests for the model 'dummy', by the replica that answered them."""
    text = httpx.get(f"{url}/metrics", timeout=30).text
    pattern = r'^fmhub_requests_total\{model="dummy",replica="(\w+)",route="/v1/embeddings",status="200"\} (\S+)'
    return {name: float(value) for name, value in re.findall(pattern, text, re.MULTILINE)}


def test_metrics_are_those_of_all_replicas(service: tuple[str, bytes]) -> None:
    url, _ = service
    sent = 40
    with httpx.Client() as http:
        for n in range(sent):
            assert http.post(f"{url}/v1/embeddings", json={"model": "dummy", "input": [[n]]}).status_code == 200

    def complete() -> bool:
        # Whichever is asked tells of both: each has had its share, and either may be the one that answers.
        found = [counted(url) for _ in range(12)]
        return all(len(f) == 2 and sum(f.values()) == sent for f in found)

    took = wait_for(complete, 30)
    print(f"metrics: complete {took:.1f} s after the last request")


def test_a_killed_replica_costs_no_request(service: tuple[str, bytes]) -> None:
    url, mark = service
    before = processes(mark, REPLICA)
    assert len(before) == 2
    with Load(url) as load:
        wait_for(lambda: load.answered > 20, 30)
        os.kill(victim := min(before), signal.SIGKILL)
        took = wait_for(lambda: len(processes(mark, REPLICA) - {victim}) == 2, 60)
        answered = load.answered
        wait_for(lambda: load.answered > answered + 50, 30)
    print(
        f"replica killed: a new one {took:.1f} s later; longest request {load.longest:.1f} s; {load.answered} answered"
    )
    assert load.lost == []


def test_a_killed_proxy_costs_no_request(service: tuple[str, bytes]) -> None:
    url, mark = service
    (victim,) = processes(mark, PROXY)
    with Load(url) as load:
        wait_for(lambda: load.answered > 20, 30)
        os.kill(victim, signal.SIGKILL)
        answered = load.answered
        took = wait_for(lambda: load.answered > answered + 8, 90)
    print(f"proxy killed: answers again {took:.1f} s later; longest request {load.longest:.1f} s")
    assert load.lost == []


def test_a_hanging_model_gets_its_replica_replaced(service: tuple[str, bytes]) -> None:
    url, mark = service
    before = processes(mark, REPLICA)
    with Load(url) as load:
        with Client(url, retries=Retries(attempts=1)) as client, pytest.raises(ServiceError) as late:
            client.embed("dummy", [[HANG]])
        assert late.value.code == "timeout"
        # Those who meet the model that hangs are told so after the time-out, and come to the other replica or wait.
        took = wait_for(lambda: len(processes(mark, REPLICA) - before) >= 1, 60)
        gone = wait_for(lambda: len(processes(mark, REPLICA) & before) == 1, 60)
    print(f"hang: a new replica {took:.1f} s after the time-out, the old one gone {gone:.1f} s later")
    with Client(url) as client:
        for n in range(8):
            assert client.embed("dummy", [[float(n)]]).vectors[0, 0] == n  # type: ignore[call-overload]
    # Other models of the replica went on meanwhile.
    assert load.lost == []
