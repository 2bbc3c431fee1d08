"""Users of the service: the client library with its retries, one request after another, every answer checked."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from serving.client import AsyncClient, Retries, ServiceError

TOLERANCE = 1e-5


@dataclass
class Tally:
    """What came of the users' requests.

    Attributes:
        sent: Calls of the client library.
        right: Answered as Python answers.
        wrong: Answered otherwise.
        refused: By the error's code; ``no_answer`` when the connection broke and no retry helped.
        finished: When each right answer came.
    """

    sent: int = 0
    right: int = 0
    wrong: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    finished: list[float] = field(default_factory=list)

    @property
    def lost(self) -> int:
        """Calls that got no answer at all."""
        return self.refused["no_answer"]

    def silence_after(self, moment: float) -> float:
        """Return the longest time without a right answer from a moment on, in seconds: how long a fault was felt."""
        times = [moment, *sorted(t for t in self.finished if t >= moment)]
        return max((b - a for a, b in itertools.pairwise(times)), default=float("inf"))


class Users:
    """Some users of one model, as an asynchronous context; leaving it lets them finish their last request."""

    def __init__(
        self, url: str, model: str, clips: Sequence[bytes], expected: np.ndarray, users: int = 4, attempts: int = 6
    ) -> None:
        """Prepare.

        Args:
            url: Of the service.
            model: That they ask for.
            clips: Files, of which each request sends some.
            expected: Their vectors, ``(clips, dimension)``.
            users: How many at once.
            attempts: Of the client library for one request.
        """
        self.tally = Tally()
        self._url, self._model, self._users = url, model, users
        self._clips, self._expected = clips, expected
        self._retries = Retries(attempts=attempts)
        self._stop = False

    async def __aenter__(self) -> Tally:
        self._tasks = [asyncio.create_task(self._user(number)) for number in range(self._users)]
        return self.tally

    async def __aexit__(self, *_: Any) -> None:
        self._stop = True
        await asyncio.gather(*self._tasks)

    async def _user(self, number: int) -> None:
        async with AsyncClient(self._url, retries=self._retries, timeout=60) as client:
            turn = number
            while not self._stop:
                count = (1, 4)[turn % 2]
                numbers = [(turn * 5 + n) % len(self._clips) for n in range(count)]
                turn += 1
                await self.ask(client, numbers)

    async def ask(self, client: AsyncClient, numbers: Sequence[int]) -> bool:
        """Send one request; return whether it was answered right."""
        self.tally.sent += 1
        try:
            found = await client.embed(self._model, [self._clips[n] for n in numbers])
        except ServiceError as error:
            self.tally.refused[error.code] += 1
            return False
        wanted = self._expected[list(numbers)]
        difference = np.abs(np.asarray(found.vectors) - wanted).max(1) / np.abs(wanted).max(1)
        if difference.max() > TOLERANCE:
            self.tally.wrong += 1
            return False
        self.tally.right += 1
        self.tally.finished.append(time.monotonic())
        return True
