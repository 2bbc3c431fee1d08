"""The server's ends of the nursery and of its reader processes."""

from __future__ import annotations

import itertools
import mmap
import os
import pickle
import select
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hub.embedder import Intake
from serving.readers import frames, wire
from serving.readers.caps import Caps
from serving.readers.launch import take
from serving.readers.nursery import Forget, Fork, Load, Reap, Scratch
from serving.readers.stream import TURN_BYTES, TURN_SECONDS
from serving.readers.worker import ANY_SIZE, NO_PLACE, PLACE, DropRequest, Request, dumps

TICK_SECONDS = 0.1
"""How often it is looked whether anybody still waits for a turn."""
ABANDONED_SECONDS = 2.0
"""How long a turn may go on for a request that is gone; most end by themselves within milliseconds."""
HEAD_BYTES = 1 << 26
"""Most that an answer has beside its arrays: names, keys, warnings."""

_numbers = itertools.count()


class ReaderDied(Exception):
    """A reader process is gone.

    Attributes:
        reason: ``killed`` (by somebody, or for want of memory), ``crashed``, ``exited``, ``garbled`` (it sent what no
            reader sends), or what this side ended it for: ``timeout``, ``abandoned``, ``memory``.
        place: Index of the input that it had at hand, as far as it said.
    """

    def __init__(self, reason: str, place: int = NO_PLACE) -> None:
        """Keep both."""
        super().__init__(reason)
        self.reason = reason
        self.place = place


class NotAsked(Exception):
    """Nothing was asked: the process was dead before, or nobody waits any more."""


