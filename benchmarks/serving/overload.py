"""Overload: requests arrive at five times the rate that the server can answer, whether it answers or not.

``python -m benchmarks.serving.overload [--seconds 60] [--times 5] [--json FILE]``

For single inputs and for 32 in a request: capacity by a closed loop; then an open loop (Poisson arrivals) at a multiple
of it. Reported are the shares accepted and refused with 429 and ``Retry-After``, latencies of the accepted from when
they were due, goodput as a share of capacity, memory, and how the server answers right after. Last the client library
with its retries. Exit status 0 says that goodput stayed above half of capacity, accepted requests' p99 within what the
settings imply, every refusal was a 429 with ``Retry-After``, every answer right, and the server as quick as before when
it was over.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

import hub
from benchmarks.serving.clips import expected_vectors, full_bodies, make_clips, single_bodies, written
from benchmarks.serving.contenders import MODEL, ROOT, load
from benchmarks.serving.figures import arrivals, percentile, table
from benchmarks.serving.processes import Server, running
from benchmarks.serving.users import Users
from serving.client import AsyncClient, Retries
from serving.config import ModelSettings, ServiceSettings

CAPACITY_SECONDS, CALM_SECONDS = 10.0, 4.0
ENOUGH_USERS = {1: 32, 32: 6}
"""Clients of the closed loop that measures capacity, by inputs a request."""
TOLERANCE = 1e-5
LEAST_GOODPUT = 0.5
OVERTAKEN = 2.5
"""Times what the queue takes at the rate of the overload: batches are of similar length, so that samples of other
lengths overtake."""
SLACK = 1.5
"""Of the wait that the settings allow: it is reckoned before the request's own time."""


class Overload:
    """A server and what is sent to it."""

    def __init__(self, server: Server, folder: Path, clips: list[bytes], expected: np.ndarray, times: float) -> None:
        """Prepare the bodies.

        Args:
            server: That gets them.
            folder: For bodies and plans.
            clips: Files.
            expected: Their vectors.
            times: Arrivals as a multiple of capacity.
        """
        self._server, self._folder, self._times = server, folder, times
        self._clips, self._expected = clips, expected
        np.save(folder / "expected.npy", expected)
        made = {1: single_bodies(clips), len(clips): full_bodies(clips)}
        self._bodies = {n: written(bodies, folder / f"bodies-{n}") for n, bodies in made.items()}

    def load(self, inputs: int, **how: Any) -> dict[str, Any]:
        """Let the load client run; see `benchmarks.serving.contenders.load`."""
        plan = {
            "url": f"{self._server.url}/v1/models/{MODEL}/embeddings",
            "bodies": self._bodies[inputs],
            "answer": ["data", "embedding"],
            "expected": str(self._folder / "expected.npy"),
            **how,
        }
        return load(plan, self._folder)

    def measure(self, inputs: int, seconds: float, settings: ServiceSettings) -> dict[str, Any]:
        """Measure capacity, overload the server, and look how it is after."""
        self.load(inputs, clients=ENOUGH_USERS[inputs], seconds=CALM_SECONDS)
        found = self.load(inputs, clients=ENOUGH_USERS[inputs], seconds=CAPACITY_SECONDS)
        capacity = found["statuses"]["200"] / found["seconds"]
        before = self.load(inputs, clients=1, seconds=CALM_SECONDS)
        memory_before = self._server.memory()
        with _highest(self._server) as memory:
            found = self.load(inputs, rate=self._times * capacity, seconds=seconds)
        after = self.load(inputs, clients=1, seconds=CALM_SECONDS)
        sent = sum(found["statuses"].values())
        refused = found["statuses"].get("429", 0)
        good = [at for at in found["finished"] if at <= seconds]
        return {
            "inputs": inputs,
            "capacity_per_s": capacity,
            "arrivals_per_s": sent / seconds,
            "accepted": found["statuses"].get("200", 0) / sent,
            "refused": refused / sent,
            "with_retry_after": found["refused_with_retry_after"] / max(1, refused),
            "other": {k: n for k, n in found["statuses"].items() if k not in ("200", "429")},
            "p50_s": percentile(found["latencies"], 50),
            "p99_s": percentile(found["latencies"], 99),
            # As many as may wait, at the rate that refusals and generator leave; and no more work than may wait.
            "bound_s": min(
                OVERTAKEN * settings.models[0].max_queued_requests * seconds / max(1, len(good)),
                SLACK * settings.longest_queue_s,
            ),
            "refusal_p99_s": percentile(found["refusal_latencies"], 99),
            "goodput": len(good) / seconds / capacity,
            "memory_before": memory_before,
            "memory_highest": memory[0],
            "p50_before_s": percentile(before["latencies"], 50),
            "p50_after_s": percentile(after["latencies"], 50),
            "difference": found["difference"],
            "first_refusal": found["first_refusal"],
        }

    def with_retries(self, capacity: float, seconds: float) -> dict[str, Any]:
        """Let calls of the client library arrive at the same multiple; return how many succeed in the end."""
        users = Users(self._server.url, MODEL, self._clips, self._expected)
        latencies: list[float] = []

        async def one(client: AsyncClient, at: float, number: int) -> None:
            await asyncio.sleep(max(0.0, at - time.monotonic()))
            if await users.ask(client, [(number + n) % len(self._clips) for n in range(len(self._clips))]):
                latencies.append(time.monotonic() - at)

        async def run() -> float:
            started = time.monotonic()
            async with AsyncClient(self._server.url, timeout=300, retries=Retries()) as client:
                due = arrivals(self._times * capacity, seconds)
                await asyncio.gather(*(one(client, started + at, number) for number, at in enumerate(due)))
            return time.monotonic() - started

        took = asyncio.run(run())
        tally = users.tally
        return {
            "calls": tally.sent,
            "succeeded": tally.right / tally.sent,
            "wrong": tally.wrong,
            "gave_up": dict(tally.refused),
            "p50_s": percentile(latencies, 50),
            "p99_s": percentile(latencies, 99),
            "seconds": took,
            "goodput": tally.right / took / capacity,
        }


