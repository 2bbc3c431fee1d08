"""What the service counts and times, for Prometheus: base units, and labels that stay few."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
COSTS = tuple(4**n for n in range(3, 13))


class Metrics:
    """The service's series, in a registry of their own: several engines may live in one process.

    Labels are models, routes, stages and statuses: never a request's id or a file's name.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        """Create all series empty."""
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("fmhub_requests", "Requests answered", ["route", "model", "status"], registry=registry)
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
        self.queued_samples = Gauge(
            "fmhub_queue_samples", "Prepared samples waiting for the model", ["model"], registry=registry
        )
        self.pending_requests = Gauge(
            "fmhub_pending_requests", "Requests waiting or in work", ["model"], registry=registry
        )

    def exposition(self) -> bytes:
        """Return all series in Prometheus's text format."""
        return generate_latest(self.registry)
