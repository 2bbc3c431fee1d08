"""The dummy embedder with a reader that does to its process what hostile files do: ``POISON kind`` as a plain value."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from arithmetic import ArithmeticEmbedder, NumberProcessor, NumberReader, load
from torch import Tensor

from hub.embedder import Embedder, Intake
from hub.errors import InvalidInput
from hub.modeling import TaskFile
from hub.reading import Sample
from serving.inputs import Input
from serving.readers import frames, wire


def _allocate() -> None:
    kept = []
    while True:
        kept.append(bytearray(1 << 24))


def _fill_the_disk() -> None:
    with Path("large").open("wb") as stream:
        stream.truncate(1 << 40)


def _leave_processes_behind() -> None:
    subprocess.Popen(["sleep", "1234"], start_new_session=True)
    if not os.fork():
        time.sleep(1234)
    os._exit(3)


def _connection() -> socket.socket:
    for entry in Path("/proc/self/fd").iterdir():
        if str(entry.readlink()).startswith("socket:"):
            return socket.socket(fileno=int(entry.name))
    raise AssertionError("no socket")


def _answer_with_a_pickle() -> None:
    frames.send(_connection(), b"cos\nsystem\n(S'touch /tmp/fmhub-was-here'\ntR.")
    time.sleep(1234)


def _answer_with_a_class() -> None:
    forged = b'{"prepared": [["t", 0, ["r", "subprocess:Popen", "x"]]], "finished": true, "seconds": 0.0}'
    frames.send(_connection(), forged)
    time.sleep(1234)


def _announce_a_terabyte() -> None:
    _connection().send((1).to_bytes(8, "little") + (1 << 40).to_bytes(8, "little"))
    time.sleep(1234)


def _tell_what_it_has() -> None:
    opened = sorted(str(e.readlink()).partition(":")[0] for e in Path("/proc/self/fd").iterdir() if e.exists())
    secrets = [name for name in os.environ if "SECRET" in name]
    raise InvalidInput(f"{opened} {secrets} {Path.cwd().stat().st_mode & 0o777:o}", code="told")


KINDS: dict[str, Callable[[], Any]] = {
    "exit": lambda: os._exit(7),
    "segfault": lambda: ctypes.string_at(0),
    "abort": os.abort,
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "memory": _allocate,
    "tensor": lambda: torch.ones(1 << 36, dtype=torch.uint8),
    "disk": _fill_the_disk,
    "sleep": lambda: time.sleep(1234),
    "loop": lambda: sum(range(1 << 60)),
    "print": lambda: (os.write(1, b"x" * 100_000), os.write(2, b"y" * 100_000), print("z", file=sys.stderr)),
    "processes": _leave_processes_behind,
    "pickle": _answer_with_a_pickle,
    "class": _answer_with_a_class,
    "terabyte": _announce_a_terabyte,
    "told": _tell_what_it_has,
    "huge": lambda: None,
    "unsendable": lambda: None,
}


class PoisonReader(NumberReader):
    def parse(self, value: Any, name: str = "input") -> Iterator[Sample]:
        if not isinstance(value, str) or not value.startswith("POISON "):
            yield from super().parse(value, name)
            return
        kind, _, once = value.removeprefix("POISON ").partition(" once ")
        if not once or not Path(once).exists():
            if once:
                Path(once).touch()
            KINDS[kind]()
        yield Sample([1.0], kind if kind in ("huge", "unsendable") else "")


class PoisonProcessor(NumberProcessor):
    def prepare(self, sample: Sample) -> Any:
        if sample.key == "huge":
            return torch.zeros(1 << 24)
        if sample.key == "unsendable":
            return object()
        if sample.data[0] == 1e6:
            time.sleep(0.004)  # a sample that takes its time
        return super().prepare(sample)

    def pad(self, features: Any) -> dict[str, Tensor]:
        return super().pad(features)

    def reader(self) -> PoisonReader:
        return PoisonReader()


def load_poisoned(name: str, **options: Any) -> Embedder:
    """Stand in for hub.from_pretrained."""
    plain = load(name, **options)
    embedder = ArithmeticEmbedder.__new__(ArithmeticEmbedder)
    vars(embedder).update(vars(plain), processor=PoisonProcessor(), reader=PoisonReader())
    return embedder


def first_number(intake: Intake, item: Input, place: str, unit: str = "") -> Any:
    """Be what a preview is: a function of an input."""
    sample = next(item.samples(intake, place))
    if sample.data[0] == 13.0:
        raise InvalidInput("no number to show", code="unlucky")
    if sample.data[0] == 14.0:
        os.abort()
    return TaskFile(f"{sample.data[0]}{unit}".encode(), "text/plain", f"{wire.__name__}.txt")
