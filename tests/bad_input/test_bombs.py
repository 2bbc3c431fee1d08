"""Small files that announce or unpack to more than any machine has, through HTTP and the real readers."""

from __future__ import annotations

import gzip
import io
import struct
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from hub.cards import list_models
from hub.domain import get_domain
from serving.app import create_app
from serving.config import check_settings
from serving.engine import Engine

pytestmark = pytest.mark.slow

MODELS = {
    "medical": "alice-tiny", "network": "netfound-tiny", "eeg": "eegformer-tiny", "speech": "tera-tiny",
    "music": "mert-tiny", "graphs": "graphmae-mol-tiny", "sar": "nereus-tiny",
}  # fmt: skip
MIB = 1 << 20


def zipped(name: str, member: bytes = bytes(MIB), times: int = 300) -> bytes:
    """A ZIP archive whose members are as many zeros, a thousandth as long itself."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive, archive.open(name, "w") as out:
        for _ in range(times):
            out.write(member)
    return target.getvalue()


def lying_zip(name: str, size: int) -> bytes:
    """A ZIP archive whose directory says that a member has another size than it has."""
    content = bytearray(zipped(name, times=1))
    for magic, place in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        at = content.rindex(magic) + place
        content[at : at + 4] = struct.pack("<I", size)
    return bytes(content)


def nifti(*shape: int, bits: int = 32, kind: int = 16) -> bytes:
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, len(shape), *shape, *[1] * (7 - len(shape)))
    struct.pack_into("<2h", header, 70, kind, bits)
    struct.pack_into("<8f", header, 76, *[1.0] * 8)
    struct.pack_into("<f", header, 108, 352.0)
    header[344:348] = b"n+1\0"
    return bytes(header)


def dicom(frames: str) -> bytes:
    from domains.medical.samples import as_dicom, phantom

    content = as_dicom(1000 * phantom(3, 32, 32)[1])
    # (0028,0008) NumberOfFrames, where Rows (0028,0010) begins.
    at = content.index(b"\x28\x00\x10\x00US")
    value = frames.encode() + b" " * (len(frames) % 2)
    return content[:at] + b"\x28\x00\x08\x00IS" + struct.pack("<H", len(value)) + value + content[at:]


def pcap(length: int) -> bytes:
    head = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 0x7FFFFFFF, 1)
    return head + struct.pack("<IIII", 1, 0, length, length) + bytes(60)


def wav(announced: int, channels: int = 1, rate: int = 16_000) -> bytes:
    step = 2 * channels
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * step & 0xFFFFFFFF, step & 0xFFFF, 16)
    return b"RIFF\xff\xff\xff\xffWAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", announced)


def tiff(side: int) -> bytes:
    """A tiled, compressed TIFF of one tile."""
    entries = [(256, 4, side), (257, 4, side), (258, 3, 32), (259, 3, 8), (262, 3, 1), (277, 3, 1), (322, 4, 1 << 15)]
    entries += [(323, 4, 1 << 15), (324, 4, 8), (325, 4, 8), (339, 3, 3)]
    directory = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return b"II*\0" + struct.pack("<I", 16) + bytes(8) + struct.pack("<H", len(entries)) + directory + bytes(4)


def npy(shape: str) -> bytes:
    head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode()


BOMBS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "zip.zip": ("medical", lambda: zipped("slice.dcm")),
    "lying.zip": ("medical", lambda: lying_zip("slice.dcm", 0xFFFFFFF0)),
    "small.nii.gz": ("medical", lambda: gzip.compress(nifti(512, 512, 512) + bytes(64 * MIB), 1)),
    "unpacked.nii.gz": ("medical", lambda: gzip.compress(nifti(30, 30, 30) + bytes(300 * MIB), 1)),
    "dims.nii": ("medical", lambda: nifti(32767, 32767, 32767)),
    "negative.nii": ("medical", lambda: nifti(-5, 10, 10) + bytes(4000)),
    "bits.nii": ("medical", lambda: nifti(10, 10, 10, bits=0, kind=9999) + bytes(4000)),
    "frames.dcm": ("medical", lambda: dicom("2147483647")),
    "letters.dcm": ("medical", lambda: dicom("1e99")),
    "length.pcap": ("network", lambda: pcap(0xFFFFFFFF)),
    "beyond.pcap": ("network", lambda: pcap(0x7FFFFFFF)),
    "bomb.pcap.gz": ("network", lambda: gzip.compress(pcap(60)[:40] + bytes(300 * MIB), 1)),
    "bomb.zip": ("eeg", lambda: zipped("a.edf")),
    "nested.zip": ("eeg", lambda: zipped("b.zip", zipped("a.edf", times=2), 1)),
    "samples.npy": ("eeg", lambda: npy("(64, 99999999999)")),
    "length.wav": ("speech", lambda: wav(0x7FFFFFFE)),
    "channels.wav": ("speech", lambda: wav(100, channels=65_535)),
    "rate.wav": ("music", lambda: wav(0xFFFFFFFE, rate=0xFFFFFFFF)),
    "graphs.zip": ("graphs", lambda: zipped("S/S_A.txt")),
    "nodes.npz": ("graphs", lambda: zipped("x.npy", npy("(99999999999, 99999)"), 1)),
    "side.tif": ("sar", lambda: tiff(1 << 30)),
    "pixels.npy": ("sar", lambda: npy("(999999, 999999)")),
}


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Any, Engine]]:
    there = {c.name for c in list_models() if c.has_weights}
    models = [m for d, m in MODELS.items() if m in there and not get_domain(d).missing]
    if not models:
        pytest.skip("no built-in model's packages are installed")
    engine = Engine(check_settings({"models": models, "torch_threads": 1, "reader_workers": 1}))
    with TestClient(create_app(engine)) as client:
        while client.get("/readyz").status_code != 200:
            time.sleep(0.1)
        yield client, engine


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused(name: str, served: tuple[Any, Engine]) -> None:
    client, engine = served
    domain, make = BOMBS[name]
    if MODELS[domain] not in engine.lanes:
        pytest.skip(f"no {domain} model here")
    content = make()
    assert len(content) < 2 * MIB
    answer = client.post(f"/v1/models/{MODELS[domain]}/embeddings", files={"file": (name, content)})
    assert answer.status_code in (413, 415, 422), answer.text
    error = answer.json()["error"]
    # Told by the reader from the header, and not by what became of its process.
    assert error["param"] == "file[0]" and error["code"] not in ("reader_crashed", "reading_timeout"), error
    assert not [s for m in engine.metrics.reader_restarts.collect() for s in m.samples]


def test_the_process_that_they_are_forked_from_has_one_thread(served: tuple[Any, Engine]) -> None:
    nursery = served[1].pool._nursery  # type: ignore[attr-defined]
    # A lock that another thread holds at the time of a fork would be held for ever in the child.
    assert len(list(Path(f"/proc/{nursery.pid}/task").iterdir())) == 1
