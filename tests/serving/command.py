"""``fmhub serve`` as a process of its own, over dummy models."""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAIN = """
import sys, typer
from serving.cli import serve
from hub.errors import HubError
try:
    typer.run(serve)
except HubError as error:
    sys.exit(f"fmhub: {error}")
"""


class Command:
    """``fmhub serve`` in a process group of its own, as a terminal starts it."""

    def __init__(self, tmp_path: Path, *arguments: str, settings: str = "") -> None:
        config = tmp_path / "service.yaml"
        config.write_text(
            "models: [dummy, org/other]\nembedder_factory: 'arithmetic:load'\nport: 0\ntorch_threads: 1\n"
            "ray: {num_cpus: 0, object_store_memory: 80000000}\n" + settings
        )
        path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
        self.process = subprocess.Popen(
            [sys.executable, "-c", MAIN, "--config", str(config), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": path, "FMHUB_TEST_MARK": str(tmp_path)},
            start_new_session=True,
        )
        # A test that fails halfway leaves none behind.
        atexit.register(self.process.kill)
        self.output = ""
        self._mark = f"FMHUB_TEST_MARK={tmp_path}".encode()

    def wait_ready(self) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line
            if "curl" in line:
                break
        found = re.search(r"at (https?://\S+)", self.output)
        assert found is not None, self.output
        return found[1]

    def read(self) -> str:
        """What it has said so far."""
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        with contextlib.suppress(TypeError):  # nothing new
            self.output += self.process.stdout.read() or ""
        os.set_blocking(self.process.stdout.fileno(), True)
        return self.output

    def stop(self, number: signal.Signals) -> int:
        if number == signal.SIGINT:
            # To the whole group, as Ctrl-C in a terminal does.
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)
        self.output += self.process.communicate(timeout=30)[0]
        return self.process.returncode

    @property
    def left(self) -> list[str]:
        """Processes started by the command, at any remove: they have inherited its environment."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if self._mark in (process / "environ").read_bytes():
                    found.append((process / "cmdline").read_text())
        return found
