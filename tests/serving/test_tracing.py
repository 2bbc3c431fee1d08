from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from arithmetic import MAGIC, POISON, file_of
from conftest import running_engine, settings
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from serving.app import create_app
from serving.config import TracingSettings, check_settings
from serving.errors import InvalidSettings
from serving.logs import configure_logging
from serving.tracing import Tracing

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs the extra 'tracing'")

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
SECRET = "JANE-DOE-1970"


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


async def ask(exporter: InMemorySpanExporter, *requests: Any, **chosen: Any) -> list[Any]:
    """Spans of requests, each a body or a tuple of (method, path, arguments)."""
    tracing = Tracing(TracingSettings(**chosen), exporter)
    async with running_engine() as engine:
        transport = httpx.ASGITransport(app=create_app(engine, tracing=tracing))
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            for method, path, arguments in requests:
                await client.request(method, path, **arguments)
    tracing.close()
    return list(exporter.get_finished_spans())


def embed(value: Any, **headers: str) -> tuple[str, str, dict[str, Any]]:
    return "POST", "/v1/embeddings", {"json": {"model": "dummy", "input": value}, "headers": headers}


def test_a_request_is_a_span_below_the_callers_with_its_stages(run: Any, exporter: Any) -> None:
    value = ["1 2 3", "4"]
    spans = run(ask(exporter, embed(value, traceparent=f"00-{TRACE}-{PARENT}-01", **{"x-request-id": "mine"})))
    root = next(s for s in spans if s.parent is not None and f"{s.parent.span_id:016x}" == PARENT)
    assert f"{root.context.trace_id:032x}" == TRACE and root.name == "POST /v1/embeddings"
    assert dict(root.attributes) == {
        "http.request.method": "POST", "http.route": "/v1/embeddings", "http.response.status_code": 200,
        "fmhub.model": "dummy", "fmhub.request_id": "mine", "fmhub.cost": 4,
    }  # fmt: skip
    stages = {s.name: s for s in spans if s is not root}
    assert set(stages) == {"read", "queue", "forward", "encode"}
    for stage in stages.values():
        assert stage.parent.span_id == root.context.span_id and stage.attributes["fmhub.model"] == "dummy"
        # The clocks of spans and of stages differ by less than this.
        assert root.start_time - 2e6 <= stage.start_time <= stage.end_time <= root.end_time + 2e6
    assert stages["forward"].attributes["fmhub.cost"] == 4
    assert 1 <= stages["forward"].attributes["fmhub.batch_samples"] <= 2
    assert stages["read"].start_time < stages["forward"].start_time < stages["encode"].end_time


def test_spans_tell_of_errors_and_never_of_content(run: Any, exporter: Any) -> None:
    content = MAGIC + f"{SECRET}: 1\n".encode()
    spans = run(
        ask(
            exporter,
            ("POST", f"/v1/models/dummy/embeddings?{SECRET}", {"files": {"file": (f"{SECRET}.num", content)}}),
            embed([[POISON]], baggage=f"patient={SECRET}"),
            embed(SECRET),
            ("GET", f"/{SECRET}", {}),
            (SECRET, "/v1/models", {}),
            ("GET", "/healthz", {}),
        )
    )
    roots = {s.name: s for s in spans if s.parent is None}
    assert set(roots) == {
        "POST /v1/models/{model}/embeddings",
        "POST /v1/embeddings",
        "GET unmatched",
        "OTHER unmatched",
    }
    codes = [s.attributes.get("error.type") for s in spans if s.name == "POST /v1/embeddings"]
    assert codes == ["internal_error", "no_number"]
    failed = [s for s in spans if not s.status.is_ok and s.parent is None]
    assert [s.attributes["http.response.status_code"] for s in failed] == [500]
    assert SECRET not in "".join(s.to_json() for s in spans)


def test_the_share_of_traces_and_a_broken_parent(run: Any, exporter: Any) -> None:
    requests = [embed("1"), embed("2", traceparent=f"00-{TRACE}-{PARENT}-01"), embed("3", traceparent="nonsense")]
    spans = run(ask(exporter, *requests, sample_ratio=0))
    # Only the caller's own decision brings a span.
    assert {f"{s.context.trace_id:032x}" for s in spans} == {TRACE}


