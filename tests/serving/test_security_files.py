"""What hostile files reach through HTTP, read by the domains' readers in worker processes: nothing here."""

from __future__ import annotations

import gzip
import io
import logging
import re
import stat
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from hub.cards import list_models
from hub.domain import get_domain
from serving.app import create_app
from serving.config import check_settings
from serving.engine import Engine
from serving.logs import configure_logging
from serving.readers.caps import PROCESSES

MODELS = {
    "eeg": "eegformer-tiny", "medical": "alice-tiny", "graphs": "graphmae-mol-tiny", "network": "netfound-tiny",
    "sar": "nereus-tiny",
}  # fmt: skip
PASSWD = Path("/etc/passwd")
HOST_OF_CAPTURE = "secret-clinic.example"


class Service:
    """A service whose spool lies in a folder that is watched, and all that its log says."""

    def __init__(self, root: Path) -> None:
        there = {c.name for c in list_models() if c.has_weights}
        self.models = {d: m for d, m in MODELS.items() if m in there and not get_domain(d).missing}
        if not self.models:
            pytest.skip("no built-in model's packages are installed")
        self.root = root
        self.spool = root / "deep" / "spool"
        self.spool.mkdir(parents=True)
        self.target = root / "target"
        self.target.mkdir()
        # Planted by another user of the machine: it looks like what a killed process left.
        (self.target / "lock").touch()
        (self.spool / "fmhub-scratch-planted").symlink_to(self.target)
        self.log = io.StringIO()
        settings = check_settings(
            {
                "models": list(self.models.values()), "torch_threads": 1, "spool_dir": self.spool,
                "spool_threshold": 0, "reader_workers": 1 if PROCESSES else 0, "log_format": "json",
                "log_requests": True, "request_timeout_s": 120,
            }
        )  # fmt: skip
        configure_logging(settings, self.log)
        for name in (None, "fmhub", "fmhub.access", "fmhub.serving"):
            logging.getLogger(name).setLevel(logging.DEBUG)
        self.engine = Engine(settings)
        self.client: Any = None

    def post(self, domain: str, name: str, content: bytes, accept: str = "*/*") -> Any:
        if domain not in self.models:
            pytest.skip(f"no {domain} model here")
        url = f"/v1/models/{self.models[domain]}/embeddings"
        return self.client.post(url, files={"file": (name, content)}, headers={"accept": accept})

    def found(self) -> set[Path]:
        """All that lies under the root, but not what is in the service's own folder, which must be empty."""
        return {p for p in self.root.rglob("*") if not re.search(r"fmhub-scratch-(?!planted)", str(p))}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    level = logging.getLogger().level
    service = Service(tmp_path_factory.mktemp("machine"))
    with TestClient(create_app(service.engine)) as client:
        while client.get("/readyz").status_code != 200:
            time.sleep(0.05)
        service.client = client
        yield service
    logging.getLogger().setLevel(level)


def edf() -> bytes:
    from domains.eeg.samples import simulate
    from domains.eeg.writing import edf_bytes

    return edf_bytes(simulate(seconds=8.0))


def scan() -> bytes:
    from domains.medical.samples import as_dicom, phantom

    return as_dicom(900 * phantom(3, 64, 64, 1)[1])


def archive(*members: tuple[str, bytes], link: bool = False) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as out:
        for name, content in members:
            entry = zipfile.ZipInfo("x")
            entry.filename = name  # as it is, though the constructor would tidy it
            if link and content.startswith(b"/"):
                entry.external_attr = (stat.S_IFLNK | 0o777) << 16
            out.writestr(entry, content)
    return buffer.getvalue()


CUBE = {
    "S/S_A.txt": b"1, 2\n2, 1\n2, 3\n3, 2\n", "S/S_graph_indicator.txt": b"1\n1\n1\n", "S/S_graph_labels.txt": b"0\n",
    "S/S_node_labels.txt": b"0\n1\n0\n",
}  # fmt: skip


