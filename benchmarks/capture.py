"""Captures to flows beside the loops people write with dpkt and scapy, and the pace over a large capture.

``python -m benchmarks.capture [CAPTURE ...] [--gigabytes 1] [--model netfound-tiny]``; without a capture one is
generated. dpkt and scapy are no dependencies: those that are not installed are left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.measure import Result, side_by_side
from domains.network.capture.extraction import read_frames
from domains.network.capture.window import Notes, Window
from domains.network.reading import CaptureReader
from domains.network.samples import write_samples
from domains.network.writing import Record, pcap
from hub.embedder import Embedder, from_pretrained
from hub.reading import Source

PACKETS = 5_000
"""Of the capture that all read: more would only lengthen the round of the slowest."""


def run(captures: Iterable[Path] = ()) -> list[Result]:
    """Up to 5,000 packets to flows: the reader to tokens, the loops to lists of lengths and times by endpoints."""
    with tempfile.TemporaryDirectory() as folder:
        paths = list(captures) or write_samples(Path(folder))[:1]
        records = records_of(paths)
        if not captures:
            records = list(repeated(records, PACKETS))
        path = Path(folder) / "measured.pcap"
        path.write_bytes(pcap(records[:PACKETS]))
        flows = [s.data for s in CaptureReader().read(Source.from_path(path))]
        loops: dict[str, Callable[[], object]] = {}
        if importlib.util.find_spec("dpkt"):
            loops["dpkt, lists by endpoints"] = lambda: with_dpkt(path)
        if importlib.util.find_spec("scapy"):
            loops["scapy, lists by endpoints"] = lambda: with_scapy(path)
        loops["CaptureReader, tokens"] = lambda: list(CaptureReader().read(Source.from_path(path)))
        title = f"{sum(f.packets for f in flows):,} packets of {len(flows):,} flows, one thread"
        return [side_by_side(title, loops, rounds=5)]


def with_dpkt(path: Path) -> dict[Any, list[Any]]:
    import dpkt

    flows = defaultdict(list)
    with path.open("rb") as stream:
        for at, frame in dpkt.pcap.UniversalReader(stream):
            packet = dpkt.ethernet.Ethernet(frame).data
            segment = getattr(packet, "data", None)
            if isinstance(segment, dpkt.tcp.TCP | dpkt.udp.UDP):
                ends = frozenset([(packet.src, segment.sport), (packet.dst, segment.dport)])
                flows[ends, type(segment)].append((at, len(packet)))
    return flows


def with_scapy(path: Path) -> dict[Any, list[Any]]:
    from scapy.layers.inet import IP, TCP, UDP
    from scapy.layers.inet6 import IPv6
    from scapy.utils import PcapReader

    flows = defaultdict(list)
    with PcapReader(str(path)) as packets:
        for frame in packets:
            packet = frame.getlayer(IP) or frame.getlayer(IPv6)
            segment = packet and (packet.getlayer(TCP) or packet.getlayer(UDP))
            if segment:
                ends = frozenset([(packet.src, segment.sport), (packet.dst, segment.dport)])
                flows[ends, type(segment)].append((float(frame.time), len(packet)))
    return flows


def records_of(paths: Iterable[Path]) -> list[Record]:
    """Return the Ethernet packets of captures, of each the first hour, put beside one another."""
    records = []
    for path in paths:
        notes = Notes()
        with Window(Source.from_path(path), notes, 1 << 32, 100) as window:
            for frames in read_frames(window, notes):
                begun = int(frames.time.min())
                early = (frames.link == 1) & (frames.time - begun < 3_600_000_000_000)
                for place in early.nonzero()[0].tolist():
                    start, end = int(frames.start[place]), int(frames.captured[place])
                    data, wire = frames.data[start:end].tobytes(), int(frames.wire[place]) - start
                    records.append(Record(int(frames.time[place]) - begun, data, wire))
    return sorted(records)


def repeated(records: list[Record], packets: int) -> Iterator[Record]:
    """Yield records again and again, a second after the last time, until there are enough."""
    shift = 0
    while packets > 0:
        yield from (Record(r.time + shift, r.data, r.wire) for r in records[:packets])
        packets -= len(records)
        shift += records[-1].time + 1_000_000_000


def pace(path: Path) -> str:
    """Return packets and flows a second over one capture, and what it took in memory beyond what was there before."""
    before, packets, flows = resident(), 0, 0
    most, started, used = before, time.perf_counter(), time.process_time()
    for sample in CaptureReader().read(Source.from_path(path)):
        packets, flows = packets + sample.data.packets, flows + 1
        most = max(most, resident()) if flows % 100 == 1 else most
    seconds, used = time.perf_counter() - started, time.process_time() - used
    return (
        f"{path.stat().st_size / 1e6:,.1f} MB, {packets:,} packets, {flows:,} flows: {packets / used:,.0f} packets/s "
        f"and {flows / used:,.0f} flows/s of processor time ({used:.2f} s of {seconds:.2f} s), "
        f"{(most - before) / 1e6:.0f} MB"
    )


def embedding_pace(embedder: Embedder, path: Path) -> str:
    """Return flows a second from a capture to embeddings, reading included."""
    before, started, used = resident(), time.perf_counter(), time.process_time()
    vectors = embedder.embed(path).vectors
    most, seconds, used = resident(), time.perf_counter() - started, time.process_time() - used
    return (
        f"{len(vectors):,} flows to embeddings, {len(vectors) / used:,.0f} flows/s of processor time "
        f"({used:.2f} s of {seconds:.2f} s), {(most - before) / 1e6:.0f} MB, of which the embeddings are "
        f"{vectors.nbytes / 1e6:.0f} MB"
    )


def resident() -> int:
    """Return the memory this process holds, in bytes; Linux only."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("captures", nargs="*", type=Path)
    parser.add_argument("--gigabytes", type=float, default=0.1, help="size of the large capture; 0 leaves it out")
    parser.add_argument("--model", default="", help="embed too; a gigabyte takes a quarter of an hour")
    given = parser.parse_args()
    embedder = from_pretrained(given.model, device="cpu") if given.model else None
    for result in run(given.captures):
        print(result.report())
    with tempfile.TemporaryDirectory() as folder:
        paths = given.captures or write_samples(Path(folder))[:1]
        for path in given.captures:
            pace(path)
            print(f"{path.name}: {pace(path)}")
            if embedder:
                embedding_pace(embedder, path)
                print(f"{path.name}: {embedding_pace(embedder, path)}")
        if given.gigabytes:
            records = records_of(paths)
            for share in (0.1, 1):
                large = Path(folder) / "large.pcap"
                write_large(large, records, share * given.gigabytes * 1e9)
                print(f"repeated: {pace(large)}")
                if embedder:
                    print(f"repeated: {embedding_pace(embedder, large)}")


def write_large(path: Path, records: list[Record], size: float) -> None:
    """Write a capture of some size by repeating records, with their times shifted."""
    with path.open("wb") as stream:
        stream.write(pcap([]))
        shift = 0
        while stream.tell() < size:
            stream.write(pcap(Record(r.time + shift, r.data, r.wire) for r in records)[24:])
            shift += records[-1].time + 1_000_000_000


if __name__ == "__main__":
    main()