def test_the_log_names_the_trace(run: Any, exporter: Any) -> None:
    stream = io.StringIO()
    configure_logging(settings(log_format="json"), stream)
    run(ask(exporter, embed("1", traceparent=f"00-{TRACE}-{PARENT}-01"), embed([[POISON]])))
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert next(x["trace_id"] for x in lines if x["logger"] == "fmhub.access") == TRACE
    failed = [x for x in lines if x["message"].startswith("request failed")]
    assert len(failed) == 1 and len(failed[0]["trace_id"]) == 32 and failed[0]["trace_id"] != TRACE


class Collector(HTTPServer):
    """An OTLP collector over HTTP that keeps what it gets."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Taker)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.got: list[tuple[str, ExportTraceServiceRequest]] = []


class _Taker(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert isinstance(self.server, Collector)
        self.server.got.append((self.path, ExportTraceServiceRequest.FromString(body)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as found:
        thread = threading.Thread(target=found.serve_forever, daemon=True)
        thread.start()
        yield found
        found.shutdown()
        thread.join(5)


def test_spans_reach_a_collector_by_the_end(run: Any, collector: Collector) -> None:
    async def main() -> None:
        chosen = {"endpoint": collector.url, "service_name": "clinic"}
        async with running_engine(tracing=chosen) as engine:
            app = create_app(engine)
            async with app.router.lifespan_context(app):
                transport = httpx.ASGITransport(app=app)
                async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
                    files = {"file": ("a.num", file_of([1, 2]))}
                    assert (await client.post("/v1/models/dummy/embeddings", files=files)).status_code == 200

    run(main())
    assert {path for path, _ in collector.got} == {"/v1/traces"}
    groups = [group for _, request in collector.got for group in request.resource_spans]
    resource = {a.key: a.value.string_value for a in groups[0].resource.attributes}
    assert resource["service.name"] == "clinic" and not any(name.startswith("host") for name in resource)
    names = [span.name for group in groups for scope in group.scope_spans for span in scope.spans]
    assert sorted(names) == ["POST /v1/models/{model}/embeddings", "encode", "forward", "queue", "read"]


def test_a_collector_that_is_not_there_hurts_nobody(run: Any) -> None:
    async def main() -> None:
        async with running_engine(tracing={"endpoint": "http://127.0.0.1:9/v1/traces"}) as engine:
            app = create_app(engine)
            async with app.router.lifespan_context(app):
                transport = httpx.ASGITransport(app=app)
                async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
                    assert (await client.get("/v1/models")).status_code == 200

    run(main())


def test_without_the_packages_the_settings_are_refused_and_without_an_endpoint_nothing_is_imported() -> None:
    code = (
        "import sys; sys.modules['opentelemetry.exporter.otlp.proto.http.trace_exporter'] = None\n"
        "from serving.config import check_settings; from serving.engine import Engine\n"
        "from serving.app import create_app\n"
        "create_app(Engine(check_settings({'models': ['a']})))\n"
        "print([m for m in sys.modules if m.startswith('opentelemetry.sdk')])\n"
        "try: create_app(Engine(check_settings({'models': ['a'], 'tracing': {'endpoint': 'http://x:4318'}})))\n"
        "except Exception as error: print(type(error).__name__, error)\n"
        "sys.stdout.flush(); import os; os._exit(0)"
    )
    root = Path(__file__).parents[2]
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
    lines = found.stdout.splitlines()
    assert lines[0] == "[]", found.stderr
    assert lines[1].startswith("InvalidSettings") and "pip install 'fmhub[tracing]'" in lines[1]


def test_settings_that_cannot_be() -> None:
    for wrong in ({"endpoint": "collector:4318"}, {"sample_ratio": 2}, {"colour": 1}):
        with pytest.raises(InvalidSettings, match="tracing"):
            check_settings({"models": ["a"], "tracing": wrong})
