"""The service on a Ray instance of its own, started and stopped with it."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hub.errors import HubError
from serving.addresses import check_tls, free_port, url_of
from serving.config import ServiceSettings
from serving.keys import KeyRing

LONGEST_FOLDER = 30
"""Ray puts sockets below its folder, and a socket's path may have about 107 bytes."""

PROXY_SLACK_SECONDS = 10.0
"""The proxy waits longer than the engine, so that a late request gets the engine's answer in our error shape."""


class ServiceDidNotStart(HubError):
    """Ray started, but the deployment did not come up."""

    code = "service_did_not_start"


@contextlib.contextmanager
def ray_service(settings: ServiceSettings) -> Iterator[str]:
    """Run the service on a new local Ray instance, and yield its URL once it is ready.

    Raises:
        InvalidSettings: The port is taken, or the certificate or the file of keys cannot be used.
        ServiceDidNotStart: The models could not be loaded.
    """
    check_tls(tls := settings.tls)
    KeyRing(settings)
    port = free_port(settings.host, settings.port)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # Ray gives its proxy five seconds to start, kills it after that, and then fails; a busy machine needs longer.
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "45")
    import ray
    from ray import serve

    from serving.deployment import LOGGING, application

    # Ray tells the terminal of each step; what a user needs to know, the command says.
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    folder = _short_folder()
    try:
        with _workers_import_alike():
            ray.init(
                address="local",
                # At least what the replicas reserve, or they would wait for ever to be placed.
                num_cpus=max(os.cpu_count() or 1, math.ceil(settings.ray.most_replicas * settings.ray.num_cpus)),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=settings.ray.object_store_memory,
                _temp_dir=str(folder),
            )
        serve.start(
            proxy_location="HeadOnly",
            http_options={
                "host": settings.host,
                "port": port,
                "request_timeout_s": settings.request_timeout_s + PROXY_SLACK_SECONDS,
                **({"ssl_certfile": str(tls.certificate), "ssl_keyfile": str(tls.key)} if tls else {}),
            },
            logging_config=LOGGING,
        )
        try:
            serve.run(application(settings), name="fmhub", route_prefix="/")
        except RuntimeError:
            raise ServiceDidNotStart(_reason()) from None
        yield url_of(settings.host, port, tls=tls is not None)
    finally:
        with _signals_ignored():
            # Ray prints that its controller was killed, which is how it ends it.
            with contextlib.redirect_stdout(io.StringIO()):
                if ray.is_initialized():
                    serve.shutdown()
                    ray.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def run_ray(settings: ServiceSettings, on_ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM, then stop the Ray instance.

    Args:
        settings: Of the service.
        on_ready: Called with the URL once requests are answered.
    """
    stop = threading.Event()

    def on_signal(*_: object) -> None:
        stop.set()
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, on_signal)
    try:
        with ray_service(settings) as url:
            # Ray has put a handler of its own in place meanwhile.
            signal.signal(signal.SIGTERM, on_signal)
            on_ready(url)
            stop.wait()
    except KeyboardInterrupt:
        pass


@contextlib.contextmanager
def _workers_import_alike() -> Iterator[None]:
    """Let Ray's workers, started meanwhile, import what this process can: domains and embedders on its path."""
    kept = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    try:
        yield
    finally:
        if kept is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = kept


@contextlib.contextmanager
def _signals_ignored() -> Iterator[None]:
    """Let a second Ctrl-C not interrupt the stopping of Ray, which would leave its processes behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept: dict[int, Any] = {s: signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _short_folder() -> Path:
    root = tempfile.gettempdir()
    short = root if len(root) <= LONGEST_FOLDER else "/tmp"  # nosec B108  # mkdtemp makes a private folder in it
    return Path(tempfile.mkdtemp(prefix="fmhub-", dir=short))


def _reason() -> str:
    """Return the error that stopped the replicas, without the traceback around it."""
    from ray import serve

    found = ""
    for application in serve.status().applications.values():
        for deployment in application.deployments.values():
            for line in deployment.message.splitlines():
                # The last line of a traceback: 'package.module.Kind: message'.
                match = re.match(r"(?:hub|serving)[\w.]*: (.+)|(\w[\w.]*Error: (?!Traceback).+)", line)
                if match is not None:
                    found = match[1] or match[2]
    return f"the service did not start: {found or 'its replicas did not come up'}"
