from __future__ import annotations

import pytest

from domains.network.reading import CaptureReader
from domains.network.writing import ACK, SYN, Record, ethernet, ip, pcap, tcp
from hub.reading import Source

A, B = "192.0.2.1", "198.51.100.2"


def packet(number: int, back: bool = False) -> Record:
    ports, hosts = ((80, 4000), (B, A)) if back else ((4000, 80), (A, B))
    segment = tcp(ports, ACK if number else SYN, bytes(300), seq=number, ack=number)
    return Record(1_600_000_000_000_000_000 + number * 4_000_000, ethernet(ip(*hosts, 6, segment)))


BOTH = [packet(n, back=bool(n % 2)) for n in range(6)]
CAPTURE = pcap(BOTH)


@pytest.mark.parametrize(
    ("content", "flags"),
    [
        (CAPTURE, ()),
        (CAPTURE[:-20], ("truncated",)),
        (CAPTURE[:-20] + b"\xff" * 40, ("damaged",)),
        (pcap(packet(n) for n in range(6)), ("one_direction",)),
        (pcap(packet(n) for n in range(2)), ()),
        (pcap(Record(r.time, r.data[:60], len(r.data)) for r in BOTH), ("cut_values",)),
    ],
    ids=["connection", "cut file", "damage", "one side", "repeated SYN", "snap length"],
)
def test_flags_of_a_capture(content: bytes, flags: tuple[str, ...]) -> None:
    (sample,) = CaptureReader().read(Source.from_bytes(content))
    assert sample.flags == flags
