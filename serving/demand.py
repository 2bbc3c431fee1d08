"""How long a new request would wait for a model: what waits over what has been done a second."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

INPUT_BYTES = 1 << 14
"""What an input costs however small it is, in bytes of a large one."""

MEMORY_SECONDS = 15.0
"""Of busy time, after which what was done counts by a third."""

MEAN_OF = 20
"""How many of the last requests the mean size is of, about."""

MOST_SECONDS = 3600.0
"""A model that has done nothing for long would never end by this reckoning."""

UPLOAD_SECONDS = 5.0
"""A body that has not come by then is no longer expected: a slow upload keeps nobody out."""


def size_of(inputs: int, body_bytes: int) -> int:
    """Return the size of a request's work, as far as it can be known before anything is read.

    Args:
        inputs: How many it has.
        body_bytes: Of its body.
    """
    return inputs * INPUT_BYTES + body_bytes


class Demand:
    """The requests in work for one model, those whose bodies are coming, and how fast they are done.

    It lives on the event loop. The rate is that of the time in which there was something to do; with one request at a
    time it is lower than with many, which share batches, and so the wait is rather told too long.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with nothing known.

        Args:
            clock: Tells the seconds.
        """
        self._clock = clock
        self._coming: dict[int, float] = {}
        self._requests = self._waiting = self._finished = 0
        self._done = self._done_requests = self._busy = self._mean_size = 0.0
        self._since = clock()

    @property
    def coming(self) -> int:
        """How many bodies are expected soon."""
        stop = self._clock() - UPLOAD_SECONDS
        # In the order in which they began.
        while self._coming and (oldest := next(iter(self._coming.items())))[1] < stop:
            del self._coming[oldest[0]]
        return len(self._coming)

    def expect(self, ticket: int) -> None:
        """Note that a request's body is coming; ``ticket`` is what to tell it by."""
        self._coming[ticket] = self._clock()

    def expect_no_more(self, ticket: int) -> None:
        """Note that it has come, or will not."""
        self._coming.pop(ticket, None)

    @contextmanager
    def work(self, size: int) -> Iterator[None]:
        """Count a request's work as waiting within the context, and then as done, unless it was given up.

        Args:
            size: Of it, by `size_of`.
        """
        self._pass_time()
        self._requests += 1
        self._waiting += size
        done = True
        try:
            yield
        except asyncio.CancelledError:
            done = False
            raise
        finally:
            self._pass_time()
            self._requests -= 1
            self._waiting -= size
            if done:
                self._done += size
                self._done_requests += 1
                self._finished += 1
                self._mean_size += (size - self._mean_size) / min(self._finished, MEAN_OF)

    def _pass_time(self) -> None:
        now = self._clock()
        if self._requests:
            fade = math.exp((self._since - now) / MEMORY_SECONDS)
            self._done *= fade
            self._done_requests *= fade
            self._busy = self._busy * fade + (now - self._since)
        self._since = now

    @property
    def wait(self) -> float:
        """Seconds that a request would wait that came now; 0 while nothing has been done yet.

        Reckoned by size and by number, and the shorter one counts. Large inputs cost less a byte than small ones, so
        after many small ones the size of a few large ones tells far too much.
        """
        self._pass_time()
        if not self._finished:
            return 0.0
        by_size = (self._waiting + self.coming * self._mean_size) / max(self._done, 1.0)
        by_number = (self._requests + self.coming) / max(self._done_requests, 1.0)
        return min(min(by_size, by_number) * self._busy, MOST_SECONDS)
