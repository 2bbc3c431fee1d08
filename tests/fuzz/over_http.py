"""Mutated files to a running server: each is answered in the one shape, and the server is as it was afterwards."""

from __future__ import annotations

import base64
import json
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import httpx
import numpy as np

from tests.fuzz.trial import Corpus, _fault_of

HANG = 60.0
"""Seconds after which an answer counts as missing."""
AT_ONCE = 4
REFUSALS = frozenset({400, 413, 415, 422})
FIELDS = {"type", "message", "param", "code"}


def send_all(corpus: Corpus, numbers: Iterable[int], url: str, pid: int | None = None) -> int:
    """Send files, a few at a time, and print what came back; 1 where an answer is not as it should be.

    Args:
        corpus: The files.
        numbers: Which of them.
        url: Of a server without keys.
        pid: Of the server, to look for processes that it leaves behind.
    """
    with httpx.Client(base_url=url, timeout=HANG, limits=httpx.Limits(max_connections=AT_ONCE)) as client:
        models: dict[str, list[str]] = {}
        for entry in client.get("/v1/models").json()["data"]:
            described = client.get(f"/v1/models/{entry['id']}").json()
            models.setdefault(described["domain"], []).append(entry["id"])
        before = processes(pid)
        started = time.monotonic()
        with ThreadPoolExecutor(AT_ONCE) as threads:
            found = list(threads.map(lambda n: (n, _send(client, corpus, n, models)), numbers))
        took = time.monotonic() - started
        alive = client.get("/healthz").status_code == 200 and client.get("/readyz").status_code == 200
    defects = [f"{number}: {problem}" for number, (_, problem) in found if problem]
    if not alive:
        defects.append("the server is not ready any more")
    # A worker that was replaced is another process, but not one more.
    if len(after := processes(pid)) > len(before):
        defects.append(f"{len(after) - len(before)} processes more than before")
    print(f"{len(found)} files in {took:.0f} s, answers:", dict(Counter(status for _, (status, _) in found)))
    print("\n".join(["DEFECT " + defect for defect in defects]))
    return int(bool(defects))


def _send(client: httpx.Client, corpus: Corpus, number: int, models: dict[str, list[str]]) -> tuple[int, str]:
    """Return the status, and what is wrong with the answer or nothing."""
    seed, content, _, random = corpus.file(number)
    path = f"/v1/models/{random.choice(models[seed.domain])}/embeddings"
    try:
        answer = client.post(path, **_request(seed.kind, seed.name, content, random))
    except httpx.HTTPError as error:
        return 0, f"{type(error).__name__} [{seed.domain}/{seed.name}]"
    if problem := _problem_of(answer):
        return answer.status_code, f"{problem} [{seed.domain}/{seed.name}] {answer.text[:300]}"
    return answer.status_code, ""


def _request(kind: str, name: str, content: bytes, random: Random) -> dict[str, Any]:
    """Return a request's parts: a plain form as JSON, a file as upload or, sometimes, in JSON."""
    headers = {"Content-Type": "application/json"}
    if kind == "plain":
        return {"content": b'{"input": [' + content + b"]}", "headers": headers}
    if random.random() < 0.3:
        encoded = {"data": base64.b64encode(content).decode(), "filename": name}
        return {"content": json.dumps({"input": encoded}).encode(), "headers": headers}
    return {"files": {"file": (name, content)}}


def _problem_of(answer: httpx.Response) -> str:
    if answer.status_code == 200:
        data = answer.json()["data"]
        if not data:
            return "200 without an embedding"
        return "" if all(np.isfinite(entry["embedding"]).all() for entry in data) else "an embedding is not finite"
    if answer.status_code not in REFUSALS:
        return f"status {answer.status_code}"
    if set(answer.json()) != {"error"} or set(answer.json()["error"]) != FIELDS:
        return "another shape of error"
    return _fault_of(answer.json()["error"]["message"])


def processes(pid: int | None) -> set[int]:
    """Return the processes below one, itself left out."""
    found: set[int] = set()
    waiting = [] if pid is None else [pid]
    while waiting:
        for task in Path(f"/proc/{waiting.pop()}/task").iterdir():
            children = {int(number) for number in (task / "children").read_text().split()}
            waiting += children - found
            found |= children
    return found
