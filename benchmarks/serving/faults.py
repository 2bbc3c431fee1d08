"""What faults cost: a real server under load by the client library, and one fault after another.

``python -m benchmarks.serving.faults [--only NAME,...] [--json FILE]``

Each fault gets a server of its own. Reported are the requests that were sent, answered right, refused (why) and lost,
for how long no right answer came, and what was left behind: processes, open files, files in the temporary folder. Exit
status 0 says that every request of the client library was answered right in the end, and that nothing was left.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import soundfile
import torch
import yaml

import hub
from benchmarks.serving.clips import expected_vectors, form, make_clips
from benchmarks.serving.contenders import ROOT
from benchmarks.serving.faulty import GOOD, MODEL, VICTIM
from benchmarks.serving.figures import table
from benchmarks.serving.loadclient import Connection, vectors_in
from benchmarks.serving.processes import Server, free_port, started
from benchmarks.serving.users import TOLERANCE, Tally, Users

TIMEOUT_SECONDS, HANG_TIMEOUT_SECONDS = 60.0, 4.0
"""Of a request to the server; a model that hangs is known to hang after that, so it is short where one does."""
MANY_ATTEMPTS = 16
"""Of the client library while the server is started again: together they last for about a minute and a half."""
CALM_SECONDS = 2.0
"""Of undisturbed load before a fault and after it."""


class Bench:
    """One server of one fault, and the folders it may write to."""

    def __init__(self, folder: Path, clips: list[bytes], expected: np.ndarray, timeout: float) -> None:
        """Prepare the folders and settings; `start` starts the server.

        Args:
            folder: Empty.
            clips: What is sent.
            expected: Their vectors.
            timeout: Of a request, in seconds.
        """
        self.clips, self.expected = clips, expected
        self.folder = folder
        self.temporary, self.signs = folder / "tmp", folder / "signs"
        self.temporary.mkdir()
        self.signs.mkdir()
        self.port = free_port()
        settings = {
            "models": [GOOD, VICTIM],
            "embedder_factory": "benchmarks.serving.faulty:load",
            "port": self.port,
            "torch_threads": 1,
            "request_timeout_s": timeout,
            "log_requests": False,
        }
        (folder / "server.yaml").write_text(yaml.safe_dump(settings))
        self.left: list[str] = []
        self.facts: dict[str, Any] = {}

    def start(self) -> None:
        """Start the server, or start it again."""
        command = [sys.executable, "-m", "hub.cli", "serve", "--backend", "local", "--config"]
        environment = {
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(self.temporary),
            "BENCH_FAULTS": str(self.signs),
        }
        log = self.folder / f"log-{time.monotonic()}"
        self.server = started([*command, str(self.folder / "server.yaml")], log, environment, self.port, "/readyz")

    def users(self, model: str = GOOD, users: int = 4, attempts: int = 6) -> Users:
        """Return users of one of the models."""
        return Users(self.server.url, model, self.clips, self.expected, users, attempts)

    @contextlib.contextmanager
    def sign(self, name: str) -> Iterator[None]:
        """Let the victim break meanwhile; see `benchmarks.serving.faulty`."""
        (self.signs / name).touch()
        try:
            yield
        finally:
            (self.signs / name).unlink()

    def files(self) -> list[str]:
        """Return the files below the temporary folder, without the sample that the command writes for its curl line."""
        found = (p for p in self.temporary.rglob("*") if p.is_file() and p.name != "lock")
        return sorted(str(p.relative_to(self.temporary)) for p in found if "fmhub-samples-" not in str(p))

    async def settled(self, descriptors: int) -> None:
        """Wait until the idle server holds no more open files than before, and no upload; note it where it does not."""
        for _ in range(100):
            if self.server.files() <= descriptors + 2 and not self.files():
                return
            await asyncio.sleep(0.1)
        if self.server.files() > descriptors + 2:
            self.left.append(f"{self.server.files() - descriptors} open files")
        self.left += self.files()

    async def raw(self, numbers: list[int], model: str = GOOD) -> tuple[int, str, bool]:
        """Upload some clips once, without retries; return status, code of an error, whether the answer was right."""
        body = form(self.clips, numbers)
        connection = Connection("127.0.0.1", self.port)
        try:
            status, _, content = await connection.ask(_head(body.content_type, len(body.content), model) + body.content)
        except (OSError, EOFError):
            return 0, "no_answer", False
        finally:
            connection.close()
        if status != 200:
            return status, json.loads(content)["error"]["code"], False
        wanted = self.expected[numbers]
        difference = np.abs(np.stack(vectors_in(content, ["data", "embedding"])) - wanted).max(1)
        return status, "", bool((difference <= TOLERANCE * np.abs(wanted).max(1)).all())

    async def upload(self, content: bytes) -> str:
        """Upload one file; return status and code of the answer."""
        body = form([content], [0])
        connection = Connection("127.0.0.1", self.port)
        try:
            status, _, answer = await connection.ask(_head(body.content_type, len(body.content), GOOD) + body.content)
        except (OSError, EOFError):
            return "no_answer"
        finally:
            connection.close()
        return f"{status} {json.loads(answer).get('error', {}).get('code', '')}".strip()


def _head(content_type: str, length: int, model: str) -> bytes:
    head = [f"POST /v1/models/{model}/embeddings HTTP/1.1", "Host: fmhub", f"Content-Type: {content_type}"]
    return "\r\n".join([*head, f"Content-Length: {length}", "", ""]).encode()


def reader_workers(server: Server) -> list[psutil.Process]:
    """Return the processes that read inputs: the grandchildren, whom a nursery forks."""
    return [p for child in psutil.Process(server.process.pid).children() for p in child.children()]


# --- the faults: each returns the users' tally -------------------------------------------------------------


async def reader_killed(bench: Bench) -> Tally:
    """SIGKILL of every reader worker at once, three times."""
    async with bench.users() as tally:
        await asyncio.sleep(CALM_SECONDS)
        killed = 0
        moment = time.monotonic()
        for _ in range(3):
            for worker in reader_workers(bench.server):
                worker.kill()
                killed += 1
            await asyncio.sleep(1)
        await asyncio.sleep(CALM_SECONDS)
    bench.facts |= {"killed": killed, "felt_s": tally.silence_after(moment)}
    if not killed:
        bench.facts["note"] = "this server has no reader processes"
    return tally


async def forward_raises(bench: Bench) -> Tally:
    """A model whose forward raises: its requests fail, those of the other model do not."""
    async with bench.users() as tally:
        await asyncio.sleep(CALM_SECONDS)
        moment = time.monotonic()
        with bench.sign("raise"):
            answers = [await bench.raw([n, n + 1], VICTIM) for n in range(10)]
        recovered = (await bench.raw([0], VICTIM))[2]
        bench.facts |= {"victim": _told(answers), "victim_recovered": recovered, "felt_s": tally.silence_after(moment)}
        await asyncio.sleep(CALM_SECONDS)
    if not recovered or any(status != 500 for status, _, _ in answers):
        tally.wrong += 1
    return tally


async def forward_hangs(bench: Bench) -> Tally:
    """A model that hangs: its requests end in time, /healthz tells, the other model goes on, and so does it after."""
    async with bench.users() as tally:
        await asyncio.sleep(CALM_SECONDS)
        moment = time.monotonic()
        with bench.sign("hang"):
            answers = await asyncio.gather(*(bench.raw([n], VICTIM) for n in range(4)))
            bench.facts["victim_refused_after_s"] = time.monotonic() - moment
            while (
                await asyncio.to_thread(_healthy, bench.server) and time.monotonic() - moment < 4 * HANG_TIMEOUT_SECONDS
            ):
                await asyncio.sleep(0.1)
            bench.facts["unhealthy_after_s"] = time.monotonic() - moment
        ended = time.monotonic()
        recovered = (await bench.raw([0], VICTIM))[2]
        bench.facts |= {"victim": _told(answers), "victim_recovered_after_s": time.monotonic() - ended}
        bench.facts["felt_s"] = tally.silence_after(moment)
    if not recovered or any(code != "timeout" for _, code, _ in answers):
        tally.wrong += 1
    return tally


async def disk_full(bench: Bench) -> Tally:
    """A full disk below the temporary folder: large uploads are refused with 503 meanwhile, and taken after."""
    # Larger than what a server keeps in memory, smaller than the disk while that is empty.
    # Two seconds of eight channels: many bytes, little work.
    buffer = io.BytesIO()
    soundfile.write(buffer, np.tile(np.random.default_rng(0).normal(0, 0.1, (3 << 16, 1)), 8), 96_000, format="WAV")
    content = buffer.getvalue()
    before = await bench.upload(content)
    async with bench.users() as tally:
        await asyncio.sleep(CALM_SECONDS)
        moment = time.monotonic()
        filler = bench.temporary / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as stream:
            while True:
                stream.write(bytes(4096))
        during = [await bench.upload(content) for _ in range(4)]
        await asyncio.sleep(CALM_SECONDS)
        filler.unlink()
        after = await bench.upload(content)
        await asyncio.sleep(CALM_SECONDS)
    bench.facts |= {"before": before, "during": during, "after": after, "felt_s": tally.silence_after(moment)}
    if after != before:
        tally.wrong += 1
    return tally


async def clients_leave(bench: Bench) -> Tally:
    """200 clients that disconnect: half of them in the middle of the upload, half while they wait."""
    body = form(bench.clips, list(range(8)))
    message = _head(body.content_type, len(body.content), GOOD) + body.content

    async def leave(number: int) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", bench.port)
        writer.write(message if number % 2 else message[: len(message) // 2])
        await asyncio.sleep(0.05 + 0.002 * number)
        writer.transport.abort()

    async with bench.users() as tally:
        await asyncio.sleep(CALM_SECONDS)
        moment = time.monotonic()
        await asyncio.gather(*(leave(number) for number in range(200)))
        await asyncio.sleep(CALM_SECONDS)
    bench.facts["felt_s"] = tally.silence_after(moment)
    return tally


async def terminated(bench: Bench) -> Tally:
    """SIGTERM with requests in flight: they are answered, and the server ends."""
    tally = Tally()
    asked = [asyncio.create_task(bench.raw(list(range(8)))) for _ in range(8)]
    await asyncio.sleep(0.3)
    moment = time.monotonic()
    bench.left += await asyncio.to_thread(bench.server.stop)
    bench.facts |= {"ended_after_s": time.monotonic() - moment, "exit_status": bench.server.process.returncode}
    for status, code, right in await asyncio.gather(*asked):
        tally.sent += 1
        tally.right += right
        tally.wrong += status == 200 and not right
        tally.refused.update([code] if code else [])
    return tally


async def killed_and_restarted(bench: Bench) -> Tally:
    """SIGKILL of the server, which a supervisor starts again while the client library tries again."""
    async with bench.users(attempts=MANY_ATTEMPTS) as tally:
        await asyncio.sleep(CALM_SECONDS)
        moment = time.monotonic()
        bench.left += await asyncio.to_thread(bench.server.stop, signal.SIGKILL)
        await asyncio.to_thread(bench.start)
        bench.facts["restarted_after_s"] = time.monotonic() - moment
        await asyncio.sleep(2 * CALM_SECONDS)
    bench.facts["felt_s"] = tally.silence_after(moment)
    return tally


FAULTS: dict[str, Callable[[Bench], Awaitable[Tally]]] = {
    f.__name__: f
    for f in (
        reader_killed, forward_raises, forward_hangs, disk_full, clients_leave, terminated, killed_and_restarted,
    )
}  # fmt: skip


def _told(answers: list[tuple[int, str, bool]]) -> dict[str, int]:
    """Return how often each status and code came."""
    found: dict[str, int] = {}
    for status, code, right in answers:
        name = f"{status} {code}".strip() if status != 200 else f"200 {'right' if right else 'wrong'}"
        found[name] = found.get(name, 0) + 1
    return found


def _healthy(server: Server) -> bool:
    try:
        return server.get("/healthz") != ""
    except OSError:
        return False


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[bool]:
    """Mount a disk of 8 MiB on a folder; ``False`` where that is not permitted."""
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True)
    try:
        yield done.returncode == 0
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", "-l", str(folder)], check=True)


async def run_fault(name: str, bench: Bench) -> dict[str, Any]:
    """Start a server, let one fault happen, stop the server; return what was seen."""
    await asyncio.to_thread(bench.start)
    async with bench.users():
        await asyncio.sleep(CALM_SECONDS)
    descriptors = bench.server.files()
    pid = bench.server.process.pid
    tally = await FAULTS[name](bench)
    if bench.server.process.poll() is None:
        if bench.server.process.pid != pid:
            descriptors = bench.server.files()
        await bench.settled(descriptors)
        bench.left += await asyncio.to_thread(bench.server.stop)
    # Torch keeps an empty folder of its own; and of a server that was killed, the sample of its curl line stays.
    others = ("torchinductor_", "fmhub-samples-")
    left = [p for p in bench.temporary.iterdir() if not p.name.startswith(others)]
    bench.left += [f"after the end: {p.name}" for p in left]
    row = {
        "fault": name,
        "sent": tally.sent,
        "right": tally.right,
        "wrong": tally.wrong,
        "refused": dict(tally.refused),
        "lost": tally.lost,
        "left": bench.left,
        **bench.facts,
    }
    row["held"] = tally.right == tally.sent and not tally.wrong and not bench.left
    return row


def main() -> None:
    """Run as the command line says; exit with 1 where something did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help=f"of {', '.join(FAULTS)}, with commas; all unless given")
    parser.add_argument("--json", type=Path, default=Path("serving-faults.json"), help="where the results go")
    given = parser.parse_args()
    torch.set_num_threads(1)
    clips = make_clips()
    expected = expected_vectors(hub.from_pretrained(MODEL), clips)
    rows = []
    for name in given.only.split(",") if given.only else FAULTS:
        with tempfile.TemporaryDirectory(prefix="fmhub-faults-") as folder:
            timeout = HANG_TIMEOUT_SECONDS if name == "forward_hangs" else TIMEOUT_SECONDS
            bench = Bench(Path(folder), clips, expected, timeout)
            if name == "disk_full":
                with _small_disk(bench.temporary) as mounted:
                    if not mounted:
                        print("disk_full: left out, a small disk cannot be mounted here", flush=True)
                        continue
                    rows.append(asyncio.run(run_fault(name, bench)))
            else:
                rows.append(asyncio.run(run_fault(name, bench)))
        print(json.dumps(rows[-1]), flush=True)
    shown = [
        {
            "fault": r["fault"], "sent": r["sent"], "right": r["right"], "wrong": r["wrong"], "lost": r["lost"],
            "refused": ", ".join(f"{n} {c}" for c, n in r["refused"].items()) or "none",
            "felt s": r.get("felt_s", float("nan")), "left": ", ".join(r["left"]) or "nothing",
            "held": "yes" if r["held"] else "NO",
        }
        for r in rows
    ]  # fmt: skip
    print(f"\n{table(shown)}")
    given.json.write_text(json.dumps(rows, indent=1))
    raise SystemExit(not all(r["held"] for r in rows))


if __name__ == "__main__":
    main()
