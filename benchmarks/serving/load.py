"""Our service beside its peers: the same model, files, threads and load, in turn within each round.

``python -m benchmarks.serving.load [--rounds 5] [--seconds 8] [--bentoml-python VENV/bin/python] [--json FILE]``

All servers run from the start, idle while another is measured. What is reported: requests a second and latencies by
number of clients; embeddings a second over what ``embedder.embed`` does in this process with the same files in memory;
CPU time of the server and of the client for each embedding; the largest difference of any answer from Python.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import hub
from benchmarks.serving.clips import Body, expected_vectors, full_bodies, make_clips, single_bodies, sources, written
from benchmarks.serving.contenders import CONTENDERS, MODEL, available, echo, load, serving
from benchmarks.serving.figures import percentiles, ratio_of_medians, spread, table
from benchmarks.serving.processes import Server

TOLERANCE = 1e-5
CEILING = "python"
WARM_UP_SECONDS, LEAD_SECONDS = 4.0, 2.0
"""Load that does not count: once at the start, and before each measurement of single inputs."""
ECHO_ANSWERS = {1: 5_000, 32: 130_000}
"""Bytes of an answer with so many embeddings, about."""


@dataclass
class Settings:
    """Of one run.

    Attributes:
        contenders: Names.
        clients: Numbers of clients.
        rounds: That count.
        seconds: Of each measurement, at least.
        threads: Of torch.
        bentoml_python: See `benchmarks.serving.contenders.available`.
    """

    contenders: list[str]
    clients: list[int] = field(default_factory=lambda: [1, 16, 64])
    rounds: int = 5
    seconds: float = 8.0
    threads: int = 1
    bentoml_python: str | None = None


@dataclass(frozen=True)
class Cell:
    """What is measured: so many inputs a request, from so many clients at once."""

    inputs: int
    clients: int

    def __str__(self) -> str:
        return f"{self.inputs} input{'s' if self.inputs > 1 else ''}, {self.clients} client{'s' * (self.clients > 1)}"


class Comparison:
    """The servers of a run, and what has been measured of them."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        """Make inputs and their vectors.

        Args:
            settings: Of the run.
            folder: For logs and bodies.
        """
        self.settings = settings
        self.measured: list[dict[str, Any]] = []
        self._folder = folder
        torch.set_num_threads(settings.threads)
        self._embedder = hub.from_pretrained(MODEL)
        clips = make_clips()
        self._sources = sources(clips)
        np.save(folder / "expected.npy", expected_vectors(self._embedder, clips))
        self._bodies: dict[tuple[int, str], list[dict[str, Any]]] = {}
        for name in settings.contenders:
            fields = dict(CONTENDERS[name].fields or {})
            for inputs, bodies in ((1, single_bodies(clips, fields)), (len(clips), full_bodies(clips, fields))):
                self._bodies[inputs, name] = written(bodies, folder / f"{name}-{inputs}")
        self.sizes = {n: len(b[0].content) for n, b in ((1, single_bodies(clips)), (32, full_bodies(clips)))}
        self._full: list[Body] = full_bodies(clips)

    def run(self) -> None:
        """Start all servers, and measure every cell with each of them in turn, round after round."""
        settings = self.settings
        cells = [Cell(inputs, clients) for inputs in (1, 32) for clients in settings.clients]
        with ExitStack() as stack:
            servers = {
                name: stack.enter_context(serving(name, self._folder, settings.threads, settings.bentoml_python))
                for name in settings.contenders
            }
            for server_name, server in servers.items():
                for cell in (Cell(32, 4), Cell(1, 1), Cell(1, 16)):
                    self._load(server_name, server, cell, WARM_UP_SECONDS)
            self.idle = {name: _idle_share(server) for name, server in servers.items()}
            for number in range(settings.rounds):
                for cell in cells:
                    if cell.clients == settings.clients[0]:
                        self._note(number, Cell(cell.inputs, 1), CEILING, self._in_process(cell.inputs))
                    for name, server in servers.items():
                        if cell.inputs == 1:
                            # What has learnt from other traffic gets a moment to learn from this.
                            self._load(name, server, cell, LEAD_SECONDS)
                        self._note(number, cell, name, self._load(name, server, cell, settings.seconds))
                print(f"round {number + 1} of {settings.rounds} done", flush=True)
        self.client = self._client_alone()

    def _note(self, number: int, cell: Cell, name: str, found: dict[str, Any]) -> None:
        self.measured.append({"round": number, "inputs": cell.inputs, "clients": cell.clients, "name": name, **found})

    def _load(self, name: str, server: Server, cell: Cell, seconds: float) -> dict[str, Any]:
        contender = CONTENDERS[name]
        plan = {
            "url": server.url + contender.path,
            "bodies": self._bodies[cell.inputs, name],
            "answer": list(contender.answer),
            "expected": str(self._folder / "expected.npy"),
            "clients": cell.clients,
            "seconds": seconds,
        }
        before = server.cpu_seconds()
        found = load(plan, self._folder)
        cpu = server.cpu_seconds() - before
        count = max(1, found["embeddings"])
        return {
            "requests_per_s": found["statuses"].get("200", 0) / found["seconds"],
            "embeddings_per_s": found["embeddings"] / found["seconds"],
            **{p: 1000 * v for p, v in percentiles(found["latencies"]).items()},
            "server_cpu_ms": 1000 * cpu / count,
            "client_cpu_ms": 1000 * found["client_cpu_seconds"] / count,
            "failed": sum(n for status, n in found["statuses"].items() if status != "200"),
            "why_failed": found["first_refusal"],
            "difference": found["difference"],
        }

    def _in_process(self, inputs: int) -> dict[str, Any]:
        """Embed the same files in this process: all in one call, or one a call."""
        calls = [self._sources] if inputs > 1 else [[source] for source in self._sources]
        done, started, cpu = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - started < self.settings.seconds:
            for call in calls:
                self._embedder.embed(call)
            done += len(self._sources)
        rate = done / (time.perf_counter() - started)
        cpu_ms = 1000 * (time.process_time() - cpu) / done
        return {"requests_per_s": rate / inputs, "embeddings_per_s": rate, "server_cpu_ms": cpu_ms}

    def _client_alone(self) -> list[dict[str, Any]]:
        """Measure the load client against a server that only reads and answers."""
        found = []
        for inputs, size in ECHO_ANSWERS.items():
            with echo(self._folder, size) as server:
                name = self.settings.contenders[0]
                plan = {"url": server.url + "/", "bodies": self._bodies[inputs, name], "clients": 16, "seconds": 3}
                result = load(plan, self._folder)
                rate = result["embeddings"] / result["seconds"]
                found.append({"inputs": inputs, "requests_per_s": rate / inputs, "embeddings_per_s": rate})
        return found


def _idle_share(server: Server, seconds: float = 3.0) -> float:
    """Return the share of one core that a server takes while nobody asks it anything."""
    before = server.cpu_seconds()
    time.sleep(seconds)
    return (server.cpu_seconds() - before) / seconds


def summary(comparison: Comparison) -> list[dict[str, Any]]:
    """Return medians over the rounds with their spread, and ratios to the model called in Python."""
    measured = comparison.measured
    ceilings = {
        n: [m["embeddings_per_s"] for m in measured if m["name"] == CEILING and m["inputs"] == n] for n in (1, 32)
    }
    cells = dict.fromkeys((m["inputs"], m["clients"], m["name"]) for m in measured)
    rows = []
    for inputs, clients, name in sorted(cells, key=lambda c: c[:2]):
        of = [m for m in measured if (m["inputs"], m["clients"], m["name"]) == (inputs, clients, name)]
        rate = [m["embeddings_per_s"] for m in of]
        row: dict[str, Any] = {"inputs": inputs, "clients": clients, "name": name}
        row |= {
            key: spread(m[key] for m in of)
            for key in ("requests_per_s", "embeddings_per_s", "p50", "p95", "p99", "server_cpu_ms", "client_cpu_ms")
            if key in of[0]
        }
        row["over_ceiling"] = ratio_of_medians(rate, ceilings[32])
        row["failed"] = sum(m.get("failed", 0) for m in of)
        row["difference"] = max((m["difference"] for m in of if m.get("difference") is not None), default=None)
        rows.append(row)
    return rows


def shown(rows: list[dict[str, Any]]) -> str:
    """Return the summary as tables, one for each number of inputs."""
    parts = []
    for inputs in (1, 32):
        lines = []
        for row in (r for r in rows if r["inputs"] == inputs):
            ratio = row["over_ceiling"]
            line: dict[str, Any] = {"clients": row["clients"], "server": row["name"]}
            for key, title in (
                ("requests_per_s", "req/s"), ("p50", "p50 ms"), ("p95", "p95 ms"), ("p99", "p99 ms"),
                ("embeddings_per_s", "emb/s"), ("server_cpu_ms", "CPU ms/emb"), ("client_cpu_ms", "client ms/emb"),
            ):  # fmt: skip
                line[title] = row[key]["median"] if key in row else float("nan")
            line["over ceiling"] = f"{ratio['median']:.2f} ({ratio['lowest']:.2f} to {ratio['highest']:.2f})"
            line["failed"] = row["failed"]
            line["difference"] = "" if row["difference"] is None else f"{row['difference']:.0e}"
            lines.append(line)
        parts.append(f"{inputs} input{'s' if inputs > 1 else ''} in a request\n{table(lines)}")
    return "\n\n".join(parts)


def measure(settings: Settings) -> dict[str, Any]:
    """Run a comparison; return everything that was measured, and the tables."""
    with tempfile.TemporaryDirectory(prefix="fmhub-load-") as folder:
        comparison = Comparison(settings, Path(folder))
        comparison.run()
    rows = summary(comparison)
    idle = ", ".join(f"{name} {share:.1%}" for name, share in comparison.idle.items())
    alone = ", ".join(f"{c['requests_per_s']:,.0f} requests/s of {c['inputs']}" for c in comparison.client)
    machine = f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}"
    text = (
        f"{MODEL}, {settings.threads} torch thread(s) each; {machine}; medians of {settings.rounds} rounds"
        f"\n\n{shown(rows)}\n\nThe load client against an echo server: {alone}.\nCPU of a core while idle: {idle}."
    )
    return {
        "settings": vars(settings), "machine": machine, "summary": rows, "client_alone": comparison.client,
        "idle_cpu": comparison.idle, "body_bytes": comparison.sizes, "rounds": comparison.measured, "text": text,
    }  # fmt: skip


def main() -> None:
    """Measure as the command line says; exit with 1 where an answer was wrong or missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement, at least")
    parser.add_argument("--clients", default="1,16,64")
    parser.add_argument("--threads", type=int, default=1, help="of torch, in every server")
    parser.add_argument("--only", help="contenders by name, with commas; all that can run here unless given")
    parser.add_argument("--bentoml-python", help="Python of an environment that has BentoML beside fmhub's packages")
    parser.add_argument("--json", type=Path, default=Path("serving-load.json"), help="where the results go")
    given = parser.parse_args()
    found = measure(
        Settings(
            contenders=given.only.split(",") if given.only else available(given.bentoml_python),
            clients=[int(n) for n in given.clients.split(",")],
            rounds=given.rounds,
            seconds=given.seconds,
            threads=given.threads,
            bentoml_python=given.bentoml_python,
        )
    )
    print(f"\n{found['text']}")
    given.json.write_text(json.dumps(found, indent=1))
    wrong = [r for r in found["summary"] if r["failed"] or (r["difference"] or 0) > TOLERANCE]
    for row in wrong:
        print(f"WRONG: {row['name']} with {row['inputs']} inputs, {row['clients']} clients: {row['failed']} failed")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
