"""The service in one process under uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Callable, Generator

import uvicorn

from hub.errors import HubError
from serving.addresses import check_tls, listening_socket, url_of
from serving.app import create_app
from serving.config import ServiceSettings
from serving.connections import GuardedProtocol
from serving.engine import Engine
from serving.housekeeping import keep_house
from serving.logs import configure_logging
from serving.supervision import Ending, inherited_socket, watch

logger = logging.getLogger("fmhub.serving")


def run_local(
    settings: ServiceSettings, on_ready: Callable[[str], None], reload: Callable[[], ServiceSettings] | None = None
) -> Ending:
    """Serve until SIGINT or SIGTERM, finishing what is in work.

    Args:
        settings: Of the service.
        on_ready: Called with the URL once the models of the start are loaded and warmed.
        reload: Reads the settings again, on SIGHUP; without it the signal ends the process, as it does any other.

    Returns:
        How the process is to end; the caller carries it out when it has tidied up.

    Raises:
        InvalidSettings: The port is taken, or the certificate or the file of keys cannot be used.
        HubError: A model of the start cannot be loaded.
    """
    threads = frozenset(threading.enumerate())
    # What uvicorn itself would choose: uvloop, where there is one.
    with asyncio.Runner(loop_factory=uvicorn.Config("", log_config=None).get_loop_factory()) as runner:
        return Ending(runner.run(_serve(settings, on_ready, reload)), threads)


async def _serve(
    settings: ServiceSettings, on_ready: Callable[[str], None], reload: Callable[[], ServiceSettings] | None
) -> socket.socket | None:
    """Serve; return the socket that a fresh process should go on with, where one should."""
    check_tls(tls := settings.tls)
    with inherited_socket() or listening_socket(settings.host, settings.port) as found:
        configure_logging(settings)
        # Asked now: a server that is stopped meanwhile has closed it.
        url = url_of(settings.host, found.getsockname()[1], tls=tls is not None)
        engine = Engine(settings)
        server = _Server(
            uvicorn.Config(
                create_app(engine),
                lifespan="on",
                http=GuardedProtocol,
                log_config=None,
                access_log=False,
                server_header=False,
                ssl_certfile=tls.certificate if tls else None,
                ssl_keyfile=tls.key if tls else None,
                timeout_graceful_shutdown=max(1, round(settings.shutdown_grace_s)),
            )
        )
        loop = asyncio.get_running_loop()
        tasks: set[asyncio.Task[None]] = set()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, server.stop)
        if reload is not None:
            loop.add_signal_handler(signal.SIGHUP, lambda: tasks.add(asyncio.create_task(_reload(engine, reload))))
        serving = asyncio.create_task(server.serve(sockets=[found]))
        # The port answers at once, /readyz with 503, while the models load.
        loading = asyncio.create_task(engine.wait_ready())
        tasks.add(asyncio.create_task(keep_house(engine)))
        # Doubled, because the server closes the one that it has.
        tasks.add(asyncio.create_task(watch(engine, lambda: server.stop_to_restart(found.dup()))))
        try:
            await asyncio.wait({serving, loading}, return_when=asyncio.FIRST_COMPLETED)
            # Cancelled: the service was stopped while its models were loading.
            if loading.done() and not loading.cancelled():
                loading.result()
                if not server.should_exit:
                    on_ready(url)
        finally:
            if not loading.done():
                loading.cancel()
            elif not loading.cancelled() and loading.exception() is not None:
                server.stop()
            await serving
            for task in tasks:
                task.cancel()
        return server.kept


async def _reload(engine: Engine, reload: Callable[[], ServiceSettings]) -> None:
    try:
        await engine.apply(await asyncio.to_thread(reload))
    except Exception as error:
        logger.error("the settings stay as they were: %s", error if isinstance(error, HubError) else type(error))
    else:
        logger.info("settings reloaded: %s", ", ".join(engine.lanes))


class _Server(uvicorn.Server):
    """A server that is stopped by its owner: uvicorn's own handlers end the process before others can tidy up."""

    kept: socket.socket | None = None

    def stop(self) -> None:
        """Take no more connections, finish the requests in work, and end."""
        self.should_exit, self.kept = True, None

    def stop_to_restart(self, listening: socket.socket) -> None:
        """End like that, but keep the socket, unless somebody has asked for the end already."""
        self.kept = None if self.should_exit else listening
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave the signals alone."""
        yield
