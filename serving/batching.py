"""The waiting samples of one model, and which of them go into the next forward."""

from __future__ import annotations

from collections import deque

from hub.batching import batches_by_cost
from serving.jobs import Waiting, Work

WINDOW_BATCHES = 4
"""How many batches' worth of samples are looked at, so that those of similar length find each other."""

WINDOW_SAMPLES = 1024
"""Planning happens on the event loop: this many are sorted in well under a millisecond."""


MAX_PADDING = 0.2
"""Share of a batch that may be padding: what is of another length waits for the next one."""


class WaitingRoom:
    """Samples waiting for the model, first come first served, with neighbours of similar cost.

    The oldest sample is in the next batch, always; who rides along is decided by cost. So nothing starves, and
    little is padding.
    """

    def __init__(self, budget: int, max_padding: float | None = MAX_PADDING) -> None:
        """Start empty.

        Args:
            budget: Padded cost of one forward.
            max_padding: See `hub.batching.batches_by_cost`.
        """
        self.budget = budget
        self._max_padding = max_padding
        self.cost = 0
        self._queues: dict[Work, deque[Waiting]] = {}

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def put(self, waiting: Waiting) -> None:
        """Let a sample wait."""
        self._queues.setdefault(waiting.job.work, deque()).append(waiting)
        self.cost += waiting.prepared.cost

    @property
    def full(self) -> bool:
        """Whether enough waits that reading further ahead would only take memory."""
        return self.cost >= WINDOW_BATCHES * self.budget

    def oldest(self) -> Waiting | None:
        """Return the sample that has waited longest; those of ended requests are dropped on the way."""
        heads = []
        for work, queue in list(self._queues.items()):
            while queue and queue[0].job.done:
                self.cost -= queue.popleft().prepared.cost
            if queue:
                heads.append(queue[0])
            else:
                del self._queues[work]
        return min(heads, key=lambda w: w.since, default=None)

    def take(self) -> list[Waiting]:
        """Remove and return the next batch: the oldest sample and others of the same work and similar cost."""
        oldest = self.oldest()
        if oldest is None:
            return []
        queue = self._queues[oldest.job.work]
        window = self._window(queue)
        costs = [w.prepared.cost for w in window]
        plan = batches_by_cost(costs, self.budget, max_padding=self._max_padding)
        chosen = set(next(batch for batch in plan if 0 in batch))
        queue.extendleft(w for i, w in reversed(list(enumerate(window))) if i not in chosen)
        batch = [window[i] for i in sorted(chosen)]
        self.cost -= sum(w.prepared.cost for w in batch)
        return batch

    def _window(self, queue: deque[Waiting]) -> list[Waiting]:
        """Pop the samples at the head of a queue that the next batches will be planned from."""
        window: list[Waiting] = []
        cost = 0
        while queue and len(window) < WINDOW_SAMPLES and cost < WINDOW_BATCHES * self.budget:
            waiting = queue.popleft()
            if waiting.job.done:
                self.cost -= waiting.prepared.cost
                continue
            window.append(waiting)
            cost += waiting.prepared.cost
        return window
