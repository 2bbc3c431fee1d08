"""The servers that are compared, and the plan by which the load client talks to each of them."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.serving.processes import Server, free_port, running

MODEL = "tera-tiny"

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Contender:
    """A server of the comparison.

    Attributes:
        name: In the tables.
        path: That takes the upload.
        answer: Where the vectors stand in an answer; see `benchmarks.serving.loadclient.vectors_in`.
        fields: Text fields of the upload, beside the files.
    """

    name: str
    path: str
    answer: tuple[str, ...]
    fields: Mapping[str, str] | None = None


_OURS = (f"/v1/models/{MODEL}/embeddings", ("data", "embedding"))

CONTENDERS = {
    c.name: c
    for c in (
        Contender("local", *_OURS),
        Contender("ray", *_OURS),
        Contender("fastapi", "/embed", ("embeddings",)),
        Contender("litserve", "/embed", ("embeddings",)),
        Contender("bentoml", "/embed", ()),
    )
}


def available(bentoml_python: str | None) -> list[str]:
    """Return the names of the contenders that can run here.

    Args:
        bentoml_python: Python of an environment that has BentoML; this one unless given.
    """
    found = ["local", "ray", "fastapi"]
    if importlib.util.find_spec("litserve"):
        found.append("litserve")
    if bentoml_python or importlib.util.find_spec("bentoml"):
        found.append("bentoml")
    return found


@contextmanager
def serving(name: str, folder: Path, threads: int, bentoml_python: str | None = None) -> Iterator[Server]:
    """Run a contender.

    Args:
        name: Of `CONTENDERS`.
        folder: For its log.
        threads: Of torch, the same for all.
        bentoml_python: See `available`.
    """
    environment = {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    port: int | None = free_port()
    health = "/"
    if name in ("local", "ray"):
        command = [sys.executable, "-m", "hub.cli", "serve", MODEL, "--port", "0", "--backend", name]
        environment |= {"FMHUB_SERVE_TORCH_THREADS": str(threads), "RAY_USAGE_STATS_ENABLED": "0"}
        port, health = None, "/readyz"
    elif name == "bentoml":
        target = "benchmarks.serving.peer_bentoml:Embedding"
        command = [bentoml_python or sys.executable, "-m", "bentoml", "serve", target, "--port", str(port)]
        environment |= {"BENCH_MODEL": MODEL, "BENCH_THREADS": str(threads), "BENTOML_DO_NOT_TRACK": "True"}
        health = "/readyz"
    else:
        command = [sys.executable, "-m", f"benchmarks.serving.peer_{name}", str(port), MODEL, str(threads)]
        health = "/health" if name == "litserve" else "/"
    with running(command, folder / f"{name}.log", environment, port, health) as server:
        yield server


@contextmanager
def echo(folder: Path, answer_bytes: int) -> Iterator[Server]:
    """Run the server that only reads and answers."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.serving.peer_echo", str(port), str(answer_bytes)]
    with running(command, folder / "echo.log", {"PYTHONPATH": str(ROOT)}, port) as server:
        yield server


def load(plan: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Let the load client run a plan, in its own process, and return its result.

    Args:
        plan: ``url``, ``bodies``, ``seconds``, and ``clients`` (closed loop) or ``rate`` (open loop, requests a
            second); where answers are to be looked at, ``answer`` and ``expected``.
        folder: For the plan.
    """
    path = folder / "plan.json"
    path.write_text(json.dumps(plan))
    command = [sys.executable, "-m", "benchmarks.serving.loadclient", str(path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=ROOT)
    return json.loads(done.stdout)
