"""Every damaged capture through the reader: what is refused, and what is said about what is not."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from domains.network.reading import CaptureReader
from domains.network.rows import row_of
from hub.errors import InvalidInput
from hub.reading import Sample, Source

# The manifest's codes for real files are suggestions. This one has a record whose length cannot be.
OTHER_CODES = {"real_fuzz-2021-10-13.pcap": "corrupt_record"}
SAME_AS_BASE = re.compile(r"valid_(?!two_sections|unknown|simple|tsresol)")


@pytest.fixture(scope="module")
def folder(shared_data: Path) -> Path:
    return shared_data / "network" / "malformed"


def read(path: Path) -> list[Sample]:
    return list(CaptureReader().read(Source.from_path(path)))


def test_every_file_of_the_manifest(folder: Path) -> None:
    with (folder / "library_behaviour.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 100
    codes = re.compile(r"\b(?:no|bad|corrupt|truncated|unsupported|empty)_\w+")
    for row in rows:
        path, wanted = folder / row["file"], set(codes.findall(row["code_or_note"]))
        try:
            samples = read(path)
        except InvalidInput as error:
            assert row["expect"] == "reject", f"{row['file']}: refused with {error}"
            assert error.code in wanted or error.code == OTHER_CODES.get(row["file"]), f"{row['file']}: {error.code}"
            continue
        assert row["expect"] == "accept" and samples, row["file"]
        # Packets cut by a snap length are told of, and no fault that the manifest knows.
        said = " ".join(w for s in samples for w in s.warnings if "(snapped)" not in w)
        if row["file"] != "idb_option_overflow.pcapng":  # there the options are left out, without a word
            assert bool(said) == bool(wanted) and (not wanted or any(c in said for c in wanted)), (
                f"{row['file']}: {said}"
            )


def test_odd_but_valid_captures_hold_the_flow_of_the_plain_one(folder: Path) -> None:
    (base,) = read(folder.parent / "pcap" / "imap.pcap")
    compared = [p for p in sorted(folder.glob("valid_*")) if SAME_AS_BASE.match(p.name)]
    assert len(compared) >= 14
    for path in compared:
        (sample,) = read(path)
        assert row_of(sample.data) == row_of(base.data) and sample.data.packets == base.data.packets, path.name


def test_captures_hold_as_many_flows_as_were_counted(shared_data: Path) -> None:
    with (shared_data / "network" / "files.csv").open(newline="", encoding="utf-8") as stream:
        counted = {row["file"]: int(row["flows_ip"]) for row in csv.DictReader(stream)}
    assert sum(counted.values()) == 1_693
    assert {file: len(read(shared_data / "network" / file)) for file in counted} == counted


def test_labelled_flows_are_found_as_they_were_counted(shared_data: Path) -> None:
    with (shared_data / "network" / "flows.csv").open(newline="", encoding="utf-8") as stream:
        labelled = list(csv.DictReader(stream))
    found: dict[str, dict[tuple[object, ...], Sample]] = {}
    for row in labelled:
        if row["file"] not in found:
            flows = (s for s in read(shared_data / "network" / row["file"]))
            found[row["file"]] = {(s.data.protocol, *s.data.endpoints): s for s in flows}
        number = {"icmp": 1, "tcp": 6, "udp": 17}.get(row["proto"]) or int(row["proto"])
        ends = (row["src_ip"], int(row["src_port"] or 0), row["dst_ip"], int(row["dst_port"] or 0))
        flow = found[row["file"]][(number, *ends)].data
        assert flow.packets == int(row["packets"]) and flow.start == pytest.approx(float(row["first_ts"]), abs=2e-6)
