"""Processes that read what may kill them: forked from one that has loaded everything, each good for many files."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from tests.fuzz.trial import Trial

HANG = 60.0
"""Seconds after which a child is killed. A slow one is found by its time of computing; this is for one that waits."""
FILES_A_CHILD = 2_000
"""Files that one child reads: a leak of the libraries must not end a long run."""


@dataclass
class _Child:
    pid: int
    ask: BinaryIO
    answers: BinaryIO
    left: int = FILES_A_CHILD
    number: int = -1
    since: float = 0.0


class Children:
    """Runs trials in children, as many at a time as wanted, and in any order."""

    def __init__(self, trial: Callable[[int], Trial], jobs: int, memory: int, folder: Path, hang: float = HANG) -> None:
        """Prepare; children are forked when they are needed.

        Args:
            trial: Called in a child with the number of a file.
            jobs: Children at a time.
            memory: Bytes that a child may have beyond what it starts with.
            folder: For their temporary files.
            hang: Seconds after which one is killed.
        """
        self._trial, self._jobs, self._memory, self._folder, self._hang = trial, jobs, memory, folder, hang
        self._idle: list[_Child] = []

    def run(self, numbers: Iterable[int]) -> Iterator[Trial]:
        """Yield the outcome of each number."""
        waiting, busy = iter(numbers), dict[int, _Child]()
        try:
            while True:
                while len(busy) < self._jobs and (number := next(waiting, None)) is not None:
                    child = self._idle.pop() if self._idle else self._fork()
                    child.number, child.since = number, time.monotonic()
                    with contextlib.suppress(BrokenPipeError):  # found out below, like any other death
                        child.ask.write(f"{number}\n".encode())
                        child.ask.flush()
                    busy[child.answers.fileno()] = child
                if not busy:
                    return
                ready, _, _ = select.select(list(busy), [], [], 1.0)
                late = [n for n, child in busy.items() if time.monotonic() - child.since > self._hang]
                for descriptor in {*ready, *late}:
                    yield self._answer(busy.pop(descriptor), descriptor in ready)
        finally:
            for child in [*busy.values(), *self._idle]:
                self._end(child, kill=True)
            self._idle.clear()

    def _answer(self, child: _Child, ready: bool) -> Trial:
        line = child.answers.readline() if ready else b""
        if line.endswith(b"\n"):
            child.left -= 1
            if child.left:
                self._idle.append(child)
            else:
                self._end(child)
            return Trial(**json.loads(line))
        status = self._end(child, kill=not ready)
        if not ready:
            return Trial(child.number, "", "", "", "hang", f"killed after {self._hang:g} s", self._hang)
        name = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}"
        return Trial(child.number, "", "", "", "crash", name)

    def _fork(self) -> _Child:
        ours, theirs = os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 70  # what raises out of a trial is a mistake of ours
            try:
                os.close(ours[1])
                os.close(theirs[0])
                self._serve(os.fdopen(ours[0], "rb"), os.fdopen(theirs[1], "wb"))
                status = 0
            finally:
                os._exit(status)
        os.close(ours[0])
        os.close(theirs[1])
        return _Child(pid, os.fdopen(ours[1], "wb"), os.fdopen(theirs[0], "rb"))

    def _serve(self, questions: BinaryIO, answers: BinaryIO) -> None:
        """Be a child."""
        # What a library prints about damage is of no use, and a core is large.
        quiet = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(quiet, stream)
        tempfile.tempdir = tempfile.mkdtemp(dir=self._folder)
        used = next(
            int(row.split()[1]) for row in Path("/proc/self/status").read_text().splitlines() if "VmData" in row
        )
        resource.setrlimit(resource.RLIMIT_DATA, (1024 * used + self._memory,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for line in questions:
            try:
                trial = self._trial(int(line))
            except BaseException:  # outside of what is tried: a mistake of ours
                trial = Trial(int(line), "", "", "", "crash", traceback.format_exc()[-1_000:])
            answers.write(json.dumps(asdict(trial)).encode() + b"\n")
            answers.flush()

    def _end(self, child: _Child, kill: bool = False) -> int:
        child.ask.close()
        child.answers.close()
        if kill:
            os.kill(child.pid, signal.SIGKILL)
        return os.waitpid(child.pid, 0)[1]
