"""The files that are mutated: small ones of every format that a domain reads, made here, and real ones if given."""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

PATIENT = "FUZZPATIENT"
"""Stands where formats name a person; no answer may repeat it."""
LARGEST = 200_000
"""Bytes of a real file that is taken."""
PER_SUFFIX = 12
"""Real files taken of one suffix in one folder."""
_NOT_READ = frozenset("md safetensors pth x tx allx y ty ally graph index".split())


@dataclass(frozen=True)
class Seed:
    """One file to mutate.

    Attributes:
        domain: Whose reader gets it.
        kind: Its format, by suffix; ``plain`` is the JSON of the domain's plain form.
        name: What it is called.
        content: Its bytes.
    """

    domain: str
    kind: str
    name: str
    content: bytes = field(repr=False)


def made() -> list[Seed]:
    """Return the seeds that this module makes, the same on every call but for OGG's serial numbers."""
    seeds: list[Seed] = []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for domain, make in MAKERS.items():
            root = Path(folder, domain)
            root.mkdir()
            seeds += [Seed(domain, kind_of(name), name, content) for name, content in make(root)]
    return seeds


def found(root: Path) -> list[Seed]:
    """Return small real files below ``root``, a folder of ``DOMAIN/...``: a few of each suffix in each folder."""
    seeds: list[Seed] = []
    for domain in MAKERS:
        taken: dict[tuple[Path, str], int] = {}
        for path in sorted((root / domain).rglob("*")):
            kind = kind_of(path.name)
            place = (path.parent, kind)
            if not path.is_file() or kind in _NOT_READ or not 0 < path.stat().st_size <= LARGEST:
                continue
            taken[place] = taken.get(place, 0) + 1
            if taken[place] <= PER_SUFFIX:
                seeds.append(Seed(domain, kind, path.name, path.read_bytes()))
    return seeds


def kind_of(name: str) -> str:
    """Return a file's format by its name."""
    lower = name.lower()
    return "nii.gz" if lower.endswith(".nii.gz") else lower.rpartition(".")[2]


def digest(seeds: list[Seed]) -> str:
    """Return a hash of what the seeds are called, for telling whether a log belongs to them."""
    return hashlib.sha256("\n".join(f"{s.domain} {s.name}" for s in seeds).encode()).hexdigest()[:16]


Files = Iterator[tuple[str, bytes]]


def _plain(value: object) -> tuple[str, bytes]:
    return "form.plain", json.dumps(value).encode()


def _read(*paths: Path) -> Files:
    for path in paths:
        yield path.name, path.read_bytes()


def _audio(kinds: tuple[tuple[str, str, str | None], ...]) -> Files:
    import soundfile

    time = np.arange(9_600) / 16_000
    mono = (0.4 * np.sin(2 * np.pi * 220 * time) + 0.1 * np.sin(2 * np.pi * 1_900 * time)).astype(np.float32)
    for name, kind, subtype in kinds:
        for channels in (1, 2):
            buffer = io.BytesIO()
            audio = mono if channels == 1 else np.stack([mono, 0.5 * mono[::-1]], 1)
            soundfile.write(buffer, audio, 16_000, format=kind, subtype=subtype)
            yield f"{channels}.{name}", buffer.getvalue()
    yield _plain({"samples": mono[:2_000].round(4).tolist(), "sampling_rate": 16_000})


_SOUNDS: tuple[tuple[str, str, str | None], ...] = (
    ("wav", "WAV", "PCM_16"),
    ("float.wav", "WAV", "FLOAT"),
    ("adpcm.wav", "WAV", "IMA_ADPCM"),
    ("extensible.wav", "WAVEX", "PCM_24"),
    ("rf64.wav", "RF64", "PCM_16"),
    ("flac", "FLAC", "PCM_16"),
    ("ogg", "OGG", "VORBIS"),
    ("opus", "OGG", "OPUS"),
    ("mp3", "MP3", None),
    ("aiff", "AIFF", "PCM_16"),
)


def _speech(_: Path) -> Files:
    yield from _audio((*_SOUNDS, ("sph", "NIST", "PCM_16")))


def _music(_: Path) -> Files:
    yield from _audio(_SOUNDS)


