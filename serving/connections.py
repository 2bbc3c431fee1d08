"""HTTP connections under uvicorn whose heads have a limit: in bytes, and in the time that they may take to come.

uvicorn's faster parser takes headers without end, and a connection on which half a head has come stays for ever; a few
thousand of them, from one machine and without a key, are all that a process may have.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

HEAD_SECONDS = 30.0
"""From the connection, or the first byte of a later request, to the empty line after its headers."""
HEAD_BYTES = 1 << 16
"""Request line and headers together. What one read of the socket brings (256 KiB) is looked at as a whole."""


class GuardedProtocol(AutoHTTPProtocol):  # type: ignore[valid-type]  # one of two classes, by what is installed
    """uvicorn's protocol, with limits on the head of a request."""

    head_seconds = HEAD_SECONDS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Like uvicorn's."""
        super().__init__(*args, **kwargs)
        self._head_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start to wait for the first head."""
        super().connection_made(transport)
        self._start()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes in, and end the connection when the head that they belong to is too long."""
        request = self.cycle
        in_body = request is not None and request.more_body
        super().data_received(data)
        if self.cycle is not request or self.transport.is_closing():
            self._stop()
        elif not in_body:
            self._head_bytes += len(data)
            if self._timer is None:
                self._start()
            if self._head_bytes > HEAD_BYTES:
                self.send_400_response("The headers are too long.")
                self._stop()

    def _start(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self.head_seconds, self._too_late)

    def _stop(self) -> None:
        self._head_bytes = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_late(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
