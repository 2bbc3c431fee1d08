"""Stored rows: read, written, and refused where they contradict themselves."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from domains.network.reading import CaptureReader
from domains.network.rows import SCHEMA, row_of, write_rows
from domains.network.samples import write_samples
from hub.errors import InvalidInput, TooLarge
from hub.reading import Sample, Source, Span


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    path = write_samples(tmp_path_factory.mktemp("captures"))[0]
    return list(CaptureReader().read(Source.from_path(path)))


def stream(rows: list[dict[str, Any]], schema: pa.Schema = SCHEMA, **options: Any) -> Source:
    buffer = io.BytesIO()
    with pa.ipc.new_stream(buffer, schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_batch(pa.RecordBatch.from_pylist(rows, schema))
    return Source.from_bytes(buffer.getvalue(), "rows.arrow")


def test_what_is_written_is_read_back_in_batches_of_a_thousand(office: list[Sample], tmp_path: Path) -> None:
    flows = [s.data for s in office] * 200
    assert write_rows(tmp_path / "flows.arrow", flows, label="office") == len(flows) > 2_000
    with pa.ipc.open_stream(tmp_path / "flows.arrow") as official:
        assert official.schema == SCHEMA and len(official.read_next_batch()) == 1_000
    samples = list(CaptureReader().read(Source.from_path(tmp_path / "flows.arrow")))
    assert [row_of(s.data) for s in samples] == [row_of(f) for f in flows]
    assert samples[7].metadata["label"] == "office" and samples[7].key == "7"


def test_the_plain_form_is_a_row_or_several(office: list[Sample]) -> None:
    rows = [row_of(s.data) for s in office]
    (example,) = CaptureReader().parse(json.loads(CaptureReader.plain_form.split(", ", 1)[1]))
    assert example.metadata["protocol"] == "udp"
    (one,) = CaptureReader().parse(rows[1])
    assert row_of(one.data) == rows[1] and one.key == ""
    assert [s.key for s in CaptureReader().parse(rows)] == [str(n) for n in range(len(rows))]


WRONG = [
    ({"protocol": 58}, "protocol 58"),
    ({"protocol": True}, "protocol must hold whole numbers"),
    ({"burst_tokens": []}, "list of bursts"),
    ({"burst_tokens": [[1, 2]] * 2}, "a burst of 2 tokens"),
    ({"burst_tokens": [[70_000] * 12] * 2}, "from 0 to 65535"),
    ({"counts": [1]}, "one entry a burst"),
    ({"counts": [1, 7]}, "7 packets"),
    ({"directions": [1, 0]}, "true and false"),
    ({"iats": [0, -1]}, "iats must hold whole numbers"),
    ({"bytes": [1.5, 2]}, "bytes must hold whole numbers"),
    ({"flow_duration": None}, "flow_duration must hold whole numbers"),
]


@pytest.mark.parametrize("change, text", WRONG)
def test_a_plain_row_that_contradicts_itself_is_refused(office: list[Sample], change: Any, text: str) -> None:
    row = row_of(office[0].data)
    assert len(row["counts"]) == 2 and row["protocol"] == 17
    with pytest.raises(InvalidInput, match=text) as raised:
        list(CaptureReader().parse([row, {**row, **change}], "input"))
    assert raised.value.source == "input[1]"
    missing = {k: v for k, v in row.items() if k != next(iter(change))}
    with pytest.raises(InvalidInput, match="has the fields"):
        list(CaptureReader().parse(missing))


def test_a_bad_row_of_a_stream_is_told_and_the_others_are_used(office: list[Sample]) -> None:
    rows = [row_of(s.data) for s in office[:3]]
    rows[1]["counts"] = [9] * len(rows[1]["counts"])
    samples = list(CaptureReader().read(stream(rows)))
    assert [s.error is None for s in samples] == [True, False, True] and samples[1].error.code == "bad_row"
    with pytest.raises(InvalidInput, match="no row that can be used"):
        list(CaptureReader().read(stream(rows[1:2])))


def test_streams_that_are_no_rows_are_refused(office: list[Sample]) -> None:
    rows = [row_of(s.data) for s in office]
    wider = pa.schema([f if f.name != "bytes" else pa.field("bytes", pa.list_(pa.float64())) for f in SCHEMA])
    whole = stream(rows).content
    _, batch = pa.ipc.MessageReader.open_stream(whole)
    for source, code in (
        (stream([{"x": 1}], pa.schema([("x", pa.int8())])), "bad_schema"),
        (stream(rows, wider), "bad_schema"),
        (stream(rows, compression="zstd"), "compressed"),
        (stream([{**rows[0], "bytes": [None, 3]}]), "bad_row"),
        (Source.from_bytes(whole[: len(whole) // 2]), "corrupt_stream"),
        (Source.from_bytes(batch.serialize().to_pybytes()), "corrupt_stream"),
        (Source.from_bytes(b"\xff\xff\xff\xff\xff\xff\xff\x7f" + bytes(64)), "corrupt_stream"),
    ):
        with pytest.raises(InvalidInput) as raised:
            list(CaptureReader().read(source))
        assert raised.value.code == code
    with pytest.raises(InvalidInput, match="no time axis"):
        list(CaptureReader().read(stream(rows), Span(0, 1)))
    with pytest.raises(TooLarge):
        list(CaptureReader(max_flows=2).read(stream(rows)))


def test_the_command_writes_a_table_of_all_that_can_be_read(tmp_path: Path) -> None:
    import typer

    from domains.network.tabulating import flows

    (tmp_path / "in").mkdir()
    write_samples(tmp_path / "in")
    (tmp_path / "in" / "broken.pcap").write_bytes(b"\xd4\xc3\xb2\xa1")
    app = typer.Typer()
    app.command()(flows)
    result = CliRunner().invoke(app, [str(tmp_path / "in"), "-o", str(tmp_path / "all.arrow"), "--label", "mine"])
    assert result.exit_code == 1 and "failed:" in result.output and "header is cut" in result.output
    samples = list(CaptureReader().read(Source.from_path(tmp_path / "all.arrow")))
    assert f"{len(samples)} flows of 4 files" in result.output
    assert {s.metadata["label"] for s in samples} == {"mine"}


def test_a_folder_walk_finds_compressed_captures(tmp_path: Path) -> None:
    for name in ("a.pcap", "b.pcapng.gz", "c.cap.zst", "d.txt", "e.tar.gz", ".f.pcap"):
        (tmp_path / name).touch()
    assert [p.name for p in CaptureReader().find(tmp_path, (".pcap", ".pcapng", ".cap"))] == [
        "a.pcap",
        "b.pcapng.gz",
        "c.cap.zst",
    ]
