"""Mixed traffic: all built-in models at once, inputs of very different sizes, some of them bad; every answer checked.

``python -m benchmarks.serving.mixed [--minutes 10] [--clients 12] [--json FILE]``

Each file is drawn so that all files get an equal share of the model's time: the small ones come often, the large ones
now and then. Exit status 0 says that all held: every good request was answered as Python answers, every bad one refused
with the right status and a message that names what is wrong, the server's memory grew by no more than 3 % after the
first fifth of the time, and no model's forwards were padding for more than 20 %.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import random
import re
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch
import yaml

from benchmarks.serving.bad_requests import MAX_BODY_BYTES, Bad, Request, bad_requests, upload
from benchmarks.serving.contenders import ROOT
from benchmarks.serving.figures import growth, percentile, table
from benchmarks.serving.loadclient import Connection
from benchmarks.serving.processes import Server, running
from benchmarks.serving.traffic import File, built_in, files_of
from serving.keys import hash_of, new_key

TOLERANCE = 1e-5
"""Of the largest difference of any number, as a share of the largest number of its vector: rounding grows with that."""
MAX_GROWTH, MAX_PADDING = 0.03, 0.20
BAD_SHARE = 0.05
MOST_FILES = 8
"""In one request, of small ones."""
SMALL_SECONDS = 0.05
MOST_BYTES = MAX_BODY_BYTES // 2
"""Of the files in one request: many that take the model little time may be large."""


@dataclass
class Record:
    """What has come of the requests so far."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    samples: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    difference: float = 0.0
    memory: list[tuple[float, float]] = field(default_factory=list)


class Traffic:
    """Users who send requests one after another until the time is up."""

    def __init__(self, server: Server, key: str, files: dict[str, list[File]], bad: list[Bad]) -> None:
        """Prepare the requests.

        Args:
            server: That gets them.
            key: Bearer key that it takes.
            files: Good files by model.
            bad: Requests that it must refuse.
        """
        self.record = Record()
        self._server = server
        self._key = key
        self._files = [file for of_model in files.values() for file in of_model]
        self._weights = [1 / file.seconds for file in self._files]
        self._small = {m: [f for f in of if f.seconds < SMALL_SECONDS] or of[:1] for m, of in files.items()}
        self._bad = bad
        self._address = urlsplit(server.url)

    async def run(self, users: int, seconds: float) -> None:
        """Send requests for so long."""
        self._started = time.perf_counter()
        self._until = self._started + seconds
        watch = asyncio.create_task(self._watch())
        await asyncio.gather(*(self._user(number) for number in range(users)))
        watch.cancel()

    async def _watch(self) -> None:
        while True:
            memory = await asyncio.to_thread(self._server.memory)
            self.record.memory.append((time.perf_counter() - self._started, memory))
            await asyncio.sleep(1)

    async def _user(self, number: int) -> None:
        noise = random.Random(number)
        connection = Connection(self._address.hostname or "", self._address.port or 80)
        while time.perf_counter() < self._until:
            if noise.random() < BAD_SHARE:
                await self._send_bad(connection, noise.choice(self._bad))
            else:
                await self._send_good(connection, noise)
        connection.close()

    async def _send_good(self, connection: Connection, noise: random.Random) -> None:
        first = noise.choices(self._files, self._weights)[0]
        files = [first]
        if first.seconds < SMALL_SECONDS:
            for file in noise.choices(self._small[first.model], k=noise.randint(0, MOST_FILES - 1)):
                if sum(len(f.content) for f in [*files, file]) <= MOST_BYTES:
                    files.append(file)
        request = upload(first.model, [(f.name, f.content) for f in files], {"encoding_format": "base64"})
        started = time.perf_counter()
        status, content = await self._ask(connection, request)
        self.record.seconds[first.model].append(time.perf_counter() - started)
        if status != 200:
            self.record.wrong.append(f"{first.model}, {[f.name for f in files]}: {status} {content[:200]!r}")
            return
        self._check(files, json.loads(content))

    def _check(self, files: list[File], answer: dict[str, Any]) -> None:
        """Hold an answer against Python's: how many, in which order, from which input, and the numbers."""
        model = files[0].model
        wanted = [(n, key) for n, file in enumerate(files) for key in file.keys]
        found = [(entry["item"]["input"], entry["item"]["key"]) for entry in answer["data"]]
        if wanted != found:
            self.record.wrong.append(f"{model}: the answer's items are not those of {[f.name for f in files]}")
            return
        self.record.samples[model] += len(wanted)
        expected = np.concatenate([file.vectors for file in files])
        vectors = np.stack([np.frombuffer(base64.b64decode(e["embedding"]), "<f4") for e in answer["data"]])
        difference = float((np.abs(vectors - expected).max(1) / np.abs(expected).max(1)).max())
        self.record.difference = max(self.record.difference, difference)
        if not difference <= TOLERANCE:
            self.record.wrong.append(f"{model}, {[f.name for f in files]}: differs by {difference:.1e}")

    async def _send_bad(self, connection: Connection, bad: Bad) -> None:
        status, content = await self._ask(connection, bad.request)
        try:
            error = json.loads(content)["error"]
            told = f"{error['message']} {error['param']}"
        except (ValueError, KeyError, TypeError):
            told = ""
        if status != bad.status or bad.named not in told:
            self.record.wrong.append(f"{bad.kind} {bad.request.path}: {status} for {bad.status}, {content[:200]!r}")
        self.record.refused[bad.kind] += 1

    async def _ask(self, connection: Connection, request: Request) -> tuple[int, bytes]:
        keys = {"good": self._key, "wrong": self._key[:-4] + "0000", "none": None}
        key = keys[request.key]
        head = [f"POST {request.path} HTTP/1.1", "Host: fmhub", f"Content-Type: {request.content_type}"]
        head += [f"Content-Length: {len(request.body)}"] + ([f"Authorization: Bearer {key}"] if key else [])
        try:
            status, _, content = await connection.ask("\r\n".join([*head, "", ""]).encode() + request.body)
        except (OSError, EOFError) as error:
            connection.close()
            return 0, f"{type(error).__name__}: {error}".encode()
        if status >= 400:
            # What is left of a refused body would stand before the next request.
            connection.close()
        return status, content