class NurseryProcess:
    """The nursery, started when it is needed, and anew when it has died; several pools of a process share one."""

    _shared: NurseryProcess | None = None
    _sharing = threading.Lock()

    def __init__(self) -> None:
        """Prepare; nothing is started yet."""
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._loaded: dict[int, bytes] = {}
        self._folders: list[Path] = []
        self._users = 0
        self._closed = False

    @classmethod
    def lease(cls) -> NurseryProcess:
        """Return this process's nursery; who takes it gives it back by `release`."""
        with cls._sharing:
            cls._shared = cls._shared or cls()
            cls._shared._users += 1
            return cls._shared

    def release(self) -> None:
        """Give it back; with the last one it ends, and all children with it."""
        with self._sharing:
            self._users -= 1
            if self._users:
                return
            NurseryProcess._shared = None
        with self._lock:
            self._closed = True
            self._stop()

    @property
    def pid(self) -> int | None:
        """Its process id, where it runs."""
        return self._process.pid if self._process is not None else None

    # --- what it does, each from any thread --------------------------------------------------------------

    def start(self) -> None:
        """Start it, unless it runs; it imports for some seconds, and what is asked of it meanwhile waits."""
        with self._lock:
            self._ensure()

    def load(self, intake: Intake) -> int:
        """Let later children have a reader and a processor; return their number.

        Raises:
            Exception: They cannot be pickled, or not be imported there.
        """
        number, content = next(_numbers), pickle.dumps(intake)
        self._ask(Load(number, content))
        self._loaded[number] = content
        return number

    def forget(self, intake: int) -> None:
        """Let later children have them no longer."""
        if self._loaded.pop(intake, None) is not None:
            self._ask(Forget(intake))

    def clear_up(self, folder: Path) -> None:
        """Let it remove a folder when this process goes without doing so."""
        self._folders.append(folder)
        self._ask(Scratch(folder))

    def fork(self, caps: Caps, folder: Path) -> ReaderProcess:
        """Return a new reader process.

        Args:
            caps: It is held to them.
            folder: An empty one, for its temporary files.

        Raises:
            OSError: There is none to be had.
        """
        ours, theirs = socket.socketpair()
        shown = os.memfd_create("fmhub-reader")
        os.truncate(shown, PLACE.size)
        memory = mmap.mmap(shown, PLACE.size)
        try:
            with theirs:
                pid, (handle,) = self._ask(Fork(caps, folder), [theirs.fileno(), shown])
        except BaseException:
            ours.close()
            memory.close()
            raise
        finally:
            os.close(shown)
        return ReaderProcess(self, pid, handle, ours, memory, folder, caps)

    def reap(self, pid: int) -> int:
        """End a child with all that it started; return its exit status, negative for a signal.

        Raises:
            OSError: The nursery has died; its children have died with it.
        """
        with self._lock:
            if self._control is None:
                raise ConnectionError("the nursery has gone")
            status, _ = self._exchange(Reap(pid), [])
        if isinstance(status, Exception):
            raise ConnectionError("it was the child of a nursery that has gone")
        return int(status)

    # --- the process -------------------------------------------------------------------------------------

    def _ask(self, message: Any, descriptors: list[int] | None = None) -> Any:
        with self._lock:
            self._ensure()
            answer, passed = self._exchange(message, descriptors or [])
        if isinstance(answer, Exception):
            raise answer
        return (answer, passed) if passed else answer

    def _exchange(self, message: Any, descriptors: list[int]) -> tuple[Any, list[int]]:
        assert self._control is not None
        try:
            socket.send_fds(self._control, [b"."], descriptors)
            frames.send(self._control, pickle.dumps(message))
            mark, passed, _, _ = socket.recv_fds(self._control, 1, 1)
            if not mark:
                raise frames.Closed("the nursery has gone")
            head, _ = frames.receive(self._control, ANY_SIZE)
        except OSError:
            self._stop()
            raise
        # It has touched nothing that came from outside.
        return pickle.loads(head), list(passed)  # nosec B301

    def _ensure(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        if self._closed:
            raise ConnectionError("the nursery was given back")
        self._stop()
        launched = take()
        self._process, self._control = launched.process, launched.control
        for folder in self._folders:
            self._exchange(Scratch(folder), [])
        for number, content in self._loaded.items():
            self._exchange(Load(number, content), [])

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = self._control = None


class ReaderProcess:
    """One reader process, and the thread that talks to it: one request at a time, each with one answer.

    Attributes:
        pid: Its process id.
        handle: Its process file descriptor: readable once it has died.
        thread: Where to call `ask`, `drop` and `end`.
        on_end: Called with the reason when it has ended, in that thread.
    """

    def __init__(
        self,
        nursery: NurseryProcess,
        pid: int,
        handle: int,
        connection: socket.socket,
        shown: mmap.mmap,
        folder: Path,
        caps: Caps,
    ) -> None:
        """Take over a process that was just forked.

        Args:
            nursery: Its parent.
            pid: Its process id.
            handle: Its process file descriptor: readable once it has died.
            connection: To it.
            shown: Memory in which it says which input it has at hand.
            folder: Of its temporary files.
            caps: It is held to them.
        """
        self.pid = pid
        self.handle = handle
        self.on_end: Callable[[str], None] = lambda reason: None
        self.thread = ThreadPoolExecutor(1, f"reader-{pid}")
        self._nursery = nursery
        self._connection = connection
        self._shown = shown
        self._folder = folder
        self._caps = caps
        self._most = caps.output_bytes + TURN_BYTES + HEAD_BYTES
        self._ended: str | None = None
        connection.setblocking(False)
        self._poll = select.poll()
        self._poll.register(handle, select.POLLIN)

    # --- in its thread -----------------------------------------------------------------------------------

    def ask(self, request: Request, types: wire.Types, gone_since: Callable[[], float | None]) -> Any:
        """Return the answer to a request.

        Args:
            request: What to do.
            types: What the answer may hold.
            gone_since: Tells since when nobody waits for it, by the monotonic clock.

        Raises:
            ReaderDied: The process died, or had to be ended.
            NotAsked: It was dead before, or nobody waits any more.
        """
        if gone_since() is not None:
            raise NotAsked
        if self._ended is not None or self._poll.poll(0):
            self.end("died")
            raise NotAsked
        PLACE.pack_into(self._shown, 0, NO_PLACE)
        waiting = _Waiting(self._connection, self.handle, self._caps.seconds, gone_since)
        try:
            frames.send(self._connection, *dumps(request), waiting)
            head, block = frames.receive(self._connection, self._most, waiting)
            return wire.decode(head, block, types)
        except _GaveUp as error:
            reason = str(error)
        except (frames.FrameTooLarge, wire.Garbled):
            reason = "garbled"
        except OSError:
            reason = "died"
        place = self._place()
        raise ReaderDied(self.end(reason), place)

    def drop(self, stream: int) -> None:
        """Let go of a stream that is not read to its end."""
        if self._ended is None:
            waiting = _Waiting(self._connection, self.handle, self._caps.seconds, lambda: None)
            try:
                frames.send(self._connection, *dumps(DropRequest(stream)), waiting)
                frames.receive(self._connection, self._most, waiting)
            except (_GaveUp, OSError, frames.FrameTooLarge):
                self.end("died")

    def end(self, reason: str) -> str:
        """End the process and remove its files; return why it ended, in the words of `ReaderDied`.

        Args:
            reason: Why, if it is this side that ends it; ``died`` if it is to be found out.
        """
        if self._ended is None:
            self._ended = reason
            try:
                status = self._nursery.reap(self.pid)
            except OSError:
                # The nursery has died, and its children with it.
                status = -signal.SIGKILL
            if reason == "died":
                kind = "exited" if status >= 0 else "crashed"
                self._ended = "killed" if status == -signal.SIGKILL else kind
            self._connection.close()
            self._shown.close()
            shutil.rmtree(self._folder, ignore_errors=True)
            self.on_end(self._ended)
        return self._ended

    def close(self) -> None:
        """Let go of the rest, once nobody uses the handle any more."""
        self.thread.shutdown(wait=False)
        os.close(self.handle)

    def _place(self) -> int:
        return int(PLACE.unpack_from(self._shown)[0])


class _GaveUp(Exception):
    """A process took too long, or died."""


class _Waiting:
    """Waits for a process's socket, until it dies, or takes longer than it may, or works for nobody."""

    def __init__(
        self, connection: socket.socket, handle: int, seconds: float | None, gone_since: Callable[[], float | None]
    ) -> None:
        self._poll = select.poll()
        self._poll.register(handle, select.POLLIN)
        self._handle, self._connection = handle, connection.fileno()
        self._writing: bool | None = None
        # A turn may have gone on for a while before its longest sample began.
        self._seconds = None if seconds is None else seconds + TURN_SECONDS
        self._started = time.monotonic()
        self._gone_since = gone_since

    def __call__(self, to_write: bool) -> None:
        if to_write != self._writing:
            self._poll.register(self._connection, select.POLLOUT if to_write else select.POLLIN)
            self._writing = to_write
        while True:
            ready = {descriptor for descriptor, _ in self._poll.poll(TICK_SECONDS * 1000)}
            if self._connection in ready:
                return
            if self._handle in ready:
                raise _GaveUp("died")
            now, gone = time.monotonic(), self._gone_since()
            if self._seconds is not None and now - self._started > self._seconds:
                raise _GaveUp("timeout")
            if gone is not None and now - gone > ABANDONED_SECONDS:
                raise _GaveUp("abandoned")
