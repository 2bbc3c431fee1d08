"""Mutated files in small numbers, and that what they look for would be found; ``python -m tests.fuzz`` runs many."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import psutil
import pytest
import soundfile

from tests.fuzz.children import Children
from tests.fuzz.mutations import mutated
from tests.fuzz.packing import packed_of, sealed
from tests.fuzz.seeds import PATIENT, Seed
from tests.fuzz.trial import Trial, _fault_of, _finite

ROOT = Path(__file__).resolve().parents[2]


def fuzz(*options: str) -> None:
    """Run the command; what it prints says what is wrong."""
    command = [sys.executable, "-m", "tests.fuzz", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1_200)
    assert done.returncode == 0, done.stdout[-6_000:] + done.stderr[-2_000:]
    assert "outcomes: " in done.stdout


def test_some_mutated_files_are_refused_clearly_or_read(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    fuzz("--files", "700", "--log", str(log))
    trials = [Trial(**json.loads(line)) for line in log.read_text().splitlines()]
    outcomes = Counter(t.outcome for t in trials)
    assert sorted(t.number for t in trials) == list(range(700))
    # Were hardly any accepted, the damage would never get past the first bytes.
    assert outcomes["refused"] > 300 and outcomes["accepted"] + outcomes["flagged"] + outcomes["partial"] > 70


@pytest.mark.slow
def test_many_mutated_files_are_refused_clearly_or_read(shared_data: Path) -> None:
    fuzz("--files", "8000", "--seed", "1", "--data", str(shared_data))


def trial(number: int) -> Trial:
    if number == 1:
        os.kill(os.getpid(), signal.SIGSEGV)
    if number == 2:
        time.sleep(30)
    if number == 3:
        try:
            np.ones(1 << 28)
        except MemoryError:
            return Trial(number, "", "", "", "memory")
    if number == 4:
        raise KeyError("ours")
    if number == 5:
        os._exit(3)
    return Trial(number, "", "", "", "accepted")


def test_children_that_die_hang_or_eat_are_told_from_those_that_answer(tmp_path: Path) -> None:
    before = set(psutil.Process().children())
    children = Children(trial, jobs=2, memory=256 << 20, folder=tmp_path, hang=1.0)
    found = {t.number: t for t in children.run(range(8))}
    outcomes = [found[n].outcome for n in range(8)]
    assert outcomes == ["accepted", "crash", "hang", "memory", "crash", "crash", "accepted", "accepted"]
    assert [found[1].detail, found[5].detail] == ["SIGSEGV", "exit 3"] and "KeyError" in found[4].detail
    assert set(psutil.Process().children()) <= before


def test_what_an_answer_must_not_hold_is_noticed() -> None:
    for text in ("/tmp/x.dcm cannot be read", f"name {PATIENT}", "bad", "a NUL \0 in the message"):
        assert _fault_of(text)
    assert not _fault_of("x.dcm: the file is cut off; send it whole")
    assert not _finite([{"a": np.array([1, np.nan])}]) and _finite((np.arange(3), 1.5, None))


def test_a_file_is_known_by_its_number_and_unlike_the_others() -> None:
    seed = Seed("network", "pcap", "x.pcap", b"\xd4\xc3\xb2\xa1" + bytes(200))
    first = [mutated(seed, [seed], Random(f"0/{n}")) for n in range(60)]
    assert first == [mutated(seed, [seed], Random(f"0/{n}")) for n in range(60)]
    assert len({content for content, _ in first}) > 40


def test_archives_are_opened_and_closed_with_checksums_that_fit() -> None:

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a", b"1")
    packed = packed_of(buffer.getvalue())
    assert packed is not None
    packed.members["a"] = b"2"
    with zipfile.ZipFile(io.BytesIO(packed.closed(Random(0)))) as archive:
        assert archive.read("a") == b"2" and archive.testzip() is None
    unpacked = packed_of(gzip.compress(b"3"))
    assert unpacked is not None and gzip.decompress(unpacked.closed(Random(0))) == b"3"
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(8_000), 8_000, format="OGG")
    content = bytearray(buffer.getvalue())
    assert sealed(bytes(content)) == bytes(content)
    content[40] ^= 1
    assert sealed(bytes(content)) != bytes(content)
