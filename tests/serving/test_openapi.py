"""The OpenAPI document against a running service: whatever it lists is called with what fits it, and what does not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    missing_required_header,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from test_live import Live

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
    negative_data_rejection,
    missing_required_header,
    unsupported_method,
]


ROOT = Path(__file__).parents[2]
REAL = ["tera-tiny", "graphmae-mol-tiny", "merlin-tiny"]


@pytest.fixture(scope="module")
def dummies() -> Iterator[str]:
    live = Live()
    yield live.url
    live.stop()


@pytest.fixture(scope="module")
def real_models() -> Iterator[str]:
    """A server that is a process of its own, with one model of three domains each."""
    process = subprocess.Popen(
        [sys.executable, "-m", "hub.cli", "serve", *REAL, "--backend", "local", "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "FMHUB_SERVE_TORCH_THREADS": "1"},
    )
    try:
        assert process.stdout is not None
        found = next(filter(None, (re.search(r"at (http://\S+) ", line) for line in process.stdout)))
        yield found[1]
    finally:
        process.terminate()
        process.wait(30)


def document(url: str) -> Any:
    """A service's document, with names of its models and their tasks in most requests."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    listed = httpx.get(f"{url}/v1/models").json()["data"]
    tasks = {m["id"]: [*httpx.get(f"{url}/v1/models/{m['id']}").json()["tasks"], "none"] for m in listed}
    turns = iter(range(1 << 60))

    @schema.hook
    def map_path_parameters(_: Any, path_parameters: dict[str, Any] | None) -> dict[str, Any] | None:
        if path_parameters and "model" in path_parameters and (turn := next(turns)) % 4:
            name = path_parameters["model"] = list(tasks)[turn // 4 % len(tasks)]
            if "task" in path_parameters and (turn := next(turns)) % 4:
                path_parameters["task"] = tasks[name][turn // 4 % len(tasks[name])]
        return path_parameters

    return schema


def check_all(url: str, examples: int) -> None:
    """Call every operation that the document lists."""
    calm = settings(
        max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
    )
    for found in document(url).get_all_operations():
        operation = found.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

            @calm
            @given(case=operation.as_strategy(generation_mode=mode))
            def check(case: Any) -> None:
                case.call_and_validate(checks=CHECKS)

            try:
                check()
            except Unsatisfiable:
                assert mode is GenerationMode.NEGATIVE  # nothing about a GET without parameters can be wrong


def test_answers_are_as_documented(dummies: str) -> None:
    check_all(dummies, 6)


@pytest.mark.slow
def test_many_answers_are_as_documented(dummies: str) -> None:
    check_all(dummies, 1_000)


@pytest.mark.slow
def test_answers_of_real_models_are_as_documented(real_models: str) -> None:
    check_all(real_models, 200)
    assert httpx.get(f"{real_models}/healthz").status_code == 200
