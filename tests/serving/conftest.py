from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
# The dummy embedder must be importable by name, here and in Ray's workers, which get this process's path.
sys.path.insert(0, str(Path(__file__).parent))

import httpx
import pytest

from serving.app import create_app
from serving.config import ServiceSettings, check_settings
from serving.engine import Engine
from serving.readers.processes import NurseryProcess

FACTORY = "arithmetic:load"
WORKERS = int(os.environ.get("TEST_WORKERS", "0"))
"""Processes that engines of the tests read in, unless a test says otherwise; threads are faster to start."""

# All engines of this test process share one nursery, begun by the first that needs it: each would import for seconds.
NurseryProcess.lease()


def settings(*models: Any, **values: Any) -> ServiceSettings:
    """Settings of a service with dummy models, one of them 'dummy' unless others are named."""
    defaults = {"embedder_factory": FACTORY, "torch_threads": 1, "reader_workers": WORKERS, "shutdown_grace_s": 2}
    return check_settings({**defaults, "models": list(models) or ["dummy"], **values})


@asynccontextmanager
async def running_engine(*models: Any, **values: Any) -> AsyncIterator[Engine]:
    """An engine with dummy models, ready."""
    engine = Engine(settings(*models, **values))
    await engine.wait_ready()
    try:
        yield engine
    finally:
        await engine.close()


@asynccontextmanager
async def running_app(*models: Any, **values: Any) -> AsyncIterator[tuple[httpx.AsyncClient, Engine]]:
    """An in-process client of the application over dummy models, and the engine."""
    async with running_engine(*models, **values) as engine:
        transport = httpx.ASGITransport(app=create_app(engine))
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            yield client, engine


def model_of(engine: Engine, name: str = "dummy") -> Any:
    """The dummy model behind a lane."""
    embedder = engine.lane(name).embedder
    assert embedder is not None
    return embedder.model


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """A service that a test runs in this process configures the process's logging."""
    loggers = [logging.getLogger(name) for name in (None, "fmhub", "fmhub.access", "uvicorn", "py.warnings")]
    kept = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    yield
    logging.captureWarnings(False)
    for logger, handlers, level, propagate in kept:
        logger.handlers, logger.level, logger.propagate = handlers, level, propagate


@pytest.fixture
def run() -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Run a coroutine, with a limit so that a hang is a failure."""

    def runner(work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run(asyncio.wait_for(work, 30))

    return runner
