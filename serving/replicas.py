"""One answer to ``/metrics`` for all replicas, whichever of them Ray's proxy asks.

Each replica publishes its series to a small actor every few seconds; the one that is asked adds its own, as they are
at that moment, to what the others published last. All carry a label ``replica``, so that sums and rates come out
right.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any

import ray
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from ray.exceptions import RayError

from serving.metrics import Exposition, Metrics, exposition_of

logger = logging.getLogger("fmhub.serving")

PUBLISH_SECONDS = 5.0

FORGET_SECONDS = 20.0
"""What a replica published is left out after this time: it has gone."""

ANSWER_SECONDS = 5.0
"""Longer than this nobody waits for the board: Prometheus gives a scrape ten seconds."""

NAMESPACE = "serve"


class Board:
    """The actor: what each replica published last."""

    def __init__(self) -> None:
        """Start empty."""
        self._published: dict[str, tuple[float, list[Metric]]] = {}

    def publish(self, replica: str, series: list[Metric]) -> None:
        """Keep a replica's series."""
        self._published[replica] = (time.monotonic(), series)

    def published(self) -> dict[str, list[Metric]]:
        """Return the series of all replicas that are still there."""
        oldest = time.monotonic() - FORGET_SECONDS
        self._published = {name: found for name, found in self._published.items() if found[0] > oldest}
        return {name: series for name, (_, series) in self._published.items()}


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
        self._board: Any = None
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
            if self._board is None:
                # It belongs to the replica that made it and goes with it, so that none is left behind; another
                # replica then makes a new one.
                options = {"name": self._name, "namespace": NAMESPACE, "get_if_exists": True, "num_cpus": 0}
                made = asyncio.to_thread(lambda: ray.remote(Board).options(**options).remote())
                self._board = await asyncio.wait_for(made, ANSWER_SECONDS)
            return await asyncio.wait_for(getattr(self._board, method).remote(*arguments), ANSWER_SECONDS)
        except RayError:
            # It went with its replica.
            self._board = None
            raise


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
