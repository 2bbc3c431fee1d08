"""One answer to ``/metrics`` for all replicas, whichever of them Ray's proxy asks.

Each replica publishes its series to a small actor every few seconds; the one that is asked adds its own, as they are
at that moment, to what the others published last. All carry a label ``replica``, so that sums and rates come out
right.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Any

import ray
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from ray.exceptions import RayError

from serving.board import Board
from serving.metrics import Exposition, Metrics, exposition_of

logger = logging.getLogger("fmhub.serving")

PUBLISH_SECONDS = 5.0

ANSWER_SECONDS = 5.0
"""Longer than this nobody waits for the board: Prometheus gives a scrape ten seconds."""

NAMESPACE = "serve"


class SharedMetrics:
    """One replica's view of the board, which whoever needs it first makes."""

    def __init__(self, metrics: Metrics, application: str, replica: str) -> None:
        """Prepare to publish.

        Args:
            metrics: Of this replica.
            application: Name of the Serve application.
            replica: Id of this replica.
        """
        self._metrics = metrics
        self._name = f"fmhub-metrics-{application}"
        self._replica = replica
        self._board: asyncio.Future[Any] | None = None
        self._others: dict[str, list[Metric]] = {}

    async def publish(self) -> None:
        """Publish for as long as the replica lives."""
        while True:
            try:
                await self._call("publish", self._replica, list(self._metrics.registry.collect()))
            except Exception as error:
                # Whatever it is, the next try may go better; nothing else would tell that it had stopped.
                logger.warning("the series of this replica were not published: %s", type(error).__name__)
            await asyncio.sleep(PUBLISH_SECONDS)

    async def exposition(self, accept: str) -> Exposition:
        """Return the series of all replicas; see `serving.metrics.exposition_of`."""
        try:
            self._others = await self._call("published")
        except Exception as error:
            logger.warning("the other replicas' series are those of the scrape before: %s", type(error).__name__)
        own = {self._replica: list(self._metrics.registry.collect())}
        return exposition_of(Merged(self._others | own), accept)

    async def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return await self._ask(method, *arguments)
        except RayError:
            # The board went with the replica that had made it; whoever notices makes a new one.
            return await self._ask(method, *arguments)

    async def _ask(self, method: str, *arguments: Any) -> Any:
        # Made once, and without a limit: the actor would go with a handle that nobody kept.
        made = self._board = self._board or asyncio.ensure_future(asyncio.to_thread(self._make))
        try:
            board = await asyncio.wait_for(asyncio.shield(made), ANSWER_SECONDS)
            return await asyncio.wait_for(getattr(board, method).remote(*arguments), ANSWER_SECONDS)
        except TimeoutError:
            raise
        except Exception:
            if self._board is made:
                self._board = None
            raise

    def _make(self) -> Any:
        # It belongs to the replica that made it and goes with it, so that none is left behind.
        options = {"name": self._name, "namespace": NAMESPACE, "get_if_exists": True, "num_cpus": 0}
        return ray.remote(Board).options(**options).remote()


class Merged(Collector):
    """The series of several replicas as one set of families."""

    def __init__(self, replicas: Mapping[str, Iterable[Metric]]) -> None:
        """Merge them.

        Args:
            replicas: Series by the replica's id, which becomes their label ``replica``.
        """
        self._replicas = replicas

    def collect(self) -> Iterable[Metric]:
        """Yield each family once, with the samples of all replicas."""
        families: dict[str, Metric] = {}
        for replica, series in self._replicas.items():
            for metric in series:
                family = families.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
                family.samples += [s._replace(labels={**s.labels, "replica": replica}) for s in metric.samples]
        yield from families.values()