@contextmanager
def _highest(server: Server) -> Iterator[list[int]]:
    """Watch a server's memory, once a second; the list holds the highest value."""
    highest = [server.memory()]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(1.0):
            highest[0] = max(highest[0], server.memory())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield highest
    finally:
        done.set()
        thread.join()


def problems(row: dict[str, Any]) -> list[str]:
    """Return what did not hold."""
    found = []
    name = f"{row['inputs']} inputs"
    if row["goodput"] < LEAST_GOODPUT:
        found.append(f"{name}: goodput is {row['goodput']:.0%} of capacity")
    if not row["p99_s"] <= row["bound_s"]:
        found.append(f"{name}: p99 is {row['p99_s']:.1f} s, above {row['bound_s']:.1f} s")
    if row["other"] or row["with_retry_after"] < 1:
        found.append(f"{name}: answers other than 200 and 429 with Retry-After: {row['other']}, {row['first_refusal']}")
    if not (row["difference"] or 0.0) <= TOLERANCE:
        found.append(f"{name}: an answer differs by {row['difference']:.1e}")
    if row["p50_after_s"] > 2 * row["p50_before_s"]:
        found.append(f"{name}: one request took {row['p50_after_s']:.3f} s after, {row['p50_before_s']:.3f} s before")
    return found


def shown(rows: list[dict[str, Any]]) -> str:
    """Return the table."""
    return table(
        [
            {
                "inputs": r["inputs"],
                "capacity/s": r["capacity_per_s"],
                "arrivals/s": r["arrivals_per_s"],
                "accepted %": 100 * r["accepted"],
                "429 %": 100 * r["refused"],
                "p50 s": r["p50_s"],
                "p99 s": r["p99_s"],
                "bound s": r["bound_s"],
                "429 p99 s": r["refusal_p99_s"],
                "goodput %": 100 * r["goodput"],
                "MiB before": r["memory_before"] / 2**20,
                "highest": r["memory_highest"] / 2**20,
                "alone ms before": 1000 * r["p50_before_s"],
                "after": 1000 * r["p50_after_s"],
            }
            for r in rows
        ]
    )


def main() -> None:
    """Run as the command line says; exit with 1 where something did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="of arrivals")
    parser.add_argument("--times", type=float, default=5.0, help="arrivals as a multiple of capacity")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--json", type=Path, default=Path("serving-overload.json"), help="where the results go")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    clips = make_clips()
    expected = expected_vectors(hub.from_pretrained(MODEL), clips)
    settings = ServiceSettings(models=[ModelSettings(name=MODEL)])
    environment = {
        "OMP_NUM_THREADS": str(given.threads),
        "FMHUB_SERVE_TORCH_THREADS": str(given.threads),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "hub.cli", "serve", MODEL, "--backend", "local", "--port", "0"]
    with tempfile.TemporaryDirectory(prefix="fmhub-overload-") as name:
        folder = Path(name)
        with running(command, folder / "log", environment, health="/readyz") as server:
            overload = Overload(server, folder, clips, expected, given.times)
            rows = [overload.measure(inputs, given.seconds, settings) for inputs in (1, len(clips))]
            print(shown(rows), flush=True)
            retried = overload.with_retries(rows[-1]["capacity_per_s"], min(10.0, given.seconds))
    print(
        f"With the client library's retries, {retried['calls']} calls of {len(clips)} inputs in 10 s: "
        f"{retried['succeeded']:.1%} succeed in the end (p50 {retried['p50_s']:.0f} s, p99 {retried['p99_s']:.0f} s), "
        f"goodput {retried['goodput']:.0%} of capacity; gave up: {retried['gave_up'] or 'none'}"
    )
    failures = [line for row in rows for line in problems(row)] + (["a wrong answer"] if retried["wrong"] else [])
    print("\n".join(failures) or "all held")
    given.json.write_text(json.dumps({"overload": rows, "with_retries": retried, "failures": failures}, indent=1))
    raise SystemExit(bool(failures))


if __name__ == "__main__":
    main()
