"""Flows, bursts and tokens, held against the same rules written down a packet at a time."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domains.network.capture import bursts, extraction, window
from domains.network.capture.bursts import KEPT, condensed
from domains.network.flow import PACKET_TOKENS
from domains.network.reading import CaptureReader
from domains.network.rows import row_of
from domains.network.writing import ACK, SYN, Record, ethernet, icmp, ip, pcap, tcp, udp
from hub.errors import InvalidInput, TooLarge
from hub.reading import Sample, Source, Span

MILLISECOND = 1_000_000
HOSTS = ("10.0.0.1", "10.0.0.2", "2001:db8::1", "2001:db8::2")


@dataclass(frozen=True)
class Packet:
    """One packet as the rules below see it."""

    time: int
    source: tuple[str, int]
    target: tuple[str, int]
    protocol: int
    flags: int = 0
    seq: int = 0
    ack: int = 0
    payload: bytes = b""

    def record(self) -> Record:
        ports = (self.source[1], self.target[1])
        content = {
            6: lambda: tcp(ports, self.flags, self.payload, seq=self.seq, ack=self.ack),
            17: lambda: udp(ports, self.payload),
            1: lambda: icmp(8, 0, self.payload),
        }[self.protocol]()
        return Record(self.time, ethernet(ip(self.source[0], self.target[0], self.protocol, content, ttl=61)))

    @property
    def length(self) -> int:
        header = 40 if ":" in self.source[0] else 20
        return header + {6: 20, 17: 8, 1: 8}[self.protocol] + len(self.payload)

    def tokens(self, seq: int, ack: int) -> list[int]:
        v6 = ":" in self.source[0]
        first = [40 if v6 else 20, 0, self.length, 0 if v6 else 2, 61]
        if self.protocol == 6:
            seq, ack = seq % 2**32, ack % 2**32
            first += [self.flags, 64240, seq >> 16, seq & 0xFFFF, ack >> 16, ack & 0xFFFF, 0]
        else:
            first += [8 + len(self.payload)] if self.protocol == 17 else [8, 0]
        content = self.payload[:12].ljust(12, b"\0")
        return first + [int.from_bytes(content[i : i + 2], "big") for i in range(0, 12, 2)]


def split(packets: list[Packet]) -> list[list[Packet]]:
    """Packets by flow, a new one where a connection opens; flows in the order of their first packets."""
    flows: list[list[Packet]] = []
    current: dict[Any, list[Packet]] = {}
    for p in packets:
        key = (frozenset([p.source, p.target]), p.protocol)
        opens = p.protocol == 6 and p.flags & (SYN | ACK) == SYN
        before = current.get(key)
        again = before is not None and before[-1].protocol == 6 and before[-1].flags & (SYN | ACK) == SYN
        if before is None or (opens and not again):
            current[key] = []
            flows.append(current[key])
        current[key].append(p)
    return flows


def expected_row(packets: list[Packet]) -> dict[str, Any]:
    """The stored row of one flow, by the text of the method: one packet after the other."""
    packets = sorted(packets, key=lambda p: p.time)
    first = packets[0]
    base_seq = first.seq
    base_ack = first.ack or (packets[1].seq if len(packets) > 1 else 0)
    made: dict[bool, list[list[tuple[Packet, list[int]]]]] = {True: [], False: []}
    for number, p in enumerate(packets):
        forward = p.source == first.source
        if forward:
            seq, ack = p.seq - base_seq, p.ack - base_ack if base_ack and number else 0
        else:
            seq, ack = p.seq - base_ack, p.ack - base_seq
        runs = made[forward]
        if not runs or p.time - runs[-1][-1][0].time > 10 * MILLISECOND:
            runs.append([])
        runs[-1].append((p, p.tokens(seq, ack)))
    ordered = sorted(
        ((run[0][0].time, not forward, place) for forward, runs in made.items() for place, run in enumerate(runs))
    )[:12]
    row: dict[str, Any] = {name: [] for name in ("burst_tokens", "directions", "bytes", "iats", "counts")}
    for start, backward, place in ordered:
        runs = made[not backward]
        kept = runs[place][:6]
        row["burst_tokens"].append([t for _, tokens in kept for t in tokens])
        row["directions"].append(not backward)
        row["bytes"].append(sum(p.length for p, _ in kept))
        row["iats"].append((start - runs[place - 1][0][0].time + 500) // 1000 if place else 0)
        row["counts"].append(len(kept))
    return {**row, "protocol": first.protocol, "flow_duration": (packets[-1].time - first.time) // 1000}


def read(content: bytes, **options: Any) -> list[Sample]:
    return list(CaptureReader(**options).read(Source.from_bytes(content)))


@st.composite
def captures(draw: st.DrawFn) -> list[Packet]:
    ends = [(host, port) for host in HOSTS for port in (80, 4000)]
    pause = st.sampled_from([0, 1, MILLISECOND, 10 * MILLISECOND, 10 * MILLISECOND + 1, 40 * MILLISECOND])
    time, packets = 1_600_000_000_000_000_000, []
    for _ in range(draw(st.integers(1, 60))):
        time += draw(pause)
        source = draw(st.sampled_from(ends))
        same = [e for e in ends if (":" in e[0]) == (":" in source[0]) and e != source]
        target = draw(st.sampled_from(same))
        kinds = [6, 17] if ":" in source[0] or source[0] == target[0] else [6, 17, 1]
        protocol = draw(st.sampled_from(kinds))
        if protocol == 1:
            source, target = (source[0], 0), (target[0], 0)
        number = st.sampled_from([0, 1, 70_000, 2**32 - 1])
        late = draw(st.sampled_from([0, 0, 0, 3 * MILLISECOND]))
        packets.append(
            Packet(
                time - late, source, target, protocol, draw(st.sampled_from([SYN, ACK, SYN | ACK])),
                draw(number), draw(number), draw(st.binary(max_size=14)),
            )
        )  # fmt: skip
    return packets


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(captures(), st.sampled_from([300, 1_500, 1 << 22]))
def test_flows_are_those_of_the_rules_however_the_file_is_cut(packets: list[Packet], chunk: int) -> None:
    content = pcap([p.record() for p in packets], nanoseconds=True)
    with patch.object(window, "CHUNK", chunk):
        samples = read(content)
    flows = split(packets)
    assert [s.data.packets for s in samples] == [len(f) for f in flows]
    for sample, flow in zip(samples, flows, strict=True):
        assert row_of(sample.data) == expected_row(flow)
        opening = min(flow, key=lambda p: p.time)
        assert sample.data.endpoints == (*opening.source, *opening.target)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 5))
def test_condensing_by_parts_is_condensing_at_once(seed: int, parts: int) -> None:
    generator = np.random.default_rng(seed)
    rows = np.zeros(400, KEPT)
    rows["flow"], rows["side"] = generator.integers(0, 3, 400), generator.integers(0, 2, 400)
    # A part may see three bursts in 25 ms where all together make one: 15 at most, so none is dropped too early.
    spread = generator.integers(0, 25 * MILLISECOND, 400)
    rows["time"] = rows["until"] = generator.integers(0, 5, 400) * 40 * MILLISECOND + spread
    rows["order"] = np.arange(400)
    whole, begins = condensed(rows.copy())
    pieces = [condensed(piece.copy())[0] for piece in np.array_split(rows[generator.permutation(400)], parts)]
    again, begins_again = condensed(np.concatenate(pieces))
    assert np.array_equal(whole, again) and np.array_equal(begins, begins_again)


def test_interleaving_flows_changes_none_of_them() -> None:
    generator = random.Random(0)
    flows = [
        [Packet(n * 3 * MILLISECOND * (k + 1), ("10.0.0.1", 1000 + k), ("10.0.0.2", 53), 17, payload=bytes([k, n]))
         for n in range(30)] for k in range(5)
    ]  # fmt: skip
    one_by_one = [row_of(s.data) for flow in flows for s in read(pcap(p.record() for p in flow))]
    mixed = [p for flow in flows for p in flow]
    generator.shuffle(mixed)
    samples = sorted(read(pcap(p.record() for p in mixed)), key=lambda s: s.data.endpoints)
    assert [row_of(s.data) for s in samples] == one_by_one


def test_memory_limits_end_idle_flows_and_say_so() -> None:
    packets = [Packet(n * MILLISECOND, ("10.0.0.1", 1000 + n), ("10.0.0.2", 53), 17) for n in range(200)]
    with patch.object(window, "CHUNK", 1000):
        samples = read(pcap(p.record() for p in packets), max_open_flows=20)
        assert len(samples) == 200 and len({s.key for s in samples}) == 200
        assert sum("flows_closed_early" in w for s in samples for w in s.warnings) == 1
        with pytest.raises(TooLarge, match="more than 150 flows"):
            read(pcap(p.record() for p in packets), max_flows=150)


def test_replaced_connections_do_not_pile_up() -> None:
    packets = [
        Packet(n * MILLISECOND, ("10.0.0.1", 1000), ("10.0.0.2", 53), 6, SYN if n % 2 else ACK) for n in range(99)
    ]
    with patch.object(window, "CHUNK", 500), patch.object(extraction, "_PILE", 10):
        few = [row_of(s.data) for s in read(pcap(p.record() for p in packets))]
    assert few == [expected_row(f) for f in split(packets)] and len(few) == 50


def test_a_collection_that_condenses_itself_stays_small() -> None:
    kept = bursts.KeptPackets()
    for part in range(40):
        rows = np.zeros(5_000, KEPT)
        rows["time"] = rows["until"] = np.arange(part * 5_000, part * 5_000 + 5_000) * 20 * MILLISECOND
        rows["order"] = rows["time"]
        kept.add(rows)
    assert len(kept) < 5_000
    rows, begins = kept.take(1)
    assert len(rows) == bursts.MAX_BURSTS + bursts.SPARE and begins.all() and len(kept) == 0


def test_compatibility_keeps_the_slips_of_the_official_tools() -> None:
    def flows(records: list[Record], compat: bool) -> list[Any]:
        return [s.data for s in read(pcap(records, nanoseconds=True), compat=compat)]

    def udp6(time: int, hosts: tuple[str, str], ports: tuple[int, int], tos: int = 0) -> Record:
        return Record(time, ethernet(ip(*hosts, 17, udp(ports, b"abc"), tos=tos)))

    # One /32: every packet counts as forward. The traffic class loses its lower half.
    near = ("2001:db8::1", "2001:db8::2")
    pair = [udp6(0, near, (1, 2), 0xB8), udp6(1_500, near[::-1], (2, 1))]
    right, slip = flows(pair, False)[0], flows(pair, True)[0]
    assert right.directions.tolist() == [True, False] and right.burst_tokens[0][1] == 0xB8
    assert slip.directions.tolist() == [True] and slip.burst_tokens[0][1] == 0xB
    assert (right.duration, slip.duration) == (1, 1)
    # Echo payload from its ninth byte on; ICMP of two pairs of hosts is lost.
    content = bytes(range(1, 33))
    ping = Record(0, ethernet(ip("10.0.0.1", "10.0.0.2", 1, icmp(8, 0, content))))
    other = Record(5, ethernet(ip("10.0.0.1", "10.0.0.3", 1, icmp(3, 1, content))))
    assert flows([ping], False)[0].burst_tokens[0][7] == 0x0102
    assert flows([ping], True)[0].burst_tokens[0][7] == 0x090A
    assert flows([other], True)[0].burst_tokens[0][7] == 0x0301
    assert len(flows([ping, other], False)) == 2 and not flows([ping, other, *pair], True)[1:]
    with pytest.raises(InvalidInput, match="without 'compat'"):
        flows([ping, other], True)
    # Endpoints that connect anew: the last flow alone is left.
    calls = [Packet(n, ("10.0.0.1", 9), ("10.0.0.2", 80), 6, f, seq=n).record() for n, f in enumerate([SYN, ACK, SYN])]
    assert [f.packets for f in flows(calls, False)] == [2, 1]
    assert [f.packets for f in flows(calls, True)] == [1]
    # A host of the authors' network is forward, though it answers.
    home = [udp6(0, ("10.0.0.1", "169.231.4.4"), (1, 2)), udp6(5_000, ("169.231.4.4", "10.0.0.1"), (2, 1))]
    assert flows(home, False)[0].directions.tolist() == [True, False]
    assert flows(home, True)[0].directions.tolist() == [False, True]


def test_a_span_counts_from_the_first_packet() -> None:
    packets = [Packet(10**18 + n * 10**9, ("10.0.0.1", 1), ("10.0.0.2", 53), 17) for n in range(10)]
    content = Source.from_bytes(pcap(p.record() for p in packets))
    (sample,) = CaptureReader().read(content, Span(2.0, 5.0))
    assert sample.data.packets == 3 and sample.data.start == 10**9 + 2


def test_endpoints_stay_out_of_keys_and_texts_unless_wanted() -> None:
    content = pcap([Packet(0, ("10.0.0.1", 5001), ("10.0.0.2", 53), 17, payload=b"secret").record()])
    (sample,) = read(content)
    told = f"{sample!r} {sample.key} {sample.metadata} {sample.data!r}"
    assert sample.key == "0@1970-01-01T00:00:00.000000Z"
    assert all(text not in told for text in ("10.0.0", "5001", "secret", "115", "29541"))
    (named,) = read(content, name_endpoints=True)
    assert named.key.endswith("udp 10.0.0.1:5001 > 10.0.0.2:53")


def test_a_flow_that_is_kept_keeps_no_others_alive() -> None:
    packets = [Packet(n, ("10.0.0.1", 1000 + n), ("10.0.0.2", 53), 6) for n in range(50)]
    for flow in (s.data for s in read(pcap(p.record() for p in packets))):
        arrays = [*flow.burst_tokens, flow.directions, flow.bytes, flow.iats, flow.counts]
        assert all(a.base is None or a.base.size == sum(map(len, flow.burst_tokens)) for a in arrays)


def test_widths_are_those_of_the_protocols() -> None:
    for protocol, width in PACKET_TOKENS.items():
        packet = Packet(0, ("10.0.0.1", 0), ("10.0.0.2", 0), protocol)
        (sample,) = read(pcap([packet.record()]))
        assert [len(b) for b in sample.data.burst_tokens] == [width] and sample.data.packet_tokens == width
