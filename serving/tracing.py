"""Traces by OpenTelemetry, where an endpoint is configured: one span a request, and one for each of its stages.

A span tells what the log's line tells, and sizes: never content, a file's name or path, a key, or an address. The
packages are imported only when tracing is on; without it a request costs one comparison more.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from serving.config import TracingSettings
from serving.errors import InvalidSettings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from starlette.types import Scope

EXPORT_SECONDS = 5.0
"""How long a collector has for one batch of spans; a dead one must not hold up the service's end."""

DEFAULT_PATH = "/v1/traces"

INSTALL = "pip install 'fmhub[tracing]'"


class Tracing:
    """Makes the spans of all requests and sends them, in batches and from a thread of their own."""

    def __init__(self, settings: TracingSettings, exporter: SpanExporter | None = None) -> None:
        """Prepare to trace.

        Args:
            settings: With an endpoint, unless there is an exporter.
            exporter: Takes the spans in the place of the one to the endpoint.

        Raises:
            InvalidSettings: The packages are not installed.
        """
        try:
            from opentelemetry import trace
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError:
            raise InvalidSettings(
                f"tracing.endpoint is set and OpenTelemetry is not installed: {INSTALL}, or leave the setting out"
            ) from None
        self._api: Any = trace
        self._propagator = TraceContextTextMapPropagator()
        resource = {"service.name": settings.service_name, "service.version": version("fmhub")}
        self._provider = TracerProvider(
            # A caller who has decided about a trace has decided for us as well.
            sampler=ParentBased(TraceIdRatioBased(settings.sample_ratio)),
            resource=Resource.create(resource),
            shutdown_on_exit=False,
        )
        if exporter is None:
            assert settings.endpoint is not None
            exporter = OTLPSpanExporter(endpoint=_traces_url(settings.endpoint), timeout=EXPORT_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("fmhub", version("fmhub"))

    def begin(self, scope: Scope) -> RequestTrace:
        """Begin a request's span, below the caller's where the header ``traceparent`` names one."""
        # Not the other headers of the standard: baggage is the caller's own content.
        names = (b"traceparent", b"tracestate")
        carrier = {n.decode(): v.decode("latin-1") for n, v in scope["headers"] if n in names}
        context = self._propagator.extract(carrier)
        span = self._tracer.start_span(scope["type"], context, self._api.SpanKind.SERVER)
        return RequestTrace(self._api, self._tracer, span)

    def close(self) -> None:
        """Send what is left; blocks for some seconds where nobody takes it."""
        self._provider.shutdown()


@dataclass
class _Stage:
    """All parts of one stage of a request: they may overlap, or lie apart."""

    begin: int
    end: int
    seconds: float = 0.0
    parts: int = 0
    facts: dict[str, int] = field(default_factory=dict)


class RequestTrace:
    """The span of one request, and what its stages will be told of."""

    def __init__(self, api: Any, tracer: Any, span: Any) -> None:
        """Wrap a span that has begun."""
        self._api, self._tracer, self._span = api, tracer, span
        self._stages: dict[str, _Stage] = {}
        self.id = f"{span.get_span_context().trace_id:032x}"
        """Of the trace, as the log shows it."""

    def note(self, stage: str, seconds: float, facts: Mapping[str, int]) -> None:
        """Note a part of a stage that has just ended.

        Args:
            stage: Its name.
            seconds: It took.
            facts: Sizes; ``cost`` is summed over the parts, of others the largest is kept.
        """
        if not self._span.is_recording():
            return
        now = time.time_ns()
        begin = now - int(seconds * 1e9)
        found = self._stages.setdefault(stage, _Stage(begin, now))
        found.begin, found.end = min(begin, found.begin), now
        found.seconds += seconds
        found.parts += 1
        for name, value in facts.items():
            before = found.facts.get(name, 0)
            found.facts[name] = before + value if name == "cost" else max(before, value)

    def end(self, method: str, route: str, model: str, status: int, code: str, request_id: str) -> None:
        """End the span and make those of the stages.

        Args:
            method: Of the request.
            route: Its template, never the path.
            model: Id, where one was asked.
            status: Of the answer.
            code: Of the error, where it is one.
            request_id: As the log shows it.
        """
        span = self._span
        if not span.is_recording():
            return
        below = self._api.set_span_in_context(span)
        for name, stage in self._stages.items():
            facts = {f"fmhub.{fact}": value for fact, value in stage.facts.items()}
            attributes = {"fmhub.model": model, "fmhub.seconds": stage.seconds, "fmhub.parts": stage.parts, **facts}
            self._tracer.start_span(name, below, attributes=attributes, start_time=stage.begin).end(stage.end)
        span.update_name(f"{method} {route}")
        span.set_attributes(
            {"http.request.method": method, "http.route": route, "http.response.status_code": status}
            | {"fmhub.request_id": request_id}
            | ({"fmhub.model": model} if model else {})
            | ({"error.type": code} if code else {})
        )
        forward = self._stages.get("forward")
        if forward is not None:
            span.set_attribute("fmhub.cost", forward.facts.get("cost", 0))
        if status >= 500:
            span.set_status(self._api.StatusCode.ERROR)
        span.end()


def _traces_url(endpoint: str) -> str:
    """Return where the spans go; of a collector that is named without a path, to the place the standard has."""
    parts = urlsplit(endpoint)
    return endpoint if parts.path.strip("/") else parts._replace(path=DEFAULT_PATH).geturl()
