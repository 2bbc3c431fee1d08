"""Small captures to try things on, generated: lookups, web visits, calls, pings and a scan between invented hosts."""

from __future__ import annotations

import random
from pathlib import Path

from domains.network.reading import CaptureReader
from domains.network.rows import write_rows
from domains.network.writing import ACK, FIN, PUSH, RESET, SYN, Record, ethernet, icmp, ip, pcap, pcapng, tcp, udp
from hub.reading import Source

_START = 1_700_000_000_000_000_000
_MILLISECOND = 1_000_000
# Addresses set aside for documentation (RFC 5737 and RFC 3849).
_CLIENT, _RESOLVER, _SERVER = "192.0.2.17", "192.0.2.53", "198.51.100.80"
_CLIENT6, _SERVER6 = "2001:db8::17", "2001:db8:1::80"


def write_samples(folder: Path) -> list[Path]:
    """Write a pcap of an office, a pcapng of calls and pings, a pcap of a scan, and of another office an Arrow stream.

    Args:
        folder: An existing folder.
    """
    noise = random.Random(0)
    office, calls, scan, rows = (folder / n for n in ("office.pcap", "calls.pcapng", "scan.pcap", "office.arrow"))
    office.write_bytes(_office(noise))
    calls.write_bytes(pcapng(sorted(_call(noise) + _pings(noise))))
    scan.write_bytes(pcap(_scan(noise)))
    another = Source.from_bytes(_office(noise), "another.pcap")
    write_rows(rows, (sample.data for sample in CaptureReader().read(another)), label="office")
    return [office, calls, scan, rows]


def _office(noise: random.Random) -> bytes:
    """Six lookups, each followed by a visit."""
    records: list[Record] = []
    for visit in range(6):
        at = _START + visit * 2_000 * _MILLISECOND
        records += _lookup(noise, at, 40_000 + visit)
        records += _visit(noise, at + 30 * _MILLISECOND, 50_000 + visit, ipv6=visit % 2 == 1)
    return pcap(sorted(records))


def _lookup(noise: random.Random, at: int, port: int) -> list[Record]:
    """A question to a name server and its answer."""
    ask = ip(_CLIENT, _RESOLVER, 17, udp((port, 53), noise.randbytes(noise.randint(30, 50))))
    tell = ip(_RESOLVER, _CLIENT, 17, udp((53, port), noise.randbytes(noise.randint(60, 200))), ttl=63)
    return [Record(at, ethernet(ask)), Record(at + noise.randint(1, 30) * _MILLISECOND, ethernet(tell))]


def _visit(noise: random.Random, at: int, port: int, ipv6: bool) -> list[Record]:
    """A connection that is opened, used for a few requests and closed."""
    hosts = (_CLIENT6, _SERVER6) if ipv6 else (_CLIENT, _SERVER)
    ports, numbers = ((port, 443), (443, port)), [noise.getrandbits(32), noise.getrandbits(32)]
    records: list[Record] = []

    def send(side: int, flags: int, size: int = 0) -> None:
        nonlocal at
        at += noise.randint(50_000, 2 * _MILLISECOND)
        ack = numbers[1 - side] if flags & ACK else 0
        segment = tcp(ports[side], flags, noise.randbytes(size), seq=numbers[side], ack=ack)
        packet = ip(hosts[side], hosts[1 - side], 6, segment, ttl=64 - 10 * side)
        records.append(Record(at, ethernet(packet)))
        numbers[side] += size + bool(flags & (SYN | FIN))

    send(0, SYN)
    send(1, SYN | ACK)
    send(0, ACK)
    for _ in range(noise.randint(2, 5)):
        at += noise.randint(20, 200) * _MILLISECOND
        send(0, ACK | PUSH, noise.randint(100, 600))
        for _ in range(noise.randint(1, 8)):
            send(1, ACK, 1400)
        send(0, ACK)
    send(0, FIN | ACK)
    send(1, FIN | ACK)
    return records


def _call(noise: random.Random) -> list[Record]:
    """Two voices, a packet of 20 ms each way."""
    records = []
    for number in range(40):
        for side, hosts in enumerate(((_CLIENT, _SERVER), (_SERVER, _CLIENT))):
            at = _START + (20 * number + 7 * side) * _MILLISECOND + noise.randint(0, _MILLISECOND)
            ports = ((16_384, 16_386), (16_386, 16_384))[side]
            records.append(Record(at, ethernet(ip(*hosts, 17, udp(ports, noise.randbytes(172)), tos=184))))
    return records


def _pings(noise: random.Random) -> list[Record]:
    """Three echo requests and their replies."""
    records = []
    for number in range(3):
        at = _START + number * 1_000 * _MILLISECOND
        records.append(Record(at, ethernet(ip(_CLIENT, _SERVER, 1, icmp(8)))))
        at += noise.randint(5, 20) * _MILLISECOND
        records.append(Record(at, ethernet(ip(_SERVER, _CLIENT, 1, icmp(0), ttl=54))))
    return records


def _scan(noise: random.Random) -> list[Record]:
    """Connections asked for and refused, port after port; the scanner varies TTL and window, as nmap does."""
    records = []
    for number in range(12):
        at, ports = _START + number * 3 * _MILLISECOND, (61_000, 20 + number)
        seq = noise.getrandbits(32)
        segment = tcp(ports, SYN, seq=seq, window=1024 * (1 + number % 4))
        ask = ip(_CLIENT, _SERVER, 6, segment, ttl=37 + noise.randrange(23))
        refuse = ip(_SERVER, _CLIENT, 6, tcp(ports[::-1], RESET | ACK, ack=seq + 1, window=0), ttl=54)
        records += [Record(at, ethernet(ask)), Record(at + _MILLISECOND, ethernet(refuse))]
    return records
