"""The files of deploy/, held against the settings, the metrics and the checkout that they speak of."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from hub.cards import list_models
from serving.config import ServiceSettings, check_settings, load_settings
from serving.engine import FIXED
from serving.errors import InvalidSettings
from serving.metrics import Metrics

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def read(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))


def check_models(settings: ServiceSettings) -> None:
    with_weights = {card.name for card in list_models() if card.has_weights}
    assert settings.models and {m.name for m in settings.models} <= with_weights


def dockerfile() -> list[str]:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_the_image_copies_what_there_is_and_runs_unprivileged() -> None:
    copied = [name for line in dockerfile() if line.startswith("COPY") for name in line.split()[1:-1]]
    assert {"hub", "domains", "serving", "model_cards", "pyproject.toml"} <= set(copied)
    allowed = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    for name in copied:
        assert (ROOT / name).exists() and f"!{name}" in allowed
    entry = next(json.loads(line.removeprefix("ENTRYPOINT ")) for line in dockerfile() if line.startswith("ENTRYPOINT"))
    assert entry == ["fmhub", "serve", "--backend", "local"]
    users = [i for i, line in enumerate(dockerfile()) if line.startswith("USER")]
    started = [i for i, line in enumerate(dockerfile()) if line.startswith("ENTRYPOINT")]
    assert users and users[0] < started[0] and dockerfile()[users[-1]] != "USER root"


def test_the_image_asks_for_keys(tmp_path: Path) -> None:
    line = next(line for line in dockerfile() if line.startswith("ENV"))
    environment = dict(re.findall(r"(\w+)=(\S+)", line))
    path = tmp_path / "service.yaml"
    path.write_text("models: [tera-tiny]")
    with pytest.raises(InvalidSettings, match="no key is configured"):
        load_settings(path, {}, environment)
    found = load_settings(DEPLOY / "service.yaml", {}, environment)
    assert found.host == "0.0.0.0" and found.keys_file is not None and found.log_format == "json"
    check_models(found)


def test_compose_mounts_what_there_is_and_publishes_on_this_machine_only() -> None:
    services = read("compose.yaml")["services"]
    settings = load_settings(DEPLOY / "service.yaml", {}, {})
    assert set(services) == {"fmhub", "prometheus", "grafana"}
    for service in services.values():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            # The keys are the operator's to make.
            if source.startswith("./") and source != "./keys.yaml":
                assert (DEPLOY / source).exists(), source
    mounted = [v.split(":")[1] for v in services["fmhub"]["volumes"]]
    assert str(settings.keys_file) in mounted and "/etc/fmhub/service.yaml" in mounted
    assert not services["fmhub"]["build"]["dockerfile"].startswith("/")
    grace = float(services["fmhub"]["stop_grace_period"].removesuffix("s"))
    assert grace > settings.shutdown_grace_s
    job = read("prometheus.yaml")["scrape_configs"][0]
    assert job["static_configs"][0]["targets"] == [f"fmhub:{settings.port}"] and settings.metrics_access == "open"


def exported() -> set[str]:
    """Names of all samples that a service can export, process's own aside."""
    metrics = Metrics()
    metrics.watch_models(list, [])
    found = set()
    for family in metrics.registry.collect():
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        found |= {family.name + suffix for suffix in suffixes}
    return found


def test_the_dashboard_shows_every_series_and_only_those_that_exist() -> None:
    board = json.loads((DEPLOY / "grafana/dashboards/fmhub.json").read_text(encoding="utf-8"))
    panels = [p for p in board["panels"] if p["type"] != "row"]
    used = set()
    for panel in panels:
        assert panel["title"] and panel["targets"] and panel["datasource"]["uid"] == "prometheus"
        for target in panel["targets"]:
            found = set(re.findall(r"\b(?:fmhub|process)_[a-z_]+", target["expr"]))
            assert found and target["expr"].count("(") == target["expr"].count(")")
            used |= found
    assert used <= exported(), used - exported()
    # Nothing that the service counts is left out of sight.
    own = {re.sub("_(total|bucket|sum|count)$", "", n) for n in exported() if n.startswith("fmhub")}
    assert own <= {re.sub("_(total|bucket|sum|count)$", "", n) for n in used}
    assert len({p["id"] for p in board["panels"]}) == len(board["panels"])
    cells = [
        (x, y)
        for g in (p["gridPos"] for p in board["panels"])
        for x in range(g["x"], g["x"] + g["w"])
        for y in range(g["y"], g["y"] + g["h"])
    ]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24
    source = read("grafana/provisioning/datasources/prometheus.yaml")["datasources"][0]
    assert source["uid"] == "prometheus" and "prometheus" in read("compose.yaml")["services"]
    provider = read("grafana/provisioning/dashboards/fmhub.yaml")["providers"][0]
    assert (
        f"./grafana/dashboards:{provider['options']['path']}:ro"
        in read("compose.yaml")["services"]["grafana"]["volumes"]
    )


