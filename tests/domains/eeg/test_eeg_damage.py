"""Random damage to every format: a clear refusal or a finite signal, and never anything else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from domains.eeg.formats.common import Limits
from domains.eeg.formats.edf_header import BDF_MAGIC, EDF_MAGIC, read_header
from domains.eeg.formats.fif import MAGIC as FIF_MAGIC
from domains.eeg.reading import EegReader
from domains.eeg.samples import simulate, write_brainvision, write_csv, write_fif, write_npy, write_set
from domains.eeg.writing import bdf_bytes, edf_bytes
from hub.errors import InvalidInput
from hub.reading import Source

READER = EegReader(max_values=1 << 20)
LIMITS = Limits(1 << 30, 512, 86_400.0, 1 << 28, 50.0, 50_000.0)
SMALL = simulate(("Fp1", "Cz", "O2"), 128.0, 3.0)
HEADER = 256 * 5
Edits = st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=9)), min_size=1, max_size=3)
FIELDS = st.one_of(
    st.integers(-(10**9), 10**10).map(str),
    st.sampled_from(["", "nan", "inf", "-inf", "1e99", "-1", "0", "1e-9", "0x10", "1_0", "١", "1,5", "65536"]),
    st.text(max_size=8),
)
often = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
seldom = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def answer(content: bytes, name: str) -> None:
    try:
        (sample,) = READER.read(Source.from_bytes(content, name))
    except InvalidInput as error:
        assert len(error.message) > 10
    else:
        assert np.isfinite(sample.data.signal).all() and sample.data.signal.size


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("small")
    paths: list[Path] = [
        write_csv(folder / "x.csv", SMALL),
        write_npy(folder / "x.npy", SMALL),
        write_set(folder / "x.set", SMALL),
        write_fif(folder / "x_raw.fif", SMALL),
        write_brainvision(folder / "x.vhdr", SMALL),
    ]
    return {path.suffix: path.read_bytes() for path in paths} | {".edf": edf_bytes(SMALL), ".bdf": bdf_bytes(SMALL)}


def edited(content: bytes, edits: list[tuple[float, bytes]], within: int) -> bytes:
    changed = bytearray(content)
    for place, piece in edits:
        start = int(place * max(within - len(piece), 0))
        changed[start : start + len(piece)] = piece
    return bytes(changed)


@often
@given(edits=Edits, within_header=st.booleans(), suffix=st.sampled_from([".edf", ".bdf"]))
def test_damaged_edf(contents: dict[str, bytes], edits: list, within_header: bool, suffix: str) -> None:
    content = contents[suffix]
    answer(edited(content, edits, HEADER if within_header else len(content)), "x" + suffix)


@often
@given(
    place=st.sampled_from([184, 236, 244, 252, *range(256 + 4 * 96, 256 + 4 * 144, 8), *range(1120, 1152, 8)]),
    text=FIELDS,
)
@example(place=244, text="1e-300")
@example(place=1120, text="0")
@example(place=640, text="1e308")
def test_edf_fields_that_hold_anything(contents: dict[str, bytes], place: int, text: str) -> None:
    field = text.encode("utf-8")[:8].ljust(8)
    answer(contents[".edf"][:place] + field + contents[".edf"][place + 8 :], "x.edf")


@often
@given(st.sampled_from([EDF_MAGIC, BDF_MAGIC]), st.binary(max_size=2000))
def test_an_edf_header_of_any_bytes_is_refused_or_consistent(magic: bytes, rest: bytes) -> None:
    source = Source.from_bytes(magic + rest, "x")
    try:
        header = read_header(source, LIMITS)
    except InvalidInput:
        return
    assert header.data_offset + header.records * header.record_bytes <= source.size


@seldom
@given(edits=Edits, suffix=st.sampled_from([".csv", ".npy", ".set", ".fif", ".vhdr"]), keep=st.floats(0.2, 1.5))
def test_damaged_files_of_other_formats(contents: dict[str, bytes], edits: list, suffix: str, keep: float) -> None:
    content = contents[suffix]
    answer(edited(content, edits, min(len(content), 2000))[: int(len(content) * keep)], "x" + suffix)


@seldom
@given(
    st.binary(max_size=300),
    st.sampled_from([b"", FIF_MAGIC, b"\x93NUMPY\x01\x00", b"PK\x03\x04", b"MATLAB 5.0 MAT-file"]),
)
def test_any_bytes_at_all(rest: bytes, magic: bytes) -> None:
    answer(magic + rest, "x")


@seldom
@given(st.text(alphabet="0123456789.,;- \n\tCz%e", min_size=1, max_size=200))
def test_any_table(text: str) -> None:
    answer(text.encode(), "x.csv")
