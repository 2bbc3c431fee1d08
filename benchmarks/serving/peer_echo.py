"""A server that reads a request and answers with a fixed body: what the load client alone can do.

``python -m benchmarks.serving.peer_echo PORT ANSWER_BYTES``.
"""

import asyncio
import sys


class Echo(asyncio.Protocol):
    """Answers each whole request."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._buffer[:end]).lower().decode("latin-1")
            length = int(head.partition("content-length:")[2].partition("\r\n")[0] or 0)
            if len(self._buffer) < end + 4 + length:
                return
            del self._buffer[: end + 4 + length]
            self._transport.write(self._answer)  # type: ignore[attr-defined]


async def main() -> None:
    port, size = int(sys.argv[1]), int(sys.argv[2])
    answer = f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode() + b" " * size
    server = await asyncio.get_running_loop().create_server(lambda: Echo(answer), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
