"""``serve deploy`` of the file that ``fmhub serve --write-ray`` makes, on a real cluster with its dashboard."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from conftest import settings

from serving.addresses import free_port
from serving.app import create_app
from serving.config import check_settings
from serving.deployment import build
from serving.engine import Engine
from serving.errors import InvalidSettings
from serving.keys import hash_of, new_key
from serving.ray_config import ray_config

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def test_the_file_puts_what_can_change_where_it_can_change() -> None:
    chosen = {"models": ["dummy"], "torch_threads": 1, "keys_file": "keys.yaml", "host": "0.0.0.0", "cache_bytes": 5}
    found = ray_config(check_settings({**chosen, "ray": {"num_replicas": 2}}))
    application = found["applications"][0]
    assert application["args"] == {"host": "0.0.0.0", "torch_threads": 1, "ray": {"num_replicas": 2}}
    deployment = application["deployments"][0]
    changeable = {"models": [{"name": "dummy"}], "keys_file": "keys.yaml", "cache_bytes": 5}
    assert deployment["user_config"] == changeable and deployment["max_ongoing_requests"] == 192
    assert found["http_options"] == {"host": "0.0.0.0", "port": 8000, "request_timeout_s": 70}
    # Ray takes it, and the builder too, although models and keys come later.
    from ray.serve import Application
    from ray.serve.schema import ServeDeploySchema

    ServeDeploySchema.model_validate(found)
    assert isinstance(build(application["args"]), Application)
    with pytest.raises(InvalidSettings, match="colour"):
        build({**application["args"], "colour": 1})
    # Both parts together are the whole, which is checked again where the parts meet.
    assert check_settings({**application["args"], **changeable}).keys_file == Path("keys.yaml")
    with pytest.raises(InvalidSettings, match="no key is configured"):
        check_settings({**application["args"], "models": ["dummy"]})


def test_models_and_keys_that_come_after_the_start_hold_from_the_first_request_on(run: Any) -> None:
    async def main() -> None:
        # As a replica does it: nothing is served before user_config has come.
        engine = Engine(settings("later", insecure=True).model_copy(update={"models": []}))
        app = create_app(engine)
        await engine.wait_ready()
        assert not engine.ready
        keys = [{"name": "lab", "hash": hash_of(key := new_key())}]
        await engine.apply(settings("dummy", keys=keys))
        assert engine.ready
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            assert (await client.get("/v1/models")).status_code == 401
            answer = await client.get("/v1/models", headers={"Authorization": f"Bearer {key}"})
            assert [m["id"] for m in answer.json()["data"]] == ["dummy"]
        await engine.close()

    run(main())


class Cluster:
    """A local Ray of one node with the dashboard, whose interface asks for a token of its own."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fmray-", dir="/tmp"))
        (self.folder / "token").write_text(secrets.token_hex(32))
        port, agent, client = (free_port("127.0.0.1", 0) for _ in range(3))
        self.address = f"http://127.0.0.1:{port}"
        path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
        self.environment = {
            **os.environ,
            "PYTHONPATH": path,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "45",
        }
        self.log = (self.folder / "log").open("w")
        self.process = subprocess.Popen(
            [BIN / "ray", "start", "--head", "--block", "--port=0", f"--temp-dir={self.folder}", "--num-cpus=2",
             "--object-store-memory=80000000", f"--dashboard-port={port}", "--disable-usage-stats",
             f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}",
             "--min-worker-port=0", "--max-worker-port=0"],
            env=self.environment, stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def serve(self, *arguments: str) -> str:
        command = [str(BIN / "serve"), arguments[0], "-a", self.address, *arguments[1:]]
        found = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120)
        assert found.returncode == 0, found.stdout + found.stderr
        return found.stdout

    def wait_for(self, what: Callable[[], Any], seconds: float) -> Any:
        deadline = time.monotonic() + seconds
        while True:
            try:
                if found := what():
                    return found
            except (httpx.TransportError, AssertionError, KeyError, ValueError):
                pass
            assert time.monotonic() < deadline and self.process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.3)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        finally:
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    if str(self.folder).encode() in (process / "environ").read_bytes():
                        os.kill(int(process.name), signal.SIGKILL)
                except OSError:
                    continue
            self.log.close()
            shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    found = Cluster()
    try:
        yield found
    finally:
        found.stop()


@pytest.mark.ray
@pytest.mark.slow
def test_deploy_status_reconfigure_and_shutdown(cluster: Cluster, tmp_path: Path) -> None:
    port = free_port("127.0.0.1", 0)
    path = tmp_path / "ray.yaml"

    def write(*models: Any) -> None:
        path.write_text(yaml.safe_dump(ray_config(settings(*models, port=port, ray={"num_cpus": 0}))))

    url = f"http://127.0.0.1:{port}"
    write("dummy", "org/other")
    cluster.wait_for(lambda: httpx.get(f"{cluster.address}/api/version").status_code in (200, 401), 60)
    cluster.wait_for(lambda: cluster.serve("deploy", str(path)), 60)

    def served() -> list[str]:
        return [m["id"] for m in httpx.get(f"{url}/v1/models").json()["data"]]

    def process() -> str:
        text = httpx.get(f"{url}/metrics").text
        found = re.search(r"^process_start_time_seconds (\S+)", text, re.MULTILINE)
        assert found is not None
        return found[1]

    cluster.wait_for(lambda: served() == ["dummy", "org/other"], 120)
    assert yaml.safe_load(cluster.serve("status"))["applications"]["fmhub"]["status"] == "RUNNING"
    started = process()

    failures: list[Any] = []
    asked = 0
    stop = threading.Event()

    def ask() -> None:
        nonlocal asked
        with httpx.Client(timeout=30) as http:
            while not stop.is_set():
                answer = http.post(f"{url}/v1/embeddings", json={"model": "dummy", "input": "1 2"})
                asked += 1
                time.sleep(0.02)  # steady use, not a load test
                if answer.status_code != 200 or answer.json()["data"][0]["embedding"][0] != 1.5:
                    failures.append(answer.text)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        canary = {"name": "dummy", "canary": {"name": "newer", "weight": 1}}
        for models, shown in (
            (["dummy", "org/other", "third"], ["dummy", "org/other", "third"]),
            (["dummy", "third"], ["dummy", "third"]),
            ([canary, "third"], ["dummy", "dummy@canary", "third"]),
        ):
            write(*models)
            began = time.monotonic()
            cluster.serve("deploy", str(path))
            cluster.wait_for(lambda shown=shown: served() == shown, 60)  # type: ignore[misc]
            print(f"reconfigure: {time.monotonic() - began:.1f} s from the command to {shown}")
    finally:
        stop.set()
        asking.join(30)
    assert failures == [] and asked > 10
    assert process() == started, "the replica was replaced"
    answer = httpx.post(f"{url}/v1/embeddings", json={"model": "dummy", "input": "1"}).json()
    assert answer["model"] == "dummy@canary"
    cluster.serve("shutdown", "-y")
    cluster.wait_for(lambda: yaml.safe_load(cluster.serve("status"))["applications"] == {}, 60)
