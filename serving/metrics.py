"""What the service counts and times, for Prometheus: base units, and labels that stay few."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version

import torch
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
COSTS = tuple(4**n for n in range(3, 13))


Exposition = tuple[bytes, str]
"""Series as text, and its media type."""

INFO = ("revision", "weights", "processor")


@dataclass(frozen=True)
class ModelFacts:
    """A served model as the metrics show it: its state, size, and what it was made of once that is known."""

    id: str
    state: str
    bytes: int
    info: Mapping[str, str | None]


class Metrics:
    """The service's series, in a registry of their own: several engines may live in one process.

    Labels are models, routes, stages, statuses, error codes and names of keys: never a request's id or a file's name.
    """

    def __init__(self) -> None:
        """Create all series empty."""
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("fmhub_requests", "Requests answered", ["route", "model", "status"], registry=registry)
        self.rejected = Counter(
            "fmhub_rejected_requests",
            "Requests answered with an error, by its code",
            ["code", "model"],
            registry=registry,
        )
        self.key_requests = Counter(
            "fmhub_key_requests", "Requests by the key that they came with", ["key"], registry=registry
        )
        self.bytes_in = Counter("fmhub_request_body_bytes", "Bodies received", ["route"], registry=registry)
        self.bytes_out = Counter("fmhub_response_body_bytes", "Bodies sent", ["route"], registry=registry)
        self.duration = Histogram(
            "fmhub_request_duration_seconds",
            "From the first byte of a request to the last of its answer",
            ["route", "model"],
            registry=registry,
            buckets=SECONDS,
        )
        self.stage = Histogram(
            "fmhub_stage_duration_seconds",
            "read: one turn of reading and preparing; queue: a prepared sample's wait; "
            "forward: one batch in the model; encode: an answer to bytes",
            ["model", "stage"],
            registry=registry,
            buckets=SECONDS,
        )
        self.batch_size = Histogram(
            "fmhub_batch_samples", "Samples in a forward", ["model"], registry=registry, buckets=SIZES
        )
        self.batch_cost = Histogram(
            "fmhub_batch_cost", "Padded cost of a forward", ["model"], registry=registry, buckets=COSTS
        )
        self.cost = Counter(
            "fmhub_forward_cost",
            "Cost of all forwards, in the model's unit; kind: real, or padding beside it",
            ["model", "kind"],
            registry=registry,
        )
        self.queued_samples = Gauge(
            "fmhub_queue_samples", "Prepared samples waiting for the model", ["model"], registry=registry
        )
        self.pending_requests = Gauge(
            "fmhub_pending_requests", "Requests waiting or in work", ["model"], registry=registry
        )

        self.reader_workers = Gauge("fmhub_reader_workers", "Processes that files are read in", registry=registry)
        self.reader_restarts = Counter(
            "fmhub_reader_restarts",
            "Reader processes that were replaced; reason: killed, crashed, exited, garbled, timeout, abandoned, memory",
            ["reason"],
            registry=registry,
        )
        self.load_seconds = Gauge(
            "fmhub_model_load_seconds", "Of the last loading and warming of a model", ["model"], registry=registry
        )
        self.evictions = Counter(
            "fmhub_model_evictions", "Times that a model made room for another", ["model"], registry=registry
        )
        self.input_flags = Counter(
            "fmhub_input_flags",
            "Embedded samples by the flags that they were accepted with",
            ["model", "flag"],
            registry=registry,
        )
        self.cache = Counter(
            "fmhub_cache_lookups", "Inputs looked up in the results cache", ["result"], registry=registry
        )
        self.cache_bytes = Gauge("fmhub_cache_bytes", "Held by the results cache", registry=registry)
        build = Gauge(
            "fmhub_build_info", "1, with the versions as labels", ["version", "torch", "python"], registry=registry
        )
        build.labels(version("fmhub"), torch.__version__, platform.python_version()).set(1)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)

    def watch_models(self, models: Callable[[], Iterable[ModelFacts]], all_states: Iterable[str]) -> None:
        """Show the models as they are when asked.

        Args:
            models: Gives the served models.
            all_states: Those that a model can be in.
        """
        self.registry.register(_Models(models, tuple(all_states)))

    def forget(self, model: str) -> None:
        """Let go of what shows the present state of a model that is no longer served."""
        for gauge in (self.queued_samples, self.pending_requests, self.load_seconds):
            with contextlib.suppress(KeyError):
                gauge.remove(model)

    def exposition(self, accept: str = "") -> Exposition:
        """Return all series; see `exposition_of`."""
        return exposition_of(self.registry, accept)


def exposition_of(series: Collector, accept: str = "") -> Exposition:
    """Return series as text.

    Args:
        series: They.
        accept: What the asker takes: OpenMetrics where it says so, as Prometheus does, and else Prometheus's text.
    """
    encode, content_type = choose_encoder(accept)
    return encode(series), content_type


class _Models(Collector):
    """What is known of each model when it is asked."""

    def __init__(self, models: Callable[[], Iterable[ModelFacts]], all_states: tuple[str, ...]) -> None:
        self._models = models
        self._all = all_states

    def collect(self) -> Iterable[Metric]:
        state = GaugeMetricFamily("fmhub_model_state", "1 for the state that a model is in", labels=["model", "state"])
        size = GaugeMetricFamily(
            "fmhub_model_bytes", "Weights in memory; 0 of a model that is not loaded", labels=["model"]
        )
        info = GaugeMetricFamily("fmhub_model_info", "1, with what a loaded model was made of", labels=["model", *INFO])
        for model in self._models():
            for name in self._all:
                state.add_metric([model.id, name], float(name == model.state))
            size.add_metric([model.id], model.bytes)
            if model.info:
                info.add_metric([model.id, *(model.info.get(name) or "" for name in INFO)], 1.0)
        yield state
        yield size
        yield info
