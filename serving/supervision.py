"""The end of the one-process service: on request, or because a model hangs and only a new process can help.

A forward that never returns holds its thread, and a process cannot end while such a thread runs. So the process is
replaced by a fresh one on the same socket, where that is wanted, or ended without waiting.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from serving.engine import Engine
from serving.errors import Unavailable

logger = logging.getLogger("fmhub.serving")

LISTENING = "FMHUB_LISTENING_SOCKET"
"""Environment variable that names the open socket which a fresh process takes over."""

CHECK_SECONDS = 1.0

THREAD_SECONDS = 1.0
"""An idle thread of a closed engine is gone long before."""

HUNG = 70
"""Exit status when a thread had to be left behind: EX_SOFTWARE of sysexits.h."""


async def watch(engine: Engine, stop: Callable[[], None]) -> None:
    """Look at the engine's health until it is lost, then call ``stop``, unless the settings are against it."""
    while True:
        await asyncio.sleep(CHECK_SECONDS)
        try:
            engine.check()
        except Unavailable as problem:
            if problem.code == "shutting_down":
                return
            if not engine.settings.restart_on_hang:
                continue
            logger.critical("%s; only a new process can help", problem)
            stop()
            return


def inherited_socket() -> socket.socket | None:
    """Return the socket that the process before this one listened on, if there was one."""
    descriptor = os.environ.pop(LISTENING, None)
    if descriptor is None:
        return None
    found = socket.socket(fileno=int(descriptor))
    found.set_inheritable(False)
    return found


@dataclass(frozen=True)
class Ending:
    """How the process is to end, once its caller has tidied up.

    Attributes:
        listening: Socket for a fresh process in this one's place; ``None`` when the service was told to stop.
        threads: Those that the process had before the service; what is beside them at the end hangs.
    """

    listening: socket.socket | None
    threads: frozenset[threading.Thread]

    def carry_out(self) -> None:
        """Replace the process, or end it without waiting for a thread that hangs; return when none does."""
        if self.listening is not None:
            self.listening.set_inheritable(True)
            logger.info("starting anew")
            sys.stdout.flush()
            environment = {**os.environ, LISTENING: str(self.listening.fileno())}
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # nosec B606  # itself
        deadline = time.monotonic() + THREAD_SECONDS
        for thread in threading.enumerate():
            if thread not in self.threads and not thread.daemon:
                thread.join(max(0.0, deadline - time.monotonic()))
                if thread.is_alive():
                    logger.critical("ended with status %d, without waiting for what hangs", HUNG)
                    os._exit(HUNG)
