"""Containers, link layers and tunnels around one conversation, and what becomes of it when bytes are damaged."""

from __future__ import annotations

import gzip
import shutil
import struct
import subprocess
import tracemalloc
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domains.network.capture import pcapng as blocks
from domains.network.capture import window
from domains.network.reading import CaptureReader
from domains.network.rows import row_of
from domains.network.samples import write_samples
from domains.network.writing import ACK, SYN, Record, ethernet, ip, pcap, pcapng, tcp, udp
from hub.errors import InvalidInput, TooLarge
from hub.reading import Source

START = 1_600_000_000_000_001_000
A, B = "192.0.2.1", "198.51.100.2"


def conversation() -> list[Record]:
    """IP packets of one connection, microseconds apart, so that every container can hold their times."""
    numbers = [1000, 2000]
    packets = [(0, SYN, b""), (1, SYN | ACK, b""), (0, ACK, b"GET / HTTP/1.1"), (1, ACK, bytes(300)), (0, ACK, b"")]
    records = []
    for step, (side, flags, payload) in enumerate(packets):
        ports, hosts = ((4000, 80), (A, B)) if side == 0 else ((80, 4000), (B, A))
        segment = tcp(ports, flags, payload, seq=numbers[side], ack=numbers[1 - side] if flags & ACK else 0)
        records.append(Record(START + step * 4_000_000, ip(*hosts, 6, segment)))
        numbers[side] += len(payload) + bool(flags & SYN)
    return records


def wrapped(before: bytes, after: bytes = b"") -> list[Record]:
    return [Record(r.time, before + r.data + after) for r in conversation()]


def read(content: bytes, **options: Any) -> list[Any]:
    return [s.data for s in CaptureReader(**options).read(Source.from_bytes(content))]


def warnings_of(content: bytes) -> str:
    return " ".join(w for s in CaptureReader().read(Source.from_bytes(content)) for w in s.warnings)


BASE = row_of(read(pcap(wrapped(bytes(12) + b"\x08\x00")))[0])
FRAMES = wrapped(bytes(12) + b"\x08\x00")
ETHERNET = bytes(12)
SLL2 = b"\x08\x00" + bytes(18)
LAYERS = {
    "vlan": (1, ETHERNET + b"\x81\x00\x00\x05\x08\x00"),
    "two vlans": (1, ETHERNET + b"\x88\xa8\x00\x05\x81\x00\x00\x06\x08\x00"),
    "mpls": (1, ETHERNET + b"\x88\x47\x00\x01\x00\x40\x00\x02\x01\x40"),
    "pppoe": (1, ETHERNET + b"\x88\x64\x11\x00\x00\x01\x00\x00\x00\x21"),
    "vlan, pppoe": (1, ETHERNET + b"\x81\x00\x00\x05\x88\x64\x11\x00\x00\x01\x00\x00\x00\x21"),
    "raw": (101, b""),
    "raw IPv4": (228, b""),
    "loopback": (0, b"\x02\x00\x00\x00"),
    "loopback, network order": (108, b"\x00\x00\x00\x02"),
    "Linux cooked": (113, bytes(14) + b"\x08\x00"),
    "Linux cooked 2": (276, SLL2),
}


@pytest.mark.parametrize("name", LAYERS)
def test_link_layers_lead_to_the_same_flow(name: str) -> None:
    link, before = LAYERS[name]
    (flow,) = read(pcap(wrapped(before), link=link))
    assert row_of(flow) == BASE


GRE = b"\x00\x00\x08\x00"
GRE_WITH_OPTIONS = b"\xb0\x00\x08\x00" + bytes(12)


@pytest.mark.parametrize(
    "outside",
    [
        lambda p: ip("10.0.0.1", "10.0.0.2", 4, p),
        lambda p: ip("2001:db8::1", "2001:db8::2", 4, p),
        lambda p: ip("10.0.0.1", "10.0.0.2", 47, GRE + p),
        lambda p: ip("2001:db8::1", "2001:db8::2", 47, GRE_WITH_OPTIONS + p),
        lambda p: ip("10.0.0.1", "10.0.0.2", 47, GRE + ip("10.0.0.3", "10.0.0.4", 4, p)),
    ],
    ids=["4in4", "4in6", "gre", "gre over 6 with key", "tunnel in a tunnel"],
)
def test_tunnels_are_looked_into_except_in_compatibility(outside: Any) -> None:
    content = pcap(Record(r.time, ethernet(outside(r.data))) for r in conversation())
    (flow,) = read(content)
    assert row_of(flow) == BASE and flow.endpoints == (A, 4000, B, 80)
    with pytest.raises(InvalidInput, match="none of the 5 packets") as raised:
        read(content, compat=True)
    assert raised.value.code == "no_ip_flows"


