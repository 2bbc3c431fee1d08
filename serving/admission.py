"""How many requests are in one model's work, and whether one more may come."""

from __future__ import annotations

import math

from serving.batch_loop import READING_AT_ONCE
from serving.config import ModelSettings, ServiceSettings
from serving.demand import Demand
from serving.errors import Overloaded, Unavailable
from serving.metrics import Metrics

MOST_RETRY_SECONDS = 60
"""Whatever it is that takes longer, by then it may have gone."""


class Admission:
    """Counts the requests in work for one model, and turns away those that would be too many.

    It lives on the event loop.

    Attributes:
        pending: Requests waiting or in work.
        demand: How much work they are.
        closed: Whether no more may come.
    """

    def __init__(self, settings: ModelSettings, service: ServiceSettings, metrics: Metrics) -> None:
        """Start with none.

        Args:
            settings: Of the model.
            service: Of the service.
            metrics: Where to count.
        """
        self.pending = 0
        self.demand = Demand()
        self.closed = False
        self._settings = settings
        self._service = service
        self._metrics = metrics

    def update(self, settings: ModelSettings, service: ServiceSettings) -> None:
        """Go on under other settings, and under another id where they give one."""
        self._settings, self._service = settings, service
        self._note()

    def check_room(self) -> None:
        """Raise what a request would get that came now: told before its body is read, a refusal costs next to nothing.

        Raises:
            Overloaded: As many requests, or as much work, as is allowed is waiting already.
            Unavailable: The service stops.
        """
        self._check_number(waiting := self.pending + self.demand.coming)
        wait = self.demand.wait
        # As many as are read side by side come in always: what they take is the newest that is known of the rate.
        if wait > self._service.longest_queue_s and waiting >= READING_AT_ONCE:
            raise Overloaded(
                f"{waiting} requests are waiting for {self._settings.id} already, about {wait:.0f} s of work; "
                "try again later",
                retry_after=_retry_after(wait),
            )

    def enter(self) -> None:
        """Count a request in; `leave` counts it out.

        Raises:
            Overloaded: As many as are allowed are waiting already.
            Unavailable: The service stops.
        """
        self._check_number(self.pending)
        self.pending += 1
        self._note()

    def leave(self) -> None:
        """Count a request out that was let in."""
        self.pending -= 1
        self._note()

    def _check_number(self, waiting: int) -> None:
        if self.closed:
            raise shutting_down()
        limit = self._settings.max_queued_requests
        if waiting >= limit:
            raise Overloaded(
                f"{limit} requests are waiting for {self._settings.id} already; try again later",
                retry_after=_retry_after(self.demand.wait),
            )

    def _note(self) -> None:
        self._metrics.pending_requests.labels(self._settings.id).set(self.pending)


def shutting_down() -> Unavailable:
    """Return what a request gets while the service stops."""
    return Unavailable("the service is shutting down", code="shutting_down")


def _retry_after(wait: float) -> int:
    return min(max(1, math.ceil(wait)), MOST_RETRY_SECONDS)