def padding_shares(metrics: str) -> dict[str, float]:
    """Return the share of padding in each model's forwards, from the text of ``/metrics``."""
    cost: dict[str, dict[str, float]] = defaultdict(dict)
    for kind, model, value in re.findall(r'fmhub_forward_cost_total\{kind="(\w+)",model="([^"]+)"\} (\S+)', metrics):
        cost[model][kind] = float(value)
    return {model: of.get("padding", 0.0) / sum(of.values()) for model, of in cost.items()}


def main() -> None:
    """Run as the command line says; exit with 1 where something did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1, help="of torch, for each model")
    parser.add_argument("--json", type=Path, default=Path("serving-mixed.json"), help="where the results go")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    files = {model: files_of(model, domain) for model, domain in built_in().items()}
    bad = bad_requests(files)
    print(f"{len(files)} models, {sum(map(len, files.values()))} files, {len(bad)} bad requests", flush=True)
    with tempfile.TemporaryDirectory(prefix="fmhub-mixed-") as folder:
        key = new_key()
        settings = {
            "models": list(files),
            "keys": [{"name": "mixed", "hash": hash_of(key)}],
            "metrics_access": "open",
            "torch_threads": given.threads,
            "max_body_bytes": MAX_BODY_BYTES,
        }
        config = Path(folder) / "server.yaml"
        config.write_text(yaml.safe_dump(settings))
        command = [sys.executable, "-m", "hub.cli", "serve", "--backend", "local", "--port", "0"]
        environment = {"OMP_NUM_THREADS": str(given.threads), "PYTHONPATH": str(ROOT)}
        with running(
            [*command, "--config", str(config)], Path(folder) / "log", environment, health="/readyz"
        ) as server:
            traffic = Traffic(server, key, files, bad)
            asyncio.run(traffic.run(given.clients, 60 * given.minutes))
            padding = padding_shares(server.get("/metrics"))
    found = judged(traffic.record, padding, given.minutes)
    print(found["text"])
    given.json.write_text(json.dumps(found, indent=1))
    raise SystemExit(not found["held"])


def judged(record: Record, padding: dict[str, float], minutes: float) -> dict[str, Any]:
    """Return what was found, whether all held, and the table."""
    grown = growth(record.memory, 0.2 * 60 * minutes)
    rows = [
        {
            "model": model,
            "requests": len(seconds),
            "samples": record.samples[model],
            "p50 ms": 1000 * percentile(seconds, 50),
            "p99 ms": 1000 * percentile(seconds, 99),
            "padding %": 100 * padding.get(model, 0.0),
        }
        for model, seconds in sorted(record.seconds.items())
    ]
    failures = [f"wrong: {line}" for line in record.wrong[:20]]
    failures += [f"padding of {m} is {p:.1%}" for m, p in padding.items() if p > MAX_PADDING]
    if grown > MAX_GROWTH:
        failures.append(f"memory grew by {grown:.1%}")
    refused = sum(record.refused.values())
    lines = [
        table(rows),
        f"{refused} bad requests of {len(record.refused)} kinds, {len(record.wrong)} wrong answers of all; largest "
        f"difference {record.difference:.1e} of a vector's largest number",
        f"memory of all processes: {record.memory[-1][1] / 2**20:,.0f} MiB at the end, {grown:+.1%} over the last "
        f"{0.8 * minutes:g} of {minutes:g} minutes (line of least squares)",
        *(failures or ["all held"]),
    ]
    return {
        "held": not failures, "failures": failures, "models": rows, "refused": dict(record.refused),
        "wrong": record.wrong, "difference": record.difference, "memory_growth": grown,
        "memory": record.memory, "minutes": minutes, "text": "\n".join(lines),
    }  # fmt: skip


if __name__ == "__main__":
    main()
