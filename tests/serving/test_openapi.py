"""The OpenAPI document against a running service: whatever it lists is called with what fits it, and what does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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


@pytest.fixture(scope="module")
def service() -> Iterator[Live]:
    live = Live()
    yield live
    live.stop()


def document(service: Live) -> Any:
    """The service's document, with names of models that are served in every other request."""
    schema = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
    turns = iter(range(1 << 60))

    @schema.hook
    def map_path_parameters(_: Any, path_parameters: dict[str, Any] | None) -> dict[str, Any] | None:
        if path_parameters and "model" in path_parameters and next(turns) % 4:
            path_parameters["model"] = "dummy"
            if "task" in path_parameters and next(turns) % 4:
                path_parameters["task"] = ("total", "table", "broken", "none")[next(turns) % 4]
        return path_parameters

    return schema


def check_all(service: Live, examples: int) -> None:
    """Call every operation that the document lists."""
    calm = settings(
        max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
    )
    for found in document(service).get_all_operations():
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


def test_answers_are_as_documented(service: Live) -> None:
    check_all(service, 6)


@pytest.mark.slow
def test_many_answers_are_as_documented(service: Live) -> None:
    check_all(service, 1_000)