def _eeg(root: Path) -> Files:
    from domains.eeg import samples
    from domains.eeg.writing import bdf_bytes, edf_bytes

    small = samples.simulate(("Fp1", "Cz", "O2"), 128.0, 6.0)
    edf, bdf = edf_bytes(small), bdf_bytes(small)
    named = PATIENT.encode().ljust(80)
    yield "x.edf", edf[:8] + named + edf[88:]
    yield "x.bdf", bdf[:8] + named + bdf[88:]
    yield from _read(
        samples.write_csv(root / "x.csv", small),
        samples.write_npy(root / "x.npy", small),
        samples.write_text(root / "x.txt", small),
        samples.write_set(root / "x.set", small),
        samples.write_fif(root / "x_raw.fif", small),
        samples.write_brainvision(root / "x.vhdr", small),
        samples.write_brainvision_archive(root / "x.zip", small),
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(root / "x.npy", "x.npy")
        archive.writestr("x.json", json.dumps({"SamplingFrequency": 128.0, "unit": "uV"}))
    yield "array.zip", buffer.getvalue()
    rows = small.microvolts[:, :512].round(2).tolist()
    yield _plain({"signal": rows, "sampling_rate": 128.0, "channels": ["Fp1", "Cz", "O2"], "unit": "uV"})


def _medical(root: Path) -> Files:
    import nibabel
    from PIL import Image

    from domains.medical.samples import as_dicom, phantom

    volume = phantom(12, 20, 24, 1)
    slices = [as_dicom(900 * v, "MR", 2, (0.0, 0.0, 2.0 * n)) for n, v in enumerate(volume)]
    yield "mr.dcm", _named(slices[0])
    yield "ct.dcm", _named(as_dicom(2000 * volume[3] - 1000, "CT", 3))
    for name, uid in (("jpeg.dcm", "1.2.840.10008.1.2.4.50"), ("rle.dcm", "1.2.840.10008.1.2.5")):
        yield name, _compressed(volume[5], uid)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, content in enumerate(slices):
            archive.writestr(f"series/{number}.dcm", content)
    yield "series.zip", buffer.getvalue()
    values = np.round(1000 * volume).astype(np.int16)
    affine = np.diag([1.0, 1.2, 2.0, 1.0])
    for name, kind, array in (
        ("x.nii", nibabel.Nifti1Image, values),
        ("x.nii.gz", nibabel.Nifti1Image, values),
        ("second.nii", nibabel.Nifti2Image, volume),
    ):
        nibabel.save(kind(array, affine), root / name)
        yield from _read(root / name)
    grey = np.round(255 * volume[6]).astype(np.uint8)
    deep = np.round(65_535 * volume[6]).astype(np.uint16)
    exif = Image.Exif()
    exif[0x010E] = PATIENT
    exif[0x013B] = PATIENT
    for name, array, options in (
        ("x.png", deep, {}),
        ("palette.png", grey, {"palette": True}),
        ("x.jpg", np.stack([grey, grey // 2, grey // 3], -1), {"exif": exif}),
        ("x.tif", deep, {"compression": "tiff_lzw"}),
        ("raw.tif", grey, {}),
    ):
        picture, buffer = Image.fromarray(array), io.BytesIO()
        picture = picture.convert("P") if options.pop("palette", False) else picture
        picture.save(buffer, {"jpg": "JPEG", "tif": "TIFF"}.get(kind_of(name), "PNG"), **options)
        yield name, buffer.getvalue()
    yield _plain({"rows": grey.tolist()})


def _named(content: bytes) -> bytes:
    import pydicom

    data, buffer = pydicom.dcmread(io.BytesIO(content)), io.BytesIO()
    data.PatientName, data.PatientID, data.ReferringPhysicianName = f"{PATIENT}^JANE", f"{PATIENT}-1", PATIENT
    data.SeriesDescription = f"head of {PATIENT}"
    data.save_as(buffer)
    return buffer.getvalue()


def _compressed(values: np.ndarray, uid: str) -> bytes:
    import pydicom
    from PIL import Image
    from pydicom.encaps import encapsulate

    from domains.medical.samples import as_dicom

    data, buffer = pydicom.dcmread(io.BytesIO(as_dicom(900 * values, "MR", 4))), io.BytesIO()
    data.PatientName = PATIENT
    if uid.endswith(".5"):
        data.compress(uid)
    else:
        picture = io.BytesIO()
        Image.fromarray(np.round(255 * values).astype(np.uint8)).save(picture, "JPEG")
        data.BitsAllocated = data.BitsStored = 8
        data.HighBit, data.PixelRepresentation = 7, 0
        data.PixelData = encapsulate([picture.getvalue()])
        data["PixelData"].is_undefined_length = True
        data.file_meta.TransferSyntaxUID = uid
    data.save_as(buffer)
    return buffer.getvalue()


def _sar(root: Path) -> Files:
    import h5py
    import rasterio

    from domains.sar.samples import as_cosar, fields, simulate_slc

    image = np.round(simulate_slc(fields(80, 96, 0), 0))
    level = np.abs(image).astype(np.float32)
    for name, driver, bands, kind, options in (
        ("complex.tif", "GTiff", [image], "complex64", {}),
        ("integer.tiff", "GTiff", [image], "complex_int16", {}),
        ("tiled.tif", "GTiff", [level], "float32", {"tiled": True, "blockxsize": 32, "blockysize": 32, "nodata": 0}),
        ("deflate.tif", "GTiff", [level, level], "float32", {"compress": "deflate"}),
        ("x.ntf", "NITF", [image], "complex64", {}),
        ("x.png", "PNG", [np.clip(level / 4, 0, 255).astype(np.uint8)], "uint8", {}),
        ("x.jpg", "JPEG", [np.clip(level / 4, 0, 255).astype(np.uint8)], "uint8", {}),
    ):
        shape = {"height": 80, "width": 96, "count": len(bands), "dtype": kind}
        with rasterio.open(root / name, "w", driver=driver, **shape, **options) as file:
            for number, band in enumerate(bands, 1):
                file.write(band, number)
        yield from _read(root / name)
    np.save(root / "x.npy", image)
    np.save(root / "pairs.npy", np.stack([image.real, image.imag], -1).astype(np.int16))
    with h5py.File(root / "x.h5", "w") as file:
        pairs = np.empty(image.shape, [("r", "<f2"), ("i", "<f2")])
        pairs["r"], pairs["i"] = image.real, image.imag
        file.create_dataset("science/LSAR/RSLC/swaths/frequencyA/VV", data=pairs)
    with h5py.File(root / "iceye.h5", "w") as file:
        for name, part in (("s_i", image.real), ("s_q", image.imag)):
            file.create_dataset(name, data=part.astype(np.int16), chunks=(40, 48), compression="gzip")
    yield from _read(*(root / name for name in ("x.npy", "pairs.npy", "x.h5", "iceye.h5")))
    yield "x.cos", as_cosar(image)
    rows = level[:64, :64].round(1).tolist()
    yield _plain({"amplitude": rows})
    yield _plain({"real": rows, "imaginary": rows})


def _network(root: Path) -> Files:
    import itertools

    from domains.network import samples, writing

    paths = samples.write_samples(root)
    # The beginning of each is enough: a handful of flows.
    yield "scan.pcap", paths[2].read_bytes()[:20_000]
    yield "office.pcap", paths[0].read_bytes()[:20_000]
    calls = paths[1].read_bytes()
    yield "calls.pcapng", calls[:20_000]
    talk = [
        writing.Record(n * 10**7, writing.ip("192.0.2.1", "192.0.2.2", 17, writing.udp((5_000, 53), bytes(30))))
        for n in range(8)
    ]
    for order, nanoseconds in itertools.product("<>", (False, True)):
        name = f"{'le' if order == '<' else 'be'}{'-ns' * nanoseconds}"
        yield f"{name}.pcap", writing.pcap(talk, link=101, order=order, nanoseconds=nanoseconds)
        yield f"{name}.pcapng", writing.pcapng(talk, link=101, order=order)
    yield "rows.arrow", paths[3].read_bytes()


def _graphs(root: Path) -> Files:
    from domains.graphs import samples

    yield from _read(*samples.write_samples(root), *samples.write_graphs(root))
    edges = np.array([[0, 1, 1, 2], [1, 0, 2, 1]])
    np.savez(root / "x.npz", edge_index=edges, x=np.eye(3, dtype=np.float32))
    sparse = {"x_data": np.ones(3, np.float32), "x_indices": [0, 1, 2], "x_indptr": [0, 1, 2, 3], "x_shape": [3, 3]}
    np.savez_compressed(root / "csr.npz", edge_index=edges, y=np.arange(3), **sparse)
    yield from _read(root / "x.npz", root / "csr.npz")
    yield "x.txt", b"2\n3 0\n0 1 1\n0 2 0 2\n0 1 1\n2 1\n1 1 1\n1 1 0\n"
    yield "table.edges", b"source,target\n0,1\n1,2\n2,3\n"
    yield _plain({"edge_index": [[0, 1], [1, 2]], "x": [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]})
    yield _plain("CC(=O)Oc1ccccc1C(=O)O")
    yield _plain({"nodes": [{"id": 0}, {"id": 1}], "links": [{"source": 0, "target": 1}]})


MAKERS: dict[str, Callable[[Path], Files]] = {
    "speech": _speech,
    "music": _music,
    "eeg": _eeg,
    "medical": _medical,
    "sar": _sar,
    "network": _network,
    "graphs": _graphs,
}
