"""Starting the nursery, with nothing imported but the standard library: it imports for seconds, and so does a server.

A program that will serve calls `launch_early` before its own imports, and both import at the same time.
"""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
from dataclasses import dataclass

_KEPT = frozenset("PATH HOME USER LANG TZ TMPDIR LD_LIBRARY_PATH SSL_CERT_FILE VIRTUAL_ENV CONDA_PREFIX".split())
_KEPT_GROUPS = ("LC_", "PYTHON", "GDAL_", "PROJ_", "XDG_", "MNE_", "FMHUB_CACHE", "MALLOC_", "NUMBA_")
# One thread each: many of them run at once, and a process with threads cannot be forked safely.
_THREADS = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS", "NUMEXPR")}
_THREADS["JE_ARROW_MALLOC_CONF"] = "background_thread:false"
_START = "import sys; sys.path[:] = {path!r}; from serving.readers.nursery import main; main({control})"


@dataclass(frozen=True)
class Launched:
    """A nursery that was started.

    Attributes:
        process: It.
        control: Socket to it.
    """

    process: subprocess.Popen[bytes]
    control: socket.socket


_early: list[Launched] = []


def launch() -> Launched:
    """Start a nursery.

    Raises:
        OSError: It cannot be started.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(  # nosec B603  # this interpreter, without a shell
            [sys.executable, "-c", _START.format(path=sys.path, control=theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=_environment(),
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    return Launched(process, ours)


def launch_early() -> None:
    """Start the nursery that `take` will return; it is ended with this process if nobody takes it."""
    if not _early:
        _early.append(launch())
        atexit.register(_end_early)


def take() -> Launched:
    """Return the nursery that was started early, or a new one."""
    return _early.pop() if _early else launch()


def _end_early() -> None:
    for launched in _early:
        launched.control.close()
        launched.process.kill()
        launched.process.wait()
    _early.clear()


def _environment() -> dict[str, str]:
    """Return what a reader may know of this process's environment: no keys and tokens."""
    kept = {k: v for k, v in os.environ.items() if k in _KEPT or k.startswith(_KEPT_GROUPS)}
    return {**kept, **_THREADS}