def test_ipv6_extension_headers_are_gone_past() -> None:
    def packet(extensions: bytes, first: int) -> bytes:
        return ethernet(ip("2001:db8::1", "2001:db8::2", first, extensions + udp((1, 2), b"payload")))

    plain = read(pcap([Record(START, packet(b"", 17))]))[0]
    hop, fragment = b"\x3c" + bytes(7), b"\x11\x00\x00\x01" + bytes(4)
    later = b"\x11\x00\x00\x09" + bytes(4)
    (flow,) = read(pcap([Record(START, packet(hop + b"\x2c" + bytes(7) + fragment, 0))]))
    assert flow.burst_tokens[0][5:].tolist() == plain.burst_tokens[0][5:].tolist()
    for extensions, first in ((later, 44), (hop * 9, 0)):  # a later fragment; headers without end
        with pytest.raises(InvalidInput):
            read(pcap([Record(START, packet(extensions, first))]))


@pytest.mark.parametrize("order", ["<", ">"])
def test_containers_lead_to_the_same_flow(order: str) -> None:
    simple = b""
    for record in FRAMES:
        body = struct.pack(f"{order}I", len(record.data)) + record.data + bytes(-len(record.data) % 4)
        length = struct.pack(f"{order}I", len(body) + 12)
        simple += struct.pack(f"{order}I", 3) + length + body + length
    head = pcapng([], order=order)
    plain = pcap(FRAMES, order=order)
    for content in (
        plain,
        pcap(FRAMES, order=order, nanoseconds=True),
        pcapng(FRAMES, order=order),
        pcapng(FRAMES[:2], order=order) + pcapng(FRAMES[2:], order=">"),
        gzip.compress(plain),
        gzip.compress(plain[:100]) + gzip.compress(plain[100:]),
        pa.compress(plain, "zstd", asbytes=True),
    ):
        (flow,) = read(content)
        assert row_of(flow) == BASE and flow.packets == 5 and flow.start == pytest.approx(START / 1e9, abs=1e-6)
        assert not warnings_of(content)
    (untimed,) = read(head + simple)
    assert untimed.counts.tolist() == [3, 2] and untimed.duration == 0 and untimed.start == 0


def test_pcapng_clocks() -> None:
    ticks = np.array([0, 3 << 20, 5_000_000_007], np.uint64)
    assert blocks.nanoseconds(ticks, 9, 0).tolist() == [0, 3 << 20, 5_000_000_007]
    assert blocks.nanoseconds(ticks, 6, 10)[1] == 10_000_000_000 + (3 << 20) * 1_000
    assert blocks.nanoseconds(ticks, 12, 0)[2] == 5_000_000
    assert blocks.nanoseconds(ticks, 128 + 20, 0)[1] == 3_000_000_000
    assert blocks.nanoseconds(np.array([1 << 62], np.uint64), 128 + 63, 0)[0] == 500_000_000
    last = np.array([2**64 - 1], np.uint64)
    for resolution in range(256):  # hostile clocks stay within int64, so that differences do too
        for origin in (-(2**63), 0, 2**63 - 1):
            assert 0 <= blocks.nanoseconds(last, resolution, origin)[0] < 2**62 * 2.1


def test_a_block_longer_than_the_window_is_gone_past() -> None:
    custom = struct.pack("<II", 0xBAD, 9012) + bytes(9000) + struct.pack("<I", 9012)
    head, rest = pcapng([]), pcapng(FRAMES)[len(pcapng([])) :]
    with patch.object(window, "CHUNK", 600):
        flows = read(head + rest + custom + rest)
        assert [f.packets for f in flows] == [5, 5]
        assert "corrupt_block" in warnings_of(head + rest + custom[:700])


def test_many_small_sections_are_read_together_or_refused() -> None:
    section = pcapng(FRAMES[:1])
    (flow,) = read(section * 300)
    assert flow.packets == 300
    with patch.object(blocks, "MAX_SECTIONS", 200), pytest.raises(TooLarge, match="sections"):
        read(section * 300)


