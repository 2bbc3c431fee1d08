from __future__ import annotations

import re
from typing import Any

import pytest
from prometheus_client import generate_latest

from serving.metrics import Metrics
from serving.replicas import FORGET_SECONDS, Board, Merged, SharedMetrics


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


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> dict[bytes, bytes]:
    """What stands in the cluster's store, here a dictionary with its functions."""
    found: dict[bytes, bytes] = {}
    put = lambda key, value, namespace: found.update({key.encode(): value.encode()})  # noqa: E731
    monkeypatch.setattr("serving.replicas.store._internal_kv_put", put)
    listed = lambda prefix, namespace: [k for k in found if k.startswith(prefix.encode())]  # noqa: E731
    monkeypatch.setattr("serving.replicas.store._internal_kv_list", listed)
    monkeypatch.setattr("serving.replicas.store._internal_kv_get", lambda key, namespace: found.get(key))
    monkeypatch.setattr("serving.replicas.store._internal_kv_del", lambda key, namespace: found.pop(key))
    return found


def test_the_board_forgets_replicas_that_have_gone(kept: dict[bytes, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("serving.replicas.time.time", lambda: now[0])
    board = Board("app")
    board.publish("a", list(series(2).registry.collect()))
    now[0] += FORGET_SECONDS - 1
    board.publish("b", [])
    Board("another").publish("c", [])
    found = board.published()
    assert set(found) == {"a", "b"}
    text = generate_latest(Merged(found)).decode()
    assert 'fmhub_requests_total{model="dummy",replica="a",route="/",status="200"} 2.0' in text
    now[0] += 2
    assert set(board.published()) == {"b"} and len(kept) == 2


def test_a_store_that_fails_leaves_a_replicas_own_series(kept: Any, monkeypatch: pytest.MonkeyPatch, run: Any) -> None:
    Board("app").publish("b", list(series(5).registry.collect()))
    shared = SharedMetrics(series(2), "app", "a")

    async def counts() -> list[str]:
        content, _ = await shared.exposition("")
        return re.findall(r'^fmhub_requests_total.*replica="(\w)"', content.decode(), re.MULTILINE)

    assert sorted(run(counts())) == ["a", "b"]

    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError

    monkeypatch.setattr("serving.replicas.store._internal_kv_list", fail)
    # Not what it saw before: a counter that goes back looks like one that began anew.
    assert run(counts()) == ["a"]
