"""Labelled sets of flows: from labels by endpoints to the manifest that evaluation and fine-tuning read.

Labels of traffic come by 5-tuple and time (from nDPI, from Zeek, from the CSV of an intrusion set); a manifest names a
flow by its key in its capture, which holds no address.
"""

from __future__ import annotations

import csv
import ipaddress
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from domains.network.flow import Flow
from domains.network.reading import CaptureReader
from hub.errors import InvalidManifest
from hub.manifest import Row
from hub.reading import Source

COLUMNS = ("file", "proto", "src_ip", "src_port", "dst_ip", "dst_port", "label")
Ends = tuple[int, frozenset[tuple[str, int]]]


def manifest_of(
    labels: Path,
    output: Path,
    compat: bool = False,
    split: Callable[[Mapping[str, str]], str] = lambda row: "",
) -> tuple[int, int]:
    """Write a manifest for labels by endpoints; each capture is a group.

    A flow is looked for by protocol and endpoints in either direction. Of several flows between the same endpoints the
    one nearest to ``first_ts`` is meant; without that column the label holds for all of them.

    Args:
        labels: CSV with the columns `COLUMNS` and optional ``first_ts`` (seconds since 1970), its files relative to it.
        output: Manifest to write.
        compat: Of the reader.
        split: Side of a row's split, from the row.

    Returns:
        How many labelled flows were found, and how many rows named none.

    Raises:
        InvalidManifest: A column is missing, or a value is no address or number.
        InvalidInput: A capture cannot be read.
    """
    if not labels.is_file():
        raise InvalidManifest(f"{labels}: no such file")
    wanted: dict[str, list[dict[str, str]]] = {}
    with labels.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        if missing := [c for c in COLUMNS if c not in (reader.fieldnames or ())]:
            raise InvalidManifest(f"{labels} has no column {missing[0]!r}; it needs {', '.join(COLUMNS)}")
        for row in reader:
            wanted.setdefault(row["file"], []).append(row)
    found = lost = 0
    with output.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "item", "label", "group", "split"])
        for name, rows in wanted.items():
            path = (labels.parent / name).resolve()
            flows = _flows(path, compat)
            for row in rows:
                keys = _matching(row, flows, labels)
                lost += not keys
                found += len(keys)
                writer.writerows([path, key, row["label"], name, split(row)] for key in keys)
    return found, lost


def grouped_by_capture(rows: Sequence[Row], leaky: bool) -> list[Row]:
    """Return a manifest's rows such that flows of one capture stay together.

    Args:
        rows: Of a manifest of flows.
        leaky: Leave the rows as they are: flows of one capture may be on both sides of a split.

    Raises:
        InvalidManifest: Its ``split`` column puts flows of one capture on two sides.
    """
    if leaky:
        return list(rows)
    sides: dict[Path, str] = {}
    for row in rows:
        if row.split and sides.setdefault(row.file, row.split) != row.split:
            raise InvalidManifest(
                f"flows of {row.file.name} are in the {sides[row.file]} and the {row.split} part: hosts and times of a "
                "capture give its flows away; keep captures whole, or allow it with --leaky-split"
            )
    # A group may hold several captures (of one day, of one host), but not a part of one.
    homes: dict[Path, str] = {}
    for row in rows:
        homes.setdefault(row.file, row.group or str(row.file))
    return [Row(row.file, row.label, homes[row.file], row.split, row.span, row.item) for row in rows]


def _flows(path: Path, compat: bool) -> dict[Ends, list[tuple[float, str]]]:
    found: dict[Ends, list[tuple[float, str]]] = {}
    for sample in CaptureReader(compat=compat).read(Source.from_path(path)):
        flow: Flow | None = sample.data
        if flow is not None and flow.endpoints is not None:
            source, port, target, other = flow.endpoints
            ends = _ends(flow.protocol, (source, port), (target, other))
            found.setdefault(ends, []).append((flow.start, sample.key))
    return found


def _ends(protocol: int, one: tuple[str, int], other: tuple[str, int]) -> Ends:
    ported = protocol != 1
    return protocol, frozenset((str(ipaddress.ip_address(a)), port if ported else 0) for a, port in (one, other))


def _matching(row: Mapping[str, str], flows: Mapping[Ends, list[tuple[float, str]]], labels: Path) -> list[str]:
    try:
        source, target = ((row[f"{end}_ip"], int(row[f"{end}_port"] or 0)) for end in ("src", "dst"))
        ends = _ends(int(row["proto"]), source, target)
        first = float(row["first_ts"]) if row.get("first_ts") else None
    except ValueError:
        raise InvalidManifest(f"{labels}: a row of {row['file']} holds no protocol number, address or port") from None
    candidates = flows.get(ends, [])
    if first is None or not candidates:
        return [key for _, key in candidates]
    return [min(candidates, key=lambda c: abs(c[0] - first))[1]]
