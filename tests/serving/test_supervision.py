from __future__ import annotations

import os
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from arithmetic import HANG
from command import Command

from serving.client import Client, Retries, ServiceError
from serving.supervision import HUNG


def hang(url: str) -> None:
    with Client(url, retries=Retries(attempts=1)) as client, pytest.raises(ServiceError) as late:
        client.embed("dummy", [[HANG]])
    assert late.value.code == "timeout"


def rewrite(folder: Path, old: str, new: str) -> None:
    path = folder / "service.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def wait_for(what: Any, seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_service_whose_model_hangs_starts_anew_on_the_same_socket(tmp_path: Path) -> None:
    chosen = "request_timeout_s: 3\nshutdown_grace_s: 1\n"
    command = Command(tmp_path, "--backend", "local", settings=chosen)
    url = command.wait_ready()
    hang(url)
    began = time.monotonic()
    # Connections wait in the socket's queue meanwhile: nobody is refused, and one try of the client is enough.
    with Client(url, retries=Retries(attempts=8)) as client:
        assert client.embed("org/other", "1 2").vectors.shape == (1, 4)
        wait_for(lambda: "starting anew" in command.read())
        found = client.embed("dummy", "1 2")
    took = time.monotonic() - began
    print(f"hang: answers again {took:.1f} s after the request that hung was given up")
    assert found.vectors[0, 0] == 1.5 and took < 30  # type: ignore[call-overload]
    assert re.search(r"dummy has hung in one batch; only a new process can help", command.output)
    assert len(re.findall("fmhub serves", command.output)) <= 2
    assert command.stop(signal.SIGTERM) == 0, command.output


@pytest.mark.slow
def test_a_hanging_forward_does_not_keep_the_process_from_ending(tmp_path: Path) -> None:
    chosen = "request_timeout_s: 1\nshutdown_grace_s: 1\nrestart_on_hang: false\n"
    command = Command(tmp_path, "--backend", "local", settings=chosen)
    url = command.wait_ready()
    hang(url)
    wait_for(lambda: httpx.get(f"{url}/healthz").status_code == 503)
    assert httpx.get(f"{url}/healthz").json()["error"]["code"] == "model_hangs"
    began = time.monotonic()
    assert command.stop(signal.SIGTERM) == HUNG
    assert time.monotonic() - began < 8 and "without waiting for what hangs" in command.output


def test_models_come_and_go_on_sighup_and_a_bad_file_changes_nothing(tmp_path: Path) -> None:
    command = Command(tmp_path, "--backend", "local")
    url = command.wait_ready()

    def served() -> list[str]:
        return [m["id"] for m in httpx.get(f"{url}/v1/models").json()["data"]]

    failures: list[int] = []
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client() as http:
            while not stop.is_set():
                status = http.post(f"{url}/v1/embeddings", json={"model": "dummy", "input": "1"}).status_code
                failures.extend([status] if status != 200 else [])

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        rewrite(tmp_path, "[dummy, org/other]", "[dummy, third]")
        os.kill(command.process.pid, signal.SIGHUP)
        wait_for(lambda: served() == ["dummy", "third"])
        for bad in ("[dummy, missing]", "[dummy, third]\ncolour: blue", "[dummy, third]\nhost: 0.0.0.0"):
            rewrite(tmp_path, "[dummy, third]", bad)
            os.kill(command.process.pid, signal.SIGHUP)
            wait_for(lambda: "the settings stay as they were" in command.read())
            command.output = ""
            rewrite(tmp_path, bad, "[dummy, third]")
            assert served() == ["dummy", "third"]
    finally:
        stop.set()
        asking.join(10)
    assert failures == []
    assert command.stop(signal.SIGTERM) == 0, command.output
