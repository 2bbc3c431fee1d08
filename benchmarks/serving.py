"""The service beside the model called in Python: what HTTP, batching and Ray Serve cost and save."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import hub
from benchmarks.measure import Result, side_by_side
from hub.domain import get_domain
from serving.client import Client


@contextmanager
def served(backend: str) -> Iterator[str]:
    """Run ``fmhub serve`` on a free port and yield its address."""
    command = [sys.executable, "-m", "hub.cli", "serve", "tera-tiny", "--port", "0", "--backend", backend]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield next(m[0] for line in process.stdout if (m := re.search(r"http://[\d.]+:\d+", line)))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def run() -> list[Result]:
    """One short file: in Python, under uvicorn, under Ray Serve; one a request, 32 a request, 16 requests at once."""
    embedder = hub.from_pretrained("tera-tiny")
    results = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        file = get_domain("speech").load("samples")(folder)[0]
        clients = {
            name: stack.enter_context(Client(stack.enter_context(served(backend))))
            for name, backend in (("uvicorn", "local"), ("Ray Serve", "ray"))
        }
        single = {"hub in Python": lambda: embedder.embed(file)}
        many = {"hub in Python": lambda: embedder.embed([file] * 32)}
        pool = stack.enter_context(ThreadPoolExecutor(16))
        crowd = {"hub in Python": lambda: [embedder.embed(file) for _ in range(16)]}
        for name, client in clients.items():
            single[name] = lambda c=client: c.embed("tera-tiny", file)
            many[name] = lambda c=client: c.embed("tera-tiny", [file] * 32)
            crowd[name] = lambda c=client: list(pool.map(lambda _: c.embed("tera-tiny", file), range(16)))
        results.append(side_by_side("one file in one request", single, repeats=10))
        results.append(side_by_side("32 files in one request", many))
        results.append(side_by_side("16 requests at once, one file each", crowd))
    return results