def of_domain(domain: str) -> dict[str, bytes]:
    if domain == "eeg":
        return {"scan.edf": edf()}
    return {"a.dcm": scan()} if domain == "medical" else CUBE


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("domain", ["eeg", "medical", "graphs"])
def test_no_member_of_an_archive_leaves_its_folder(domain: str, service: Service) -> None:
    members = of_domain(domain)
    before = service.found()
    prefixes = [*("../" * n for n in (1, 2, 3, 4)), f"{service.target}/", "..\\..\\", "C:\\", "/", "a/../../", "./"]
    attacks = [archive(*((p + n.rpartition("/")[2], c) for n, c in members.items())) for p in prefixes]
    # A link first, then a file behind it; and links in place of what is read.
    attacks.append(
        archive(("S", str(service.target).encode()), *((f"S/{n}", c) for n, c in members.items()), link=True)
    )
    attacks += [archive((n, bytes(PASSWD)), link=True) for n in members]
    attacks += [archive(*members.items(), (next(iter(members)), bytes(PASSWD)), link=True)]
    for content in attacks:
        answer = service.post(domain, "set.zip", content)
        assert answer.status_code in (200, 415, 422), answer.text
        assert "root:" not in answer.text and str(service.root) not in answer.text
    assert service.found() == before and len(list(service.target.iterdir())) == 1
    # What readers unpacked, and what the spool held, is gone.
    (own,) = [p for p in service.spool.iterdir() if not p.is_symlink()]
    assert stat.S_IMODE(own.stat().st_mode) == 0o700 and not list(own.glob("upload-*"))
    assert not [p for p in own.rglob("*") if p.is_file() and p.name != "lock"]


def test_arrays_of_an_npz_are_never_objects_and_never_files(service: Service) -> None:
    pickled = b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(127) + b"\n"
    pickled += b"cos\nsystem\n(S'touch " + str(service.target).encode() + b"/pwned'\ntR."
    before = service.found()
    for name in ("x.npy", "../x.npy", f"{service.target}/x.npy"):
        answer = service.post("graphs", "graph.npz", archive((name, pickled), ("edge_index.npy", pickled)))
        assert answer.status_code in (415, 422), answer.text
    assert service.found() == before


BRAINVISION = b"""Brain Vision Data Exchange Header File Version 1.0
[Common Infos]
DataFile=%s
MarkerFile=%s
DataFormat=BINARY
DataOrientation=MULTIPLEXED
NumberOfChannels=1
SamplingInterval=4000
[Binary Infos]
BinaryFormat=INT_16
[Channel Infos]
Ch1=Fp1,,0.1
"""

LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 20))
GRAPH = '<graphml xmlns="http://graphml.graphdrawing.org/xmlns"><graph edgedefault="undirected">'
TREES = {
    "laughs": f'<!DOCTYPE g [<!ENTITY l0 "ha">{LAUGHS}]>{GRAPH}<node id="&l19;"/></graph></graphml>',
    "file": f'<!DOCTYPE g [<!ENTITY f SYSTEM "file://{PASSWD}">]>{GRAPH}<node id="&f;"/></graph></graphml>',
    "outside": f'<?xml version="1.0"?><!DOCTYPE g SYSTEM "http://127.0.0.1:9/x.dtd">{GRAPH}</graph></graphml>',
    "included": f'{GRAPH}<include xmlns="http://www.w3.org/2001/XInclude" href="{PASSWD}"/></graph></graphml>',
    "deep": GRAPH + "<data>" * 200_000,
}


@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize("coding", ["utf-8", "utf-16"])
def test_xml_neither_expands_nor_reads_files(name: str, coding: str, service: Service) -> None:
    start = time.process_time()
    answer = service.post("graphs", "g.graphml", TREES[name].encode(coding))
    assert answer.status_code in (415, 422), answer.text
    assert "root:" not in answer.text and "haha" not in answer.text and len(answer.content) < 2_000
    assert answer.json()["error"]["code"] not in ("reader_crashed", "reading_timeout")
    assert time.process_time() - start < 2


def test_files_do_not_name_other_files_of_the_machine(service: Service) -> None:
    path = bytes(PASSWD)
    header = [(BRAINVISION % (p, p), "scan.vhdr") for p in (path, b"../../../../../.." + path, b"..\\" + path, b".")]
    raster = b'<VRTDataset rasterXSize="64" rasterYSize="64"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
    raster += b"<SourceFilename>" + path + b"</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"
    manifest = (
        f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY f SYSTEM "file://{PASSWD}">]><xfdu:XFDU>&f;</xfdu:XFDU>'.encode()
    )
    for domain, name, content in (
        *(("eeg", n, c) for c, n in header),
        *(("eeg", "set.zip", archive((n, c), ("marks.vmrk", b""))) for c, n in header),
        ("sar", "scene.vrt", raster),
        ("sar", "scene.tif", raster),
        ("sar", "scene.tif", b"/vsicurl/http://127.0.0.1:9/a.tif"),
        ("sar", "manifest.safe", manifest),
        ("sar", "S1A.SAFE.zip", archive(("S1A.SAFE/manifest.safe", manifest), ("../measurement/s1a", raster))),
        ("medical", "a.mhd", b"ObjectType = Image\nNDims = 3\nDimSize = 8 8 8\nElementDataFile = " + path + b"\n"),
        ("medical", "a.nrrd", b"NRRD0004\ntype: uint8\ndimension: 1\nsizes: 8\ndata file: " + path + b"\n\n"),
    ):  # fmt: skip
        answer = service.post(domain, name, content)
        assert answer.status_code in (415, 422), (name, answer.text)
        assert "root:" not in answer.text and str(service.root) not in answer.text


