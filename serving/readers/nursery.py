"""The process that reader processes are forked from: it has imported what they need, and touches no file itself.

It does not come from `multiprocessing`, whose fork server hands the whole environment and the server's main module to
its children, ignores the server's import path, and leaves their children behind when they die.
"""

from __future__ import annotations

import gc
import os
import pickle
import select
import shutil
import signal
import socket
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from hub.embedder import Intake
from serving.readers import frames
from serving.readers.caps import Caps, adopt_orphans, confine
from serving.readers.worker import ANY_SIZE, work

LOOK_SECONDS = 1.0
"""How often it looks whether the server still lives, should its socket have been kept open by somebody else."""


@dataclass(frozen=True)
class Load:
    """Keep a pickled `Intake` for later children."""

    intake: int
    content: bytes


@dataclass(frozen=True)
class Forget:
    """Keep it no longer."""

    intake: int


@dataclass(frozen=True)
class Fork:
    """Start a child; with the message come the descriptors of its socket and of the memory that it shows."""

    caps: Caps
    folder: Path


@dataclass(frozen=True)
class Reap:
    """End a child and all that it started; the answer is its exit status as `os.waitstatus_to_exitcode` has it."""

    child: int


@dataclass(frozen=True)
class Scratch:
    """Remove a folder when the server goes without doing so."""

    folder: Path


class Nursery:
    """The loop of the process."""

    def __init__(self, control: socket.socket) -> None:
        """Answer to the server at the other end of a socket."""
        self._control = control
        self._server = os.getppid()
        self._intakes: dict[int, Intake] = {}
        self._children: set[int] = set()
        self._folders: set[Path] = set()

    def run(self) -> None:
        """Do as told until the server goes; then end all children."""
        try:
            while self._server_lives():
                try:
                    message, descriptors, _, _ = socket.recv_fds(self._control, 1, 2)
                    if not message:
                        return
                    head, _ = frames.receive(self._control, ANY_SIZE)
                except ConnectionError:
                    return
                self._answer(pickle.loads(head), descriptors)  # nosec B301  # from the server, which is trusted
        finally:
            self._end(self._children)
            for folder in self._folders:
                shutil.rmtree(folder, ignore_errors=True)

    def _server_lives(self) -> bool:
        while not select.select([self._control], [], [], LOOK_SECONDS)[0]:
            if os.getppid() != self._server:
                return False
        return True

    def _answer(self, message: Any, descriptors: list[int]) -> None:
        answer: Any = None
        passed: list[int] = []
        try:
            if isinstance(message, Load):
                self._intakes[message.intake] = pickle.loads(message.content)  # nosec B301  # from the server
                gc.collect()
                # What is there now is never freed, so that looking for garbage leaves its pages shared.
                gc.freeze()
            elif isinstance(message, Forget):
                self._intakes.pop(message.intake, None)
            elif isinstance(message, Fork):
                answer, handle = self._fork(message, descriptors)
                passed = [handle]
            elif isinstance(message, Reap):
                answer = self._reap(message.child)
            elif isinstance(message, Scratch):
                self._folders.add(message.folder)
        except Exception as error:
            answer = error if _can_be_pickled(error) else RuntimeError(f"{type(error).__name__}: {error}")
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        socket.send_fds(self._control, [b"."], passed)
        for descriptor in passed:
            os.close(descriptor)
        frames.send(self._control, pickle.dumps(answer))

    def _fork(self, message: Fork, descriptors: list[int]) -> tuple[int, int]:
        parent = os.getpid()
        child = os.fork()
        if not child:
            self._be_a_reader(message, descriptors, parent)
        self._children.add(child)
        return child, os.pidfd_open(child)

    def _be_a_reader(self, message: Fork, descriptors: list[int], parent: int) -> NoReturn:
        status = 1
        try:
            confine(message.caps, message.folder, descriptors, parent)
            connection, shown = descriptors
            work(connection, shown, self._intakes, message.caps)
            status = 0
        finally:
            os._exit(status)

    def _reap(self, child: int) -> int:
        # One of an earlier nursery has died with it, and its number may be another's by now.
        self._children.remove(child)
        return self._end([child])[child]

    def _end(self, children: Collection[int]) -> dict[int, int]:
        statuses = {}
        for child in children:
            for kill, number in ((os.killpg, child), (os.kill, child)):
                try:
                    kill(number, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):
                    pass  # it has not become the leader of its group yet, or nobody is left
            _, status = os.waitpid(child, 0)
            statuses[child] = os.waitstatus_to_exitcode(status)
        self._end_orphans()
        return statuses

    def _end_orphans(self) -> None:
        """End what readers started and left behind: this process has inherited it."""
        mine = os.getpid()
        while orphans := [p for p in _children_of(mine) if p not in self._children]:
            for orphan in orphans:
                os.kill(orphan, signal.SIGKILL)
                os.waitpid(orphan, 0)


def _children_of(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == parent:
                found.append(int(entry.name))
    return found


def _can_be_pickled(error: Exception) -> bool:
    try:
        pickle.loads(pickle.dumps(error))  # nosec B301  # made here
    except Exception:
        return False
    return True


def main(control: int) -> None:
    """Be the nursery.

    Args:
        control: Descriptor of the socket to the server.
    """
    # The server tells when it is time to go, also when it was told so by a signal to all of its group.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    adopt_orphans()
    with socket.socket(fileno=control) as connection:
        connection.setblocking(True)
        Nursery(connection).run()
