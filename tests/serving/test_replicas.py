from __future__ import annotations

import re
from typing import Any

from prometheus_client import generate_latest

from serving.board import FORGET_SECONDS, Board
from serving.metrics import Metrics
from serving.replicas import Merged


def series(requests: int) -> Metrics:
    metrics = Metrics()
    metrics.requests.labels("/", "dummy", "200").inc(requests)
    metrics.duration.labels("/", "dummy").observe(0.3)
    return metrics


def test_the_series_of_replicas_are_told_apart_in_families_of_one() -> None:
    replicas = {"a": series(2).registry.collect(), "b": series(5).registry.collect()}
    text = generate_latest(Merged(replicas)).decode()
    for replica, count in (("a", 2), ("b", 5)):
        labels = f'model="dummy",replica="{replica}",route="/"'
        assert f'fmhub_requests_total{{{labels},status="200"}} {count}.0' in text
        assert f'fmhub_request_duration_seconds_bucket{{le="0.5",{labels}}} 1.0' in text
    types = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
    # A family that stood there twice would be refused by Prometheus.
    assert len(types) == len(set(types)) and "fmhub_build_info" in types


def test_the_board_forgets_replicas_that_have_gone(monkeypatch: Any) -> None:
    now = [100.0]
    monkeypatch.setattr("serving.board.time.monotonic", lambda: now[0])
    board = Board()
    board.publish("a", [])
    now[0] += FORGET_SECONDS - 1
    board.publish("b", [])
    assert set(board.published()) == {"a", "b"}
    now[0] += 2
    assert set(board.published()) == {"b"}
