"""Small captures to try things on, generated: lookups, web visits, calls, pings and a scan between invented hosts."""

from __future__ import annotations

import random
from pathlib import Path

from domains.network.reading import CaptureReader
from domains.network.rows import write_rows
from domains.network.writing import ACK, FIN, PUSH, RESET, SYN, Record, ethernet, icmp, ip, pcap, pcapng, tcp, udp
from hub.reading import Source

START = 1_700_000_000_000_000_000
MILLISECOND = 1_000_000
# Addresses set aside for documentation (RFC 5737 and RFC 3849).
CLIENT, _RESOLVER, SERVER = "192.0.2.17", "192.0.2.53", "198.51.100.80"
_CLIENT6, _SERVER6 = "2001:db8::17", "2001:db8:1::80"


def write_samples(folder: Path) -> list[Path]:
    """Write a pcap of an office, a pcapng of calls and pings, a pcap of a scan, and of another office an Arrow stream.

    Args:
        folder: An existing folder.
    """
    noise = random.Random(0)
    office, calls, scanned, rows = (folder / n for n in ("office.pcap", "calls.pcapng", "scan.pcap", "office.arrow"))
    office.write_bytes(_office(noise))
    calls.write_bytes(pcapng(sorted(call(noise) + pings(noise))))
    scanned.write_bytes(pcap(scan(noise)))
    another = Source.from_bytes(_office(noise), "another.pcap")
    write_rows(rows, (sample.data for sample in CaptureReader().read(another)), label="office")
    return [office, calls, scanned, rows]


def _office(noise: random.Random) -> bytes:
    """Six lookups, each followed by a visit."""
    records: list[Record] = []
    for number in range(6):
        at = START + number * 2_000 * MILLISECOND
        records += lookup(noise, at, 40_000 + number)
        records += visit(noise, at + 30 * MILLISECOND, 50_000 + number, ipv6=number % 2 == 1)
    return pcap(sorted(records))


def lookup(noise: random.Random, at: int, port: int) -> list[Record]:
    """A question to a name server and its answer."""
    ask = ip(CLIENT, _RESOLVER, 17, udp((port, 53), noise.randbytes(noise.randint(30, 50))))
    tell = ip(_RESOLVER, CLIENT, 17, udp((53, port), noise.randbytes(noise.randint(60, 200))), ttl=63)
    return [Record(at, ethernet(ask)), Record(at + noise.randint(1, 30) * MILLISECOND, ethernet(tell))]


def visit(noise: random.Random, at: int, port: int, ipv6: bool) -> list[Record]:
    """A connection that is opened, used for a few requests and closed."""
    hosts = (_CLIENT6, _SERVER6) if ipv6 else (CLIENT, SERVER)
    ports, numbers = ((port, 443), (443, port)), [noise.getrandbits(32), noise.getrandbits(32)]
    records: list[Record] = []

    def send(side: int, flags: int, size: int = 0) -> None:
        nonlocal at
        at += noise.randint(50_000, 2 * MILLISECOND)
        ack = numbers[1 - side] if flags & ACK else 0
        segment = tcp(ports[side], flags, noise.randbytes(size), seq=numbers[side], ack=ack)
        packet = ip(hosts[side], hosts[1 - side], 6, segment, ttl=64 - 10 * side)
        records.append(Record(at, ethernet(packet)))
        numbers[side] += size + bool(flags & (SYN | FIN))

    send(0, SYN)
    send(1, SYN | ACK)
    send(0, ACK)
    for _ in range(noise.randint(2, 5)):
        at += noise.randint(20, 200) * MILLISECOND
        send(0, ACK | PUSH, noise.randint(100, 600))
        for _ in range(noise.randint(1, 8)):
            send(1, ACK, 1400)
        send(0, ACK)
    send(0, FIN | ACK)
    send(1, FIN | ACK)
    return records


def call(noise: random.Random) -> list[Record]:
    """Two voices, a packet of 20 ms each way."""
    records = []
    for number in range(40):
        for side, hosts in enumerate(((CLIENT, SERVER), (SERVER, CLIENT))):
            at = START + (20 * number + 7 * side) * MILLISECOND + noise.randint(0, MILLISECOND)
            ports = ((16_384, 16_386), (16_386, 16_384))[side]
            records.append(Record(at, ethernet(ip(*hosts, 17, udp(ports, noise.randbytes(172)), tos=184))))
    return records


def pings(noise: random.Random) -> list[Record]:
    """Three echo requests and their replies."""
    records = []
    for number in range(3):
        at = START + number * 1_000 * MILLISECOND
        records.append(Record(at, ethernet(ip(CLIENT, SERVER, 1, icmp(8)))))
        at += noise.randint(5, 20) * MILLISECOND
        records.append(Record(at, ethernet(ip(SERVER, CLIENT, 1, icmp(0), ttl=54))))
    return records


def scan(noise: random.Random) -> list[Record]:
    """Connections asked for and refused, port after port; the scanner varies TTL and window, as nmap does."""
    records = []
    for number in range(12):
        at, ports = START + number * 3 * MILLISECOND, (61_000, 20 + number)
        seq = noise.getrandbits(32)
        segment = tcp(ports, SYN, seq=seq, window=1024 * (1 + number % 4))
        ask = ip(CLIENT, SERVER, 6, segment, ttl=37 + noise.randrange(23))
        refuse = ip(SERVER, CLIENT, 6, tcp(ports[::-1], RESET | ACK, ack=seq + 1, window=0), ttl=54)
        records += [Record(at, ethernet(ask)), Record(at + MILLISECOND, ethernet(refuse))]
    return records