def capture(text: bytes) -> bytes:
    """Lookups of a name and a TLS greeting that holds it, between the invented hosts of the samples."""
    from domains.network.samples import CLIENT, SERVER, START
    from domains.network.writing import ACK, PUSH, SYN, Record, ethernet, ip, pcap, tcp, udp

    question = b"\x12\x34\x01\x00\x00\x01" + bytes(6)
    question += b"".join(bytes([len(part)]) + part for part in text.split(b".")) + b"\0\0\x01\0\x01"
    hello = b"\x16\x03\x01\x00\x80\x01" + bytes(40) + len(text).to_bytes(2, "big") + text
    packets = [
        ip(CLIENT, SERVER, 17, udp((40_001, 53), question)),
        ip(CLIENT, SERVER, 6, tcp((50_001, 443), SYN, seq=1)),
        ip(CLIENT, SERVER, 6, tcp((50_001, 443), PUSH | ACK, hello, seq=2, ack=1)),
    ]
    return pcap([Record(START + n * 1_000_000, ethernet(packet)) for n, packet in enumerate(packets)])


def test_captures_name_no_host(service: Service) -> None:
    from domains.network.samples import CLIENT, SERVER

    whole = capture(HOST_OF_CAPTURE.encode())
    told: list[str] = []
    for content in (whole, whole[:-30], whole[:50], whole[:24], whole + b"\xff" * 16, gzip.compress(whole)[:-9]):
        for accept in ("*/*", "application/x-ndjson"):
            answer = service.post("network", f"{HOST_OF_CAPTURE}.pcap", content, accept)
            assert answer.status_code in (200, 415, 422), answer.text
            # The name that the client itself gave its file comes back to it, and goes nowhere else.
            told.append(f"{answer.headers} {answer.text}".replace(f"{HOST_OF_CAPTURE}.pcap", ""))
    assert any("embedding" in text for text in told)
    for path in ("/metrics", "/v1/models", f"/v1/models/{service.models['network']}", "/v2/models/stats"):
        told.append(service.client.get(path).text)
    assert "fmhub.access" in service.log.getvalue()
    for text in (*told, service.log.getvalue()):
        for secret in (HOST_OF_CAPTURE, CLIENT, SERVER, "Traceback", str(service.root)):
            assert secret not in text


def test_no_pattern_is_slow_on_a_hostile_line() -> None:
    """Each at a megabyte in a second, on what it repeats, with what it wants missing at the end."""
    from domains.eeg import channels
    from domains.eeg.formats import brainvision, tables
    from domains.eeg.formats import edf as edf_format
    from domains.graphs.formats import numbers
    from domains.sar.formats import safe

    patterns = [p for m in (channels, brainvision, tables, edf_format, numbers, safe) for p in vars(m).values()]
    patterns = [q for p in patterns for q in (p.values() if isinstance(p, dict) else [p]) if isinstance(q, re.Pattern)]
    assert len(patterns) >= 12
    size = 100_000
    starts = ("", "EEG", "Fp1", "time", "label", "sample", "% Sample Rate = ", "\ufeff", "+1", "s1a-iw-grd-")
    for pattern in patterns:
        for repeated in ("-", " ", "1", "a", "z", "\n", "%\n", "- ", "_(", "1."):
            for start in starts:
                text = (start + repeated * (size // len(repeated)) + "!")[:size]
                given: Any = text.encode() if isinstance(pattern.pattern, bytes) else text
                begun = time.process_time()
                pattern.search(given)
                assert time.process_time() - begun < 0.1, (pattern.pattern, start, repeated)


def test_a_hostile_table_is_read_in_time(service: Service) -> None:
    for name in ("Fp1" + "-" * 1_000_000, "Fp1" + " ." * 500_000 + "!", "-a" * 500_000):
        begun = time.monotonic()
        answer = service.post("eeg", "a.csv", f"time,{name},Cz\n0,1,2\n0.004,2,3\n0.008,3,4\n".encode())
        assert answer.status_code in (200, 413, 415, 422) and time.monotonic() - begun < 20
        assert answer.status_code == 200 or answer.json()["error"]["code"] != "reading_timeout"
