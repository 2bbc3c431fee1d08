from __future__ import annotations

import json
import signal
import ssl
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from arithmetic import file_of
from certificates import self_signed
from command import Command
from conftest import settings

from hub.errors import UnknownModel
from serving.addresses import free_port, listening_socket, url_of
from serving.errors import InvalidSettings
from serving.keys import hash_of, new_key
from serving.local import run_local

ROOT = Path(__file__).parents[2]


def test_local_backend_says_when_it_is_ready_and_stops_clean(tmp_path: Path) -> None:
    command = Command(tmp_path, "--backend", "local")
    url = command.wait_ready()
    answer = httpx.post(f"{url}/v1/models/org/other/embeddings", files={"file": ("a", file_of([1]))})
    assert answer.status_code == 200
    curl = command.output.splitlines()[-1].strip()
    assert subprocess.run([*curl.split(), "-s"], capture_output=True, check=True).stdout.startswith(b'{"object"')
    assert command.stop(signal.SIGINT) == 0, command.output
    assert "Traceback" not in command.output


@pytest.mark.ray
@pytest.mark.slow
def test_ray_backend_leaves_nothing_running(tmp_path: Path) -> None:
    command = Command(tmp_path)
    url = command.wait_ready()
    assert httpx.get(f"{url}/readyz").status_code == 200
    assert len(command.left) > 5
    assert command.stop(signal.SIGTERM) == 0, command.output
    assert "Traceback" not in command.output
    deadline = time.monotonic() + 10
    while command.left and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not command.left


@pytest.mark.ray
@pytest.mark.slow
def test_ray_backend_over_https(tmp_path: Path) -> None:
    tls = self_signed(tmp_path)
    command = Command(tmp_path, settings=f"tls: {{certificate: {tls.certificate}, key: {tls.key}}}\n")
    try:
        url = command.wait_ready()
        assert url.startswith("https://")
        trusted = ssl.create_default_context(cafile=str(tls.certificate))
        assert httpx.get(f"{url}/readyz", verify=trusted).json()["status"] == "ready"
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/readyz")
    finally:
        command.stop(signal.SIGTERM)


@pytest.mark.ray
@pytest.mark.slow
def test_a_model_that_cannot_load_ends_the_ray_backend(tmp_path: Path) -> None:
    command = Command(tmp_path, "missing")
    output = command.process.communicate(timeout=120)[0]
    assert command.process.returncode == 1
    assert output.strip().splitlines()[-1].endswith("the service did not start: no model at /home/operator/missing")
    assert not command.left


def test_a_taken_port_is_one_clear_sentence(tmp_path: Path) -> None:
    with listening_socket("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        command = Command(tmp_path, "--port", str(port))
        output = command.process.communicate(timeout=60)[0]
        assert command.process.returncode == 1
        assert output.strip().startswith(f"fmhub: cannot listen on 127.0.0.1 port {port}")
        with pytest.raises(InvalidSettings, match=str(port)):
            run_local(settings("dummy", port=port), print)


def test_a_model_that_cannot_load_ends_the_local_backend() -> None:
    with pytest.raises(UnknownModel, match="no model at"):
        run_local(settings("missing", port=0), print)


def test_importing_the_command_is_light() -> None:
    code = "import sys, serving.cli; print(*[m for m in ('torch', 'ray', 'fastapi', 'pydantic') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""


def test_addresses() -> None:
    assert url_of("0.0.0.0", 80) == "http://127.0.0.1:80"
    assert url_of("::1", 80) == "http://[::1]:80"
    assert 0 < free_port("127.0.0.1", 0) < 65536
    for host in ("no.such.host.invalid", "203.0.113.1"):
        with pytest.raises(InvalidSettings, match="cannot listen"):
            listening_socket(host, 0)


def test_local_backend_with_https_keys_and_a_log_in_json(tmp_path: Path) -> None:
    key, tls = new_key(), self_signed(tmp_path)
    command = Command(
        tmp_path,
        "--backend",
        "local",
        settings=f"log_format: json\nreader_workers: 0\nkeys: [{{name: lab, hash: '{hash_of(key)}'}}]\n"
        f"tls: {{certificate: {tls.certificate}, key: {tls.key}}}\n",
    )
    url = command.wait_ready()
    assert url.startswith("https://127.0.0.1:") and "curl -H 'Authorization: Bearer KEY'" in command.output
    trusted = ssl.create_default_context(cafile=str(tls.certificate))
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/healthz")
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http{url.removeprefix('https')}/healthz")
    headers = {"Authorization": f"Bearer {key}", "X-Request-Id": "mine"}
    answer = httpx.get(f"{url}/v1/models", verify=trusted, headers=headers)
    assert answer.status_code == 200 and "server" not in answer.headers
    assert command.stop(signal.SIGTERM) == 0
    lines = [json.loads(line) for line in command.output.splitlines() if line.startswith("{")]
    found = [(x["route"], x["status"], x["key"], x["request_id"]) for x in lines if x["logger"] == "fmhub.access"]
    assert found == [("/v1/models", 200, "lab", "mine")]
    assert key not in command.output and "Traceback" not in command.output
