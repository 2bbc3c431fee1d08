"""One answer to ``/metrics`` for all replicas, whichever of them Ray's proxy asks.

Each replica publishes its series every few seconds in the store of names and values that a Ray cluster has in its
head; the one that is asked adds its own, as they are at that moment, to what the others published last. All carry a
label ``replica``, so that sums and rates come out right. There is no process that could die and take the series along.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence

from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from ray.experimental import internal_kv as store

from serving.metrics import Exposition, Metrics, exposition_of

logger = logging.getLogger("fmhub.serving")

PUBLISH_SECONDS = 5.0

FORGET_SECONDS = 20.0
"""What a replica published is left out after this time: it has gone. The clocks of the nodes agree that well."""

ANSWER_SECONDS = 5.0
"""Longer than this nobody waits for the store: Prometheus gives a scrape ten seconds."""

NAMESPACE = "fmhub"


class Board:
    """What the replicas of one application published last; its methods wait for the cluster's head."""

    def __init__(self, application: str) -> None:
        """Prepare to read and write; ``application`` is the Serve application's name."""
        self._prefix = f"metrics/{application}/"

    def publish(self, replica: str, series: Sequence[Metric]) -> None:
        """Put a replica's series in the place of those that it published before."""
        plain = [(m.name, m.documentation, m.type, [(s.name, s.labels, s.value) for s in m.samples]) for m in series]
        content = json.dumps({"when": time.time(), "series": plain})
        store._internal_kv_put(self._prefix + replica, content, namespace=NAMESPACE)

    def published(self) -> dict[str, Sequence[Metric]]:
        """Return the series of all replicas that are still there, by the replica's id, and remove the others'."""
        found: dict[str, Sequence[Metric]] = {}
        for key in store._internal_kv_list(self._prefix, namespace=NAMESPACE):
            content = store._internal_kv_get(key, namespace=NAMESPACE)
            if content is None:  # another replica has removed it meanwhile
                continue
            value = json.loads(content)
            if value["when"] > time.time() - FORGET_SECONDS:
                found[key.decode().removeprefix(self._prefix)] = [_metric(*plain) for plain in value["series"]]
            else:
                store._internal_kv_del(key, namespace=NAMESPACE)
        return found


def _metric(name: str, documentation: str, kind: str, samples: Iterable[tuple[str, dict[str, str], float]]) -> Metric:
    found = Metric(name, documentation, kind)
    found.samples = [Sample(*sample) for sample in samples]
    return found


class SharedMetrics:
    """One replica's view of the board."""

    def __init__(self, metrics: Metrics, application: str, replica: str) -> None:
        """Prepare to publish.

        Args:
            metrics: Of this replica.
            application: Name of the Serve application.
            replica: Id of this replica.
        """
        self._metrics = metrics
        self._replica = replica
        self._board = Board(application)

    async def publish(self) -> None:
        """Publish for as long as the replica lives."""
        while True:
            try:
                series = list(self._metrics.registry.collect())
                await asyncio.wait_for(asyncio.to_thread(self._board.publish, self._replica, series), ANSWER_SECONDS)
            except Exception as error:
                # Whatever it is, the next try may go better; nothing else would tell that it had stopped.
                logger.warning("the series of this replica were not published: %s", type(error).__name__)
            await asyncio.sleep(PUBLISH_SECONDS)

    async def exposition(self, accept: str) -> Exposition:
        """Return the series of all replicas; see `serving.metrics.exposition_of`."""
        try:
            others = await asyncio.wait_for(asyncio.to_thread(self._board.published), ANSWER_SECONDS)
        except Exception as error:
            # Better none than those of an earlier scrape: a counter that goes back looks like one that began anew.
            logger.warning("the other replicas' series are missing in an answer: %s", type(error).__name__)
            others = {}
        own: dict[str, Sequence[Metric]] = {self._replica: list(self._metrics.registry.collect())}
        return exposition_of(Merged(others | own), accept)


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
