"""When a request is sent again, and after how long. Requests only ask for numbers, so each may be sent twice."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

STATUSES = frozenset({429, 502, 503, 504})
"""Too much at once, or nobody there at the moment; 502 and 504 are a proxy's words for it."""


@dataclass(frozen=True)
class Retries:
    """Exponential back-off with full jitter, so that clients refused together do not come back together.

    Attributes:
        attempts: Tries in all, the first among them.
        outage_s: Nobody there (no connection, 502, 503, 504): tries go on until their waits add up to so much, however
            many there have been, so that a service that starts again somewhere is waited for. Only of a service that
            has answered this client before: a wrong address is told soon.
        outage_cap_s: Longest wait of the doubling meanwhile, to be there soon after it is.
        base_s: Longest wait after the first try; it doubles with each.
        cap_s: Longest wait of the doubling; a longer ``Retry-After`` is kept to.
        longest_s: A ``Retry-After`` beyond it is not waited for.
        random: Draws from [0, 1).
    """

    attempts: int = 6
    base_s: float = 0.25
    outage_s: float = 60.0
    outage_cap_s: float = 4.0
    cap_s: float = 15.0
    longest_s: float = 120.0
    random: Callable[[], float] = random.random

    def wait(
        self,
        tried: int,
        outcome: httpx.Response | httpx.TransportError,
        waited: float = 0.0,
        met: bool = False,
    ) -> float | None:
        """Return the seconds until the next try, or ``None`` when there is to be none.

        Args:
            tried: How many tries there have been, from 1.
            outcome: Of the last one.
            waited: Seconds spent in waits so far.
            met: Whether the service has answered before.
        """
        out = met and self.attempts > 1 and _nobody_there(outcome)
        if not _passing(outcome) or (waited >= self.outage_s if out else tried >= self.attempts):
            return None
        longest = self.outage_cap_s if out else self.cap_s
        backoff = self.random() * min(longest, self.base_s * 2 ** min(tried - 1, 30))
        asked = retry_after_of(outcome) if isinstance(outcome, httpx.Response) else None
        if asked is None:
            return backoff
        return None if asked > self.longest_s else asked + backoff


def retry_after_of(answer: httpx.Response) -> float | None:
    """Return what ``Retry-After`` asks for, in seconds; it may be a number or a date."""
    text = answer.headers.get("retry-after", "")
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def _nobody_there(outcome: httpx.Response | httpx.TransportError) -> bool:
    return not isinstance(outcome, httpx.Response) or outcome.status_code in (502, 503, 504)


def _passing(outcome: httpx.Response | httpx.TransportError) -> bool:
    """Whether another try may go better."""
    if isinstance(outcome, httpx.Response):
        if outcome.status_code == 500:
            # The service's own says in JSON what failed, and would fail again; a bare one is Ray's proxy, whose replica
            # died at work.
            return not outcome.headers.get("content-type", "").startswith("application/json")
        if outcome.status_code not in STATUSES:
            return False
        # The service worked on it for as long as it may, and would again.
        return not re.search(rb'"code":\s*"timeout"', outcome.content)
    if isinstance(outcome, httpx.UnsupportedProtocol | httpx.ProxyError | httpx.LocalProtocolError):
        return False
    # Whoever waits a minute for an answer in vain should not wait six.
    return not isinstance(outcome, httpx.TimeoutException) or isinstance(outcome, httpx.ConnectTimeout)