@pytest.mark.parametrize("container", [pcap, pcapng])
def test_a_capture_cut_anywhere_keeps_what_is_whole(container: Any) -> None:
    content = container(FRAMES)
    whole = [len(container(FRAMES[:n])) for n in range(6)]
    for end in range(whole[1], len(content), 7):
        expected = sum(end >= size for size in whole) - 1
        (flow,) = read(content[:end])
        assert flow.packets == expected
        assert ("truncated_tail" in warnings_of(content[:end])) == (end not in whole)


def test_headers_alone_give_the_same_header_tokens() -> None:
    snapped = [Record(r.time, r.data[:54], len(r.data)) for r in FRAMES]
    (flow,) = read(pcap(snapped))
    for got, full in zip(flow.burst_tokens, BASE["burst_tokens"], strict=True):
        assert got.reshape(-1, 18)[:, :12].ravel().tolist() == [t for i, t in enumerate(full) if i % 18 < 12]
        assert not got.reshape(-1, 18)[:, 12:].any()


def test_lengths_left_to_the_network_card_are_taken_from_the_frame() -> None:
    data = bytearray(FRAMES[3].data)
    length = int.from_bytes(data[16:18], "big")
    data[16:18] = b"\0\0"
    content = pcap([Record(START, bytes(data))])
    assert read(content)[0].bytes.tolist() == [length] and read(content, compat=True)[0].bytes.tolist() == [0]


def test_a_bomb_is_cut_off_and_a_damaged_archive_keeps_its_beginning() -> None:
    bomb = gzip.compress(pcap(FRAMES) + bytes(70 << 20), 1)
    with pytest.raises(TooLarge, match="come out of the compressed file"):
        read(bomb)
    archive = gzip.compress(pcap(FRAMES * 400), 1)
    packets = sum(flow.packets for flow in read(archive[:-200]))
    assert 500 < packets < 2000 and "truncated_tail" in warnings_of(archive[:-200])


SAMPLES: dict[str, bytes] = {}


@pytest.fixture(scope="module", autouse=True)
def samples(tmp_path_factory: pytest.TempPathFactory) -> None:
    SAMPLES.update({p.name: p.read_bytes() for p in write_samples(tmp_path_factory.mktemp("captures"))})


@settings(max_examples=150, deadline=20_000, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_random_edits_never_crash_or_allocate_wildly(data: st.DataObject) -> None:
    whole = SAMPLES[data.draw(st.sampled_from(sorted(SAMPLES)))]
    content = bytearray(whole[: data.draw(st.one_of(st.just(len(whole)), st.integers(0, 6_000)))])
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.one_of(st.integers(0, 200), st.integers(0, max(len(content) - 1, 0))))
        edit = data.draw(st.sampled_from([b"\x00", b"\xff", b"\x80", b"\xff" * 4, b"\x00" * 4, b"\x7f\xff\xff\xff"]))
        content[place : place + len(edit)] = edit
    tracemalloc.start()
    try:
        for sample in CaptureReader().read(Source.from_bytes(bytes(content), "edited")):
            if sample.error is None:
                flow = sample.data
                assert 1 <= len(flow.burst_tokens) <= 12 and flow.duration >= 0
                assert [len(b) for b in flow.burst_tokens] == (flow.counts * flow.packet_tokens).tolist()
                assert flow.counts.max() <= 6
    except InvalidInput as error:
        assert len(error.message) > 10 and error.code != "invalid_input" and error.source == "edited"
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 40 << 20


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
def test_tshark_counts_the_same_packets(shared_data: Path) -> None:
    usable = "(tcp or udp or icmp) and (ip or ipv6) and not icmpv6"
    whole = ["-o", "ip.defragment:FALSE", "-o", "ipv6.defragment:FALSE"]
    # Of packets made to be malformed two readers may think differently.
    paths = [p for p in sorted((shared_data / "network" / "pcap").glob("*")) if "fuzz" not in p.name]
    for path in paths[::9]:
        command = ["tshark", "-r", path, *whole, "-Y", usable, "-T", "fields", "-e", "frame.number"]
        seen = subprocess.run(command, capture_output=True, check=True).stdout.split()
        flows = CaptureReader().read(Source.from_path(path))
        assert sum(s.data.packets for s in flows) == len(seen), path.name
