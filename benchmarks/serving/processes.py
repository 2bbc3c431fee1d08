"""Servers as processes: started, watched with all their children, and stopped."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

START_SECONDS = 240.0
STOP_SECONDS = 60.0


class ServerFailed(RuntimeError):
    """A server did not come up, or did not go; the message ends with its log."""


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclass
class Server:
    """A running server with its children.

    Attributes:
        process: The one that was started.
        url: Where it listens.
        log: File of what it writes.
    """

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def tree(self) -> list[psutil.Process]:
        """Return the process and all that it has started, as far as they live."""
        try:
            top = psutil.Process(self.process.pid)
            return [top, *top.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def cpu_seconds(self) -> float:
        """Return the CPU time of all its processes so far."""
        total = 0.0
        for process in self.tree():
            with suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def memory(self) -> int:
        """Return the resident bytes of all its processes."""
        total = 0
        for process in self.tree():
            with suppress(psutil.Error):
                total += process.memory_info().rss
        return total

    def files(self) -> int:
        """Return the open file descriptors of all its processes."""
        total = 0
        for process in self.tree():
            with suppress(psutil.Error):
                total += process.num_fds()
        return total

    def get(self, path: str) -> str:
        """Return the text at a path, for example ``/metrics``."""
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return answer.read().decode()

    def stop(self, number: int = signal.SIGTERM) -> list[str]:
        """End it; return the names of the processes that it left behind, which are then killed."""
        tree = self.tree()
        if self.process.poll() is None:
            self.process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_SECONDS)
        left = psutil.wait_procs(tree, timeout=5)[1]
        names = []
        for process in left:
            with suppress(psutil.Error):
                names.append(" ".join(process.cmdline())[:100] or process.name())
                process.kill()
        psutil.wait_procs(left, timeout=5)
        return names


@contextmanager
def running(
    command: Sequence[str], log: Path, environment: Mapping[str, str], port: int | None = None, health: str = "/"
) -> Iterator[Server]:
    """Start a server and yield it when it answers; stop it at the end.

    Args:
        command: What to run.
        log: Gets standard output and error.
        environment: On top of this process's.
        port: Where it will listen; where ``None``, it prints its URL.
        health: Path that answers 200 when it is ready.

    Raises:
        ServerFailed: It ended, or did not answer in time.
    """
    server = started(command, log, environment, port, health)
    try:
        yield server
    finally:
        server.stop()


def started(
    command: Sequence[str], log: Path, environment: Mapping[str, str], port: int | None = None, health: str = "/"
) -> Server:
    """Start a server and return it when it answers; see `running`."""
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **environment},
        )
    server = Server(process, "" if port is None else f"http://127.0.0.1:{port}", log)
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        time.sleep(0.05)
        if not server.url:
            found = re.search(r"http://[\d.]+:\d+", log.read_text(errors="replace"))
            server.url = found[0] if found else ""
        with suppress(OSError, urllib.error.URLError):
            if server.url and server.get(health) is not None:
                return server
    server.stop(signal.SIGKILL)
    raise ServerFailed(f"{' '.join(command)} did not start:\n{log.read_text(errors='replace')[-3000:]}")
