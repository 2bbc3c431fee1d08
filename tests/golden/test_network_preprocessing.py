"""Captures to stored rows, held against the rows that the official tools made of the same captures."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from domains.network.flow import Flow
from domains.network.reading import CaptureReader
from domains.network.rows import row_of
from hub.reading import Source

DEFAULT_ROOT = Path(__file__).resolve().parents[2].parent / "shared" / "golden"
EXACT = ("burst_tokens", "directions", "bytes", "counts", "protocol")


@pytest.fixture(scope="module")
def folder(request: pytest.FixtureRequest) -> Path:
    root = request.config.getoption("--golden-root") or DEFAULT_ROOT
    found = sorted(root.rglob("preprocess/flows.jsonl"))
    if not found:
        pytest.skip("no golden captures beside this checkout")
    return found[0].parent


def matching(flows: list[Flow], expected: dict[str, Any]) -> list[Flow]:
    """Flows that agree in everything but times, which the official tools cut to microseconds on the way."""
    rows = [(flow, row_of(flow)) for flow in flows]
    return [flow for flow, row in rows if all(row[name] == expected[name] for name in EXACT)]


def test_every_flow_token_for_token(folder: Path) -> None:
    expected = defaultdict(list)
    for line in (folder / "flows.jsonl").read_text().splitlines():
        row = json.loads(line)
        expected[row["capture"]].append(row)
    reader = CaptureReader(compat=True)
    assert len(expected) == 11
    for name, rows in expected.items():
        flows = [s.data for s in reader.read(Source.from_path(folder / "pcap" / name))]
        assert len(flows) == len(rows), name
        for row in rows:
            found = [
                flow
                for flow in matching(flows, row)
                if abs(flow.duration - row["flow_duration"]) <= 1
                and all(abs(a - b) <= 1 for a, b in zip(flow.iats.tolist(), row["iats"], strict=True))
            ]
            assert len(found) == 1, f"{name}, flow {row['flow']}"
            assert found[0].packets == row["n_packets"]


def test_the_official_stream_is_read_as_it_stands(folder: Path) -> None:
    lines = [json.loads(line) for line in (folder / "flows.jsonl").read_text().splitlines()]
    samples = list(CaptureReader().read(Source.from_path(folder / "official.arrow")))
    assert len(samples) == len(lines)
    for sample, line in zip(samples, lines, strict=True):
        row = row_of(sample.checked("official.arrow").data)
        assert row == {name: line[name] for name in row}
        assert sample.metadata["label"] == line["capture"]
