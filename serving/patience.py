"""How long a request's body may take to come: a client that sends a byte now and then must not hold its place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.config import ServiceSettings
from serving.errors import SlowBody, WrongContentType


class Patience:
    """ASGI layer that waits for a body no longer than the settings say, and takes none that is compressed.

    A compressed body would have to be unpacked under limits of its own; the files in it may be compressed themselves.
    """

    def __init__(self, app: ASGIApp, settings: Callable[[], ServiceSettings]) -> None:
        """Wrap an application.

        Args:
            app: The rest of it.
            settings: Returns the settings as they are now.
        """
        self.app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        encoding = Headers(scope=scope).get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise WrongContentType("the body is sent with a Content-Encoding; send it without")
        limit = self._settings().body_timeout_s
        until = asyncio.get_running_loop().time() + limit
        whole = False

        async def patient() -> Message:
            nonlocal whole
            if whole:
                return await receive()
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError:
                raise SlowBody(f"the body did not come within {limit:g} s; send it faster, or in parts") from None
            whole = not (message["type"] == "http.request" and message.get("more_body", False))
            return message

        await self.app(scope, patient, send)
