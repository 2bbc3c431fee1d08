"""Who may come in: the layer that asks for a key, and what a key may see.

Everything but ``/healthz``, ``/readyz`` and the files of the playground asks for a key once one is configured, unknown
paths too: an outsider learns nothing of what there is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from fnmatch import fnmatchcase

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from hub.errors import HubError
from serving.config import CANARY, KeySettings, ServiceSettings
from serving.errors import Forbidden, Overloaded, Unauthorized
from serving.keys import KeyRing
from serving.page import ASSETS
from serving.problems import report

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready", *ASSETS})
"""Asked by supervisors and balancers, which have no key, and by a browser that is about to ask for one; no answer names
a model."""


class Gate:
    """ASGI layer that lets requests in by their bearer key and leaves the key's entry in the scope's state."""

    def __init__(self, app: ASGIApp, settings: Callable[[], ServiceSettings], ring: KeyRing) -> None:
        """Wrap an application.

        Args:
            app: The rest of it.
            settings: Gives the settings that hold now; they may be replaced while the service runs.
            ring: The keys of the settings that hold at the start. It is made by the caller, since a framework makes its
                layers only at the first request, which is late to hear of a damaged file.
        """
        self.app = app
        self._current = settings
        # Those of the ring, which may have been made before others came to hold.
        self._settings = ring.settings
        self._ring = ring
        self._rates = RateLimits()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it with the reason why not."""
        if scope["type"] == "http":
            state = scope.setdefault("state", {})
            try:
                state["closed"], state["key"] = self._admit(scope)
            except HubError as error:
                await report(error, state.get("request_id", "")).response(state)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _admit(self, scope: Scope) -> tuple[bool, KeySettings | None]:
        """Return whether keys are asked for, and the request's key."""
        if (settings := self._current()) is not self._settings:
            self._ring = KeyRing(settings)
            self._settings = settings
        if self._ring.open:
            return False, None
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path in OPEN_PATHS or (path == "/metrics" and settings.metrics_access == "open"):
            return True, None
        key = self._ring.find(_token(scope))
        if key is None:
            raise Unauthorized("this key is not valid here")
        # Known to the log from here on, also when the request goes no further.
        scope["state"]["key"] = key
        if key.requests_per_minute is not None:
            wait = self._rates.take(key.name, key.requests_per_minute, time.monotonic())
            if wait > 0:
                raise Overloaded(
                    f"this key may ask {key.requests_per_minute} times a minute; try again later",
                    retry_after=math.ceil(wait),
                    code="rate_limited",
                )
        return True, key


def _token(scope: Scope) -> str:
    """Return the key that a request carries.

    Raises:
        Unauthorized: It has no ``Authorization: Bearer KEY``, or several.
    """
    found = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(found) != 1:
        reason = "several Authorization headers" if found else "no Authorization header"
        raise Unauthorized(f"{reason}; send 'Authorization: Bearer KEY'", code="missing_api_key")
    scheme, _, token = found[0].partition(b" ")
    if scheme.lower() != b"bearer" or not token.strip():
        raise Unauthorized("the Authorization header must be 'Bearer KEY'", code="missing_api_key")
    # Latin-1 takes any byte, so that no header can make the hashing fail.
    return token.strip().decode("latin-1")


class RateLimits:
    """A bucket of tokens for each key: a minute's worth may come at once, then as fast as the bucket fills."""

    def __init__(self) -> None:
        """Start with full buckets."""
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, name: str, per_minute: int, now: float) -> float:
        """Take one token.

        Args:
            name: Of the key.
            per_minute: Its rate, which is also what the bucket holds.
            now: Seconds on a steady clock.

        Returns:
            0, or the seconds until there is a token.
        """
        tokens, since = self._buckets.get(name, (float(per_minute), now))
        tokens = min(per_minute, tokens + (now - since) * per_minute / 60)
        if tokens < 1:
            self._buckets[name] = (tokens, now)
            return (1 - tokens) * 60 / per_minute
        self._buckets[name] = (tokens - 1, now)
        return 0.0


def allows(key: KeySettings | None, model: str) -> bool:
    """Whether a key, or the lack of one where none is asked for, is good for a model."""
    if key is None or key.models is None:
        return True
    # Who may use a model may use its canary.
    model = model.removesuffix(CANARY)
    return any(fnmatchcase(model, pattern) for pattern in key.models)


def may_use(request: Request, model: str) -> bool:
    """Whether the request's key may see a model."""
    return allows(getattr(request.state, "key", None), model)


def check_model(request: Request, model: str) -> None:
    """Raise Forbidden when the request's key may not use a model, whether there is such a model or not."""
    if not may_use(request, model):
        raise Forbidden(f"this key may not use the model {model[:100]!r}")


def is_outsider(request: Request) -> bool:
    """Whether keys are asked for and this request came without one, over an open path."""
    return getattr(request.state, "closed", False) and request.state.key is None
