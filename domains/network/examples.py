"""Known flows to set others beside: lookups, visits, transfers, calls, pings and scans between invented hosts."""

from __future__ import annotations

import random

from domains.network.samples import CLIENT, MILLISECOND, SERVER, START, call, lookup, pings, scan, visit
from domains.network.writing import ACK, FIN, PUSH, RESET, SYN, Record, ethernet, ip, pcap, tcp, udp
from hub.reading import Source

EACH = 3
"""Flows of a kind."""


def examples() -> list[Source]:
    """Return captures of one flow each, named after what it is; the same on every call."""
    made = []
    for number in range(EACH):
        noise = random.Random(number)
        kinds = {
            "web visit": visit(noise, START, 50_000 + number, ipv6=False),
            "web visit IPv6": visit(noise, START, 51_000 + number, ipv6=True),
            "name lookup": lookup(noise, START, 40_000 + number),
            "voice call": call(noise),
            "ping": pings(noise),
            "port scan": scan(noise)[2 * number : 2 * number + 2],
            "download": _transfer(noise, 52_000 + number, outward=False),
            "upload": _transfer(noise, 53_000 + number, outward=True),
            "remote shell": _shell(noise, 54_000 + number),
            "unanswered": _unanswered(noise, 55_000 + number),
            "clock query": _clock(noise, 56_000 + number),
        }
        for name, records in kinds.items():
            made.append(Source.from_bytes(pcap(sorted(records)), f"{name.replace(' ', '-')}-{number + 1}.pcap"))
    return sorted(made, key=lambda source: source.name)


class _Connection:
    """The two sides of a TCP connection, and what they have sent."""

    def __init__(self, noise: random.Random, port: int, service: int) -> None:
        self.noise = noise
        self.ports = ((port, service), (service, port))
        self.numbers = [noise.getrandbits(32), noise.getrandbits(32)]
        self.at = START
        self.records: list[Record] = []

    def send(self, side: int, flags: int, size: int = 0, wait: int = MILLISECOND) -> None:
        """Send a segment at most ``wait`` nanoseconds after the last one."""
        self.at += self.noise.randint(wait // 4, wait)
        hosts = (CLIENT, SERVER) if side == 0 else (SERVER, CLIENT)
        ack = self.numbers[1 - side] if flags & ACK else 0
        segment = tcp(
            self.ports[side], flags, self.noise.randbytes(size), seq=self.numbers[side] % 2**32, ack=ack % 2**32
        )
        self.records.append(Record(self.at, ethernet(ip(*hosts, 6, segment, ttl=64 - 10 * side))))
        self.numbers[side] += size + bool(flags & (SYN | FIN))

    def open(self) -> None:
        """Shake hands."""
        self.send(0, SYN)
        self.send(1, SYN | ACK)
        self.send(0, ACK)


def _transfer(noise: random.Random, port: int, outward: bool) -> list[Record]:
    """One request, then full segments one way, acknowledged now and then."""
    link = _Connection(noise, port, 443)
    link.open()
    link.send(0, ACK | PUSH, noise.randint(200, 400))
    for _ in range(12):
        for _ in range(6):
            link.send(0 if outward else 1, ACK, 1400, MILLISECOND // 2)
        link.send(1 if outward else 0, ACK, wait=12 * MILLISECOND)
    link.send(0, FIN | ACK)
    return link.records


def _shell(noise: random.Random, port: int) -> list[Record]:
    """Someone types: small segments, each echoed, with pauses of a fifth of a second."""
    link = _Connection(noise, port, 22)
    link.open()
    for _ in range(14):
        link.send(0, ACK | PUSH, 36, 300 * MILLISECOND)
        link.send(1, ACK | PUSH, 36, 15 * MILLISECOND)
        link.send(0, ACK)
    return link.records


def _unanswered(noise: random.Random, port: int) -> list[Record]:
    """Connections asked for again and again, and refused at last."""
    link = _Connection(noise, port, 8080)
    for _ in range(4):
        link.send(0, SYN, wait=1_000 * MILLISECOND)
    link.send(1, RESET | ACK)
    return link.records


def _clock(noise: random.Random, port: int) -> list[Record]:
    """A question to a time server and its answer, 48 bytes each."""
    ask = ip(CLIENT, SERVER, 17, udp((port, 123), noise.randbytes(48)))
    tell = ip(SERVER, CLIENT, 17, udp((123, port), noise.randbytes(48)), ttl=54)
    return [Record(START, ethernet(ask)), Record(START + noise.randint(5, 40) * MILLISECOND, ethernet(tell))]
