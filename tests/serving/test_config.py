from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.config import check_settings, load_settings, with_environment
from serving.errors import InvalidSettings


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"models": []}, "models"),
        ({}, "models"),
        ({"models": ["a"], "colour": 1}, "colour: there is no such setting"),
        ({"models": ["a", "a"]}, "a is listed twice"),
        ({"models": ["a", "b=a", "b=c"]}, "b is listed twice"),
        ({"models": [{"name": "a", "batch_cost": 0}]}, r"models\[0\]\.batch_cost: .*\(got 0\)"),
        ({"models": [{"name": "a", "dtype": "int3"}]}, r"models\[0\]\.dtype"),
        ({"models": [{"name": "a", "alias": "../b"}]}, "alias"),
        ({"models": [""]}, r"models\[0\]\.name"),
        ({"models": ["a"], "port": 70000}, "port"),
        ({"models": ["a"], "max_wait_ms": -1}, "max_wait_ms"),
        ({"models": ["a"], "embedder_factory": "os.system"}, "embedder_factory"),
        ({"models": ["a"], "max_pending_bytes": 10}, "max_pending_bytes=10 is below max_body_bytes"),
        ({"models": ["a"], "ray": {"max_ongoing_requests": 1}}, "ray.max_ongoing_requests"),
    ],
)
def test_a_bad_setting_is_named(values: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidSettings, match=text):
        check_settings(values)


def test_models_by_name_alias_and_folder(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    found = check_settings({"models": ["tera-tiny", "org/repo", "short=org/long", str(folder), {"name": "x"}]})
    assert [m.id for m in found.models] == ["tera-tiny", "org/repo", "short", "my-model", "x"]
    assert found.models[2].name == "org/long"


def test_ray_lets_in_more_than_the_engine_queues() -> None:
    found = check_settings({"models": ["a", "b"]})
    assert found.max_ongoing_requests > sum(m.max_queued_requests for m in found.models)
    assert check_settings({"models": ["a"], "ray": {"max_ongoing_requests": 300}}).max_ongoing_requests == 300


def test_a_file_and_what_is_given_on_top(tmp_path: Path) -> None:
    path = tmp_path / "service.yaml"
    path.write_text(yaml.safe_dump({"models": [{"name": "a", "alias": "b"}], "port": 1234, "max_wait_ms": 5}))
    found = load_settings(path, {"port": 0, "host": None, "models": None})
    assert (found.port, found.host, found.max_wait_ms, found.models[0].id) == (0, "127.0.0.1", 5.0, "b")
    assert check_settings(found.model_dump(mode="json")) == found


@pytest.mark.parametrize("content", ["[1, 2]", "a: [", "\x00", "just text"])
def test_a_file_that_is_no_settings(content: str, tmp_path: Path) -> None:
    path = tmp_path / "service.yaml"
    path.write_text(content)
    with pytest.raises(InvalidSettings, match=r"service\.yaml"):
        load_settings(path, {})
    with pytest.raises(InvalidSettings, match="No such file"):
        load_settings(tmp_path / "nope.yaml", {})


def test_the_environment_stands_between_the_file_and_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "service.yaml"
    values = {"models": ["a"], "port": 1, "max_wait_ms": 5, "ray": {"num_cpus": 3, "num_replicas": 1}}
    path.write_text(yaml.safe_dump(values))
    environment = {
        "FMHUB_SERVE_PORT": "2",
        "FMHUB_SERVE_MAX_INPUTS": "7",
        "FMHUB_SERVE_MODELS": "[b, {name: c, load: first_use}]",
        "FMHUB_SERVE_RAY__NUM_REPLICAS": "4",
        "FMHUB_SERVE_LOG_REQUESTS": "false",
        "FMHUB_SERVE_TLS__KEY": "k.pem",
        "FMHUB_SERVE_TLS__CERTIFICATE": "c.pem",
        "FMHUB_OTHER": "x",
        "PORT": "9",
    }
    found = load_settings(path, {"port": 3}, environment)
    assert (found.port, found.max_inputs, found.max_wait_ms, found.log_requests) == (3, 7, 5, False)
    assert [m.id for m in found.models] == ["b", "c"] and found.models[1].load == "first_use"
    assert (found.ray.num_replicas, found.ray.num_cpus) == (4, 3)
    assert found.tls is not None and str(found.tls.key) == "k.pem"
    given = {"models": ["a"], "ray": {"num_cpus": 3}}
    assert with_environment(given, {"FMHUB_SERVE_RAY__NUM_CPUS": "1"})["ray"] == {"num_cpus": 1}
    assert given["ray"] == {"num_cpus": 3}


@pytest.mark.parametrize(
    ("variable", "value", "text"),
    [
        ("FMHUB_SERVE_PROT", "1", "prot: there is no such setting"),
        ("FMHUB_SERVE_RAY__REPLICAS", "1", r"ray\.replicas: there is no such setting"),
        ("FMHUB_SERVE_PORT", "many", "port"),
        ("FMHUB_SERVE_PORT__X", "1", "port is no group"),
        ("FMHUB_SERVE_MODELS", "[a", "FMHUB_SERVE_MODELS is not YAML"),
        ("FMHUB_SERVE_HOST", "0.0.0.0", "no key is configured"),
    ],
)
def test_a_bad_variable_is_named(variable: str, value: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "service.yaml"
    path.write_text("models: [a]\nport: 1")
    with pytest.raises(InvalidSettings, match=text):
        load_settings(path, {}, {variable: value})


def test_every_setting_of_the_documentation_exists() -> None:
    text = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        block = block.replace("sha256:...", "sha256:" + "0" * 64)
        check_settings({"models": ["a"], **yaml.safe_load(block)})