def test_the_rayservice_is_what_kuberay_and_ray_serve_take(monkeypatch: Any) -> None:
    from ray.serve import Application
    from ray.serve.schema import ServeDeploySchema

    from serving.deployment import build

    manifest = read("rayservice.yaml")
    assert manifest["apiVersion"] == "ray.io/v1" and manifest["kind"] == "RayService"
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", manifest["metadata"]["name"])
    spec = manifest["spec"]
    cluster = spec["rayClusterConfig"]
    assert cluster["rayVersion"] == version("ray")
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        assert all(isinstance(v, str) for v in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        volumes = {v["name"] for v in pod["volumes"]}
        for container in pod["containers"]:
            assert container["name"] and container["image"] == groups[0]["template"]["spec"]["containers"][0]["image"]
            assert {m["name"] for m in container["volumeMounts"]} <= volumes
            assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]
    for worker in cluster["workerGroupSpecs"]:
        assert worker["minReplicas"] <= worker["replicas"] <= worker["maxReplicas"] and worker["groupName"]

    serve = yaml.safe_load(spec["serveConfigV2"])
    checked = ServeDeploySchema.model_validate(serve)
    application = checked.applications[0]
    module, _, name = application.import_path.partition(":")
    assert (module, name) == (build.__module__, build.__name__)
    (deployment,) = application.deployments
    assert deployment.name == "fmhub" and not set(deployment.user_config) & {*FIXED, "ray"}
    settings = check_settings({**application.args, **deployment.user_config})
    check_models(settings)
    assert deployment.max_ongoing_requests == settings.max_ongoing_requests
    assert settings.keys_file is not None and str(settings.keys_file.parent) == "/etc/fmhub"
    # The proxy waits longer than the engine; the port is the one that the service of KubeRay finds by its name.
    assert serve["http_options"]["request_timeout_s"] > settings.request_timeout_s
    ports = {p["name"]: p["containerPort"] for p in groups[0]["template"]["spec"]["containers"][0]["ports"]}
    assert ports["serve"] == serve["http_options"]["port"]
    # A replica fits on a worker, and all of them on all workers.
    worker = cluster["workerGroupSpecs"][0]
    cpus = float(worker["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"])
    assert settings.ray.num_cpus <= cpus and settings.ray.autoscaling is not None
    assert settings.ray.autoscaling["max_replicas"] * settings.ray.num_cpus <= worker["maxReplicas"] * cpus
    assert worker["template"]["spec"]["terminationGracePeriodSeconds"] > settings.shutdown_grace_s
    assert isinstance(build(application.args), Application)
    with pytest.raises(InvalidSettings, match="no key is configured"):
        check_settings({**application.args, **deployment.user_config, "keys_file": None})
    monkeypatch.setenv("FMHUB_SERVE_PROT", "1")
    with pytest.raises(InvalidSettings, match="prot: there is no such setting"):
        build(application.args)


@pytest.mark.parametrize("name", ["service.yaml", "rayservice.yaml"])
def test_the_settings_in_comments_are_settings(name: str) -> None:
    text = (DEPLOY / name).read_text(encoding="utf-8")
    tracing = re.findall(r"# tracing: (.+)", text)
    canary = re.findall(r"(\{name: org/model, canary: .+\})", text)
    assert len(tracing) == len(canary) == 1
    found = check_settings({"models": [yaml.safe_load(canary[0])], "tracing": yaml.safe_load(tracing[0])})
    assert found.checkpoints[1].revision == "v2" and found.tracing.endpoint
