"""``fmhub demo``: the whole way once, from native files to neighbours, against a server of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from serving.client import Client, Embeddings


def demo(
    backend: Annotated[str, typer.Option(help="ray or local, as for serve.")] = "ray",
) -> None:
    """Start the server, send it one native file of each domain, print what came back, stop.

    Each domain's sample files are written to a temporary folder; the nearest neighbour is the most similar other
    sample among them, by cosine.
    """
    from rich.console import Console
    from rich.table import Table

    from hub.domain import get_domain
    from hub.errors import HubError
    from serving.client import Client

    table = Table("model", "file", "items", "dimension", "time", "nearest neighbour")
    with tempfile.TemporaryDirectory(prefix="fmhub-demo-") as folder, _server(backend) as url, Client(url) as client:
        for entry in client.models():
            domain = get_domain(client.model(entry["id"])["domain"])
            files = domain.load("samples")(Path(folder))
            table.add_row(*_row(client, entry["id"], _taken(client, entry["id"], files)))
        if not table.row_count:
            raise HubError("the server serves no model")
        Console(width=120).print(table)


def _taken(client: Client, model: str, files: list[Path]) -> list[Path]:
    """Return the files that the model takes: of a domain's samples some may be for another of its systems."""
    found = client.embed(model, files, on_error="collect")
    refused = {error.input for error in found.errors}
    return [file for number, file in enumerate(files) if number not in refused]


def _row(client: Client, model: str, files: list[Path]) -> list[str]:
    client.embed(model, files[0])  # a first request also pays for whatever warms up late
    started = time.perf_counter()
    asked = client.embed(model, files[0])
    spent = time.perf_counter() - started
    count, dimension = asked.vectors.shape  # type: ignore[union-attr]
    neighbour = _nearest(client.embed(model, files), 0, files)
    return [model, files[0].name, str(count), str(dimension), f"{spent * 1000:.0f} ms", neighbour]


def _nearest(found: Embeddings, asked: int, files: list[Path]) -> str:
    import numpy as np

    # Centred first: embeddings share a large common part that would make all cosines look alike. Of two the mean lies
    # between them, and tells nothing.
    vectors: Any = np.asarray(found.vectors, np.float64)
    if len(vectors) > 2:
        vectors = vectors - vectors.mean(0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-12
    similarity = vectors @ vectors[asked]
    similarity[asked] = -np.inf
    best = int(similarity.argmax())
    item = found.items[best]
    name = files[item.input].name + (f" [{item.key}]" if item.key else "")
    return f"{name} (cosine {similarity[best]:+.2f})"


@contextmanager
def _server(backend: str) -> Iterator[str]:
    """Run ``fmhub serve`` on a free port and yield its address; stop it at the end."""
    from hub.errors import HubError

    command = [sys.executable, "-m", "hub.cli", "serve", "--port", "0", "--backend", backend]
    quiet = {**os.environ, "FMHUB_SERVE_LOG_REQUESTS": "false"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=quiet)  # nosec B603  # this program
    assert process.stdout is not None
    try:
        started = time.monotonic()
        for line in process.stdout:
            address = re.search(r"https?://[\w.:\[\]]+", line)
            if address:
                typer.echo(f"the server was ready after {time.monotonic() - started:.0f} s", err=True)
                yield address[0]
                return
        raise HubError(f"the server stopped before it was ready (exit code {process.wait()})")
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
