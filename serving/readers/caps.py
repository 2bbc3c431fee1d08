"""What reading one file may take, and how a process is held to it."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

_SET_DEATH_SIGNAL, _SET_NO_NEW_PRIVILEGES, _SET_SUBREAPER = 1, 38, 36
"""Operations of Linux's prctl(2)."""
_FIRST_TO_GO = 500
"""Of 1000; when memory runs out, the kernel takes a reader before the server."""
TIRED_SHARE = 4
"""A process that has kept this part of its memory cap between files is replaced."""

PROCESSES = sys.platform == "linux"
"""Whether this platform has what reader processes need: fork, process file descriptors, death signals."""


@dataclass(frozen=True)
class Caps:
    """What reading may take.

    Attributes:
        output_bytes: Most that the samples of one input may take, prepared.
        seconds: Most that one sample may take; ``None`` for no end.
        memory_bytes: Most that a process may take beyond what it starts with, and most that it may write to one file;
            ``None`` for no end.
    """

    output_bytes: int
    seconds: float | None = None
    memory_bytes: int | None = None


def adopt_orphans() -> None:
    """Become the parent of processes whose parents die below this one, so that they can be found and ended."""
    _prctl(_SET_SUBREAPER, 1)


def confine(caps: Caps, folder: Path, keep: Collection[int], parent: int) -> None:
    """Hold the calling process, forked a moment ago, to the caps and cut it off from what it does not need.

    It dies with its parent, writes no core files, keeps no open files but those given, reads and prints nothing, gains
    no privileges by what it starts, and has its temporary files in a folder of its own.

    Args:
        caps: See there.
        folder: For temporary files.
        keep: File descriptors to leave open.
        parent: Process id of the process it was forked from.
    """
    os.setsid()
    _prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it died before it could be told
    _prctl(_SET_NO_NEW_PRIVILEGES, 1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    for opened in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        if opened > 2 and opened not in keep:
            _close(opened)
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    os.chdir(folder)
    Path("/proc/self/oom_score_adj").write_text(str(_FIRST_TO_GO))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if caps.memory_bytes is not None:
        most = data_bytes() + caps.memory_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
        resource.setrlimit(resource.RLIMIT_FSIZE, (caps.memory_bytes, caps.memory_bytes))


def data_bytes() -> int:
    """Return how much private memory the calling process has reserved: what ``RLIMIT_DATA`` counts."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    raise OSError("the kernel does not say how much memory this process has reserved")


def _close(opened: int) -> None:
    try:
        os.close(opened)
    except OSError:
        pass  # the one that the folder was listed with


def _prctl(operation: int, value: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(operation, ctypes.c_ulong(value), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
