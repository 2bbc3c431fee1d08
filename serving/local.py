"""The service in one process under uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Generator

import uvicorn

from serving.addresses import check_tls, listening_socket, url_of
from serving.app import create_app
from serving.config import ServiceSettings
from serving.connections import GuardedProtocol
from serving.engine import Engine
from serving.logs import configure_logging


def run_local(settings: ServiceSettings, on_ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM, finishing what is in work.

    Args:
        settings: Of the service.
        on_ready: Called with the URL once the models of the start are loaded and warmed.

    Raises:
        InvalidSettings: The port is taken, or the certificate or the file of keys cannot be used.
        HubError: A model of the start cannot be loaded.
    """
    asyncio.run(_serve(settings, on_ready))


async def _serve(settings: ServiceSettings, on_ready: Callable[[str], None]) -> None:
    check_tls(tls := settings.tls)
    with listening_socket(settings.host, settings.port) as found:
        configure_logging(settings)
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
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, server.stop)
        serving = asyncio.create_task(server.serve(sockets=[found]))
        # The port answers at once, /readyz with 503, while the models load.
        loading = asyncio.create_task(engine.wait_ready())
        try:
            await asyncio.wait({serving, loading}, return_when=asyncio.FIRST_COMPLETED)
            if loading.done():
                loading.result()
                on_ready(url_of(settings.host, found.getsockname()[1], tls=tls is not None))
        finally:
            if not loading.done():
                loading.cancel()
            elif loading.exception() is not None:
                server.stop()
            await serving


class _Server(uvicorn.Server):
    """A server that is stopped by its owner: uvicorn's own handlers end the process before others can tidy up."""

    def stop(self) -> None:
        """Take no more connections, finish the requests in work, and end."""
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave the signals alone."""
        yield
