"""The load: a small HTTP/1.1 client over asyncio streams, in a process of its own, told by a JSON file what to do.

``python -m benchmarks.serving.loadclient PLAN.json`` writes its result to standard output. Bodies are made before the
clock starts and answers are looked at after it stops, so that on a machine of two cores little is taken from the
server; how little, the echo server tells (`benchmarks.serving.load`).
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from benchmarks.serving.figures import arrivals

ANSWER_SECONDS = 300.0
"""An answer that takes longer counts as lost."""

MOST_CONNECTIONS = 4_000


@dataclass(frozen=True)
class Answer:
    """What came back for one request.

    Attributes:
        body: Which of the plan's bodies was sent.
        status: Of HTTP; 0 when the connection broke or nothing came in time.
        seconds: From when the request was due to the last byte.
        finished: Seconds since the start of the loop.
        content: The body of the answer.
        retry_after: Whether it came with ``Retry-After``.
    """

    body: int
    status: int
    seconds: float
    finished: float
    content: bytes = field(repr=False, default=b"")
    retry_after: bool = False


class Connection:
    """One connection, kept open from request to request, opened anew when the server has closed it."""

    def __init__(self, host: str, port: int) -> None:
        """Open nothing yet."""
        self._address = (host, port)
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, message: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send a whole request; return status, headers in lower case, and body."""
        if self._writer is None or self._writer.is_closing() or (self._reader and self._reader.at_eof()):
            self._reader, self._writer = await asyncio.open_connection(*self._address, limit=1 << 24)
        assert self._reader is not None and self._writer is not None
        # Not drained: a refusal may come before the server has read it all.
        self._writer.write(message)
        status, headers, content = await self._answer(self._reader)
        if headers.get("connection", "").lower() == "close":
            self.close()
        return status, headers, content

    @staticmethod
    async def _answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(head[0].split(" ", 2)[1])
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
        if "content-length" in headers:
            return status, headers, await reader.readexactly(int(headers["content-length"]))
        content = bytearray()
        while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
            content += (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
        return status, headers, bytes(content)

    def close(self) -> None:
        """Close it; the next request opens another."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


class Load:
    """A loop of requests against one address."""

    def __init__(self, plan: dict[str, Any]) -> None:
        """Make the requests of a plan ready to be sent; see `benchmarks.serving.contenders.plan`."""
        parts = urlsplit(plan["url"])
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._plan = plan
        self._messages = [_message(parts.path, parts.netloc, body) for body in plan["bodies"]]
        self._sent = 0
        self.answers: list[Answer] = []

    async def run(self) -> float:
        """Send them all; return the seconds from the start to the last answer."""
        self._started = time.perf_counter()
        if "rate" in self._plan:
            await self._open_loop()
        else:
            users = (self._closed_loop() for _ in range(self._plan["clients"]))
            await asyncio.gather(*users)
        return max(a.finished for a in self.answers)

    async def _closed_loop(self) -> None:
        """One user, who sends a request when the last one is answered, and at least two."""
        connection = Connection(self._host, self._port)
        done = 0
        while done < 2 or time.perf_counter() - self._started < self._plan["seconds"]:
            await self._exchange(connection, time.perf_counter())
            done += 1
        connection.close()

    async def _open_loop(self) -> None:
        free: list[Connection] = []
        tasks: set[asyncio.Task[None]] = set()

        async def one(at: float) -> None:
            connection = free.pop() if free else Connection(self._host, self._port)
            await self._exchange(connection, at)
            free.append(connection)

        for due in arrivals(self._plan["rate"], self._plan["seconds"], self._plan.get("seed", 0)):
            await asyncio.sleep(max(0.0, self._started + due - time.perf_counter()))
            if len(tasks) >= MOST_CONNECTIONS:
                raise SystemExit(f"more than {MOST_CONNECTIONS} requests are open; the server answers none")
            task = asyncio.create_task(one(self._started + due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
        for connection in free:
            connection.close()

    async def _exchange(self, connection: Connection, due: float) -> None:
        body = self._sent % len(self._messages)
        self._sent += 1
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                status, headers, content = await connection.ask(self._messages[body])
        except (OSError, EOFError, TimeoutError):
            connection.close()
            status, headers, content = 0, {}, b""
        now = time.perf_counter()
        self.answers.append(Answer(body, status, now - due, now - self._started, content, "retry-after" in headers))


def _message(path: str, host: str, body: dict[str, Any]) -> bytes:
    content = Path(body["file"]).read_bytes()
    head = [f"POST {path} HTTP/1.1", f"Host: {host}", f"Content-Type: {body['content_type']}"]
    return "\r\n".join([*head, f"Content-Length: {len(content)}", "", ""]).encode() + content


def vectors_in(content: bytes, place: list[str]) -> list[Any]:
    """Return the vectors of an answer: lists of numbers, or float32 in base64.

    Args:
        content: JSON.
        place: Keys that lead to the list of inputs, then to the vector of each, for example ``["data", "embedding"]``.
    """
    found = json.loads(content)
    for key in place[:1]:
        found = found[key]
    entries = [entry[place[1]] for entry in found] if len(place) > 1 else found
    return [np.frombuffer(base64.b64decode(e), "<f4") if isinstance(e, str) else np.asarray(e) for e in entries]


def largest_difference(answers: list[Answer], plan: dict[str, Any]) -> float:
    """Return the largest difference of any number of any answer from what Python gives, relative to its vector.

    It is measured against the largest number of the expected vector: rounding grows with that.
    """
    expected = np.load(plan["expected"])
    scale = np.abs(expected).max(axis=1)
    worst = 0.0
    for answer in answers:
        numbers = plan["bodies"][answer.body]["clips"]
        vectors = vectors_in(answer.content, plan["answer"])
        if len(vectors) != len(numbers):
            return float("inf")
        for vector, number in zip(vectors, numbers, strict=True):
            worst = max(worst, float(np.abs(vector - expected[number]).max() / scale[number]))
    return worst


def result_of(load: Load, plan: dict[str, Any], seconds: float, cpu: float) -> dict[str, Any]:
    """Return what a plan's loop gave."""
    good = [a for a in load.answers if a.status == 200]
    statuses: dict[str, int] = {}
    for answer in load.answers:
        statuses[str(answer.status)] = statuses.get(str(answer.status), 0) + 1
    return {
        "seconds": seconds,
        "client_cpu_seconds": cpu,
        "statuses": statuses,
        "embeddings": sum(len(plan["bodies"][a.body]["clips"]) for a in good),
        "latencies": [a.seconds for a in good],
        "finished": [a.finished for a in good],
        "refusal_latencies": [a.seconds for a in load.answers if a.status not in (0, 200)],
        "refused_with_retry_after": sum(a.retry_after for a in load.answers if a.status == 429),
        "difference": largest_difference(good, plan) if "expected" in plan else None,
        "first_refusal": next(
            (a.content[:300].decode("utf-8", "replace") for a in load.answers if a.status != 200), ""
        ),
    }


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text())
    load = Load(plan)
    before = time.process_time()
    seconds = asyncio.run(load.run())
    print(json.dumps(result_of(load, plan, seconds, time.process_time() - before)))


if __name__ == "__main__":
    main()
