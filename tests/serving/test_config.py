from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.config import check_settings, load_settings
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
