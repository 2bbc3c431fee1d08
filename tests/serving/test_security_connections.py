"""What reaches a real uvicorn below HTTP's good manners: ambiguous lengths, heads without end, bodies by the drop."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from conftest import settings

from serving.addresses import listening_socket
from serving.app import create_app
from serving.connections import GuardedProtocol
from serving.engine import Engine

HEAD = b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
BODY = b'{"model": "dummy", "input": "1"}'
PATIENCE = 0.6


class Impatient(GuardedProtocol):
    head_seconds = PATIENCE


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A service whose limits on time are short."""
    found = listening_socket("127.0.0.1", 0)
    engine = Engine(settings("dummy", body_timeout_s=PATIENCE))
    config = uvicorn.Config(
        create_app(engine), lifespan="on", http=Impatient, log_config=None, access_log=False, server_header=False
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[found])), daemon=True)
    thread.start()
    number = found.getsockname()[1]
    until = time.monotonic() + 20
    while b" 200 " not in ask(number, b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"):
        assert time.monotonic() < until
    yield number
    server.should_exit = True
    thread.join(10)
    found.close()


def ask(port: int, *pieces: bytes, pause: float = 0.0, wait: float = 10.0) -> bytes:
    """Send pieces and return all that comes until the server closes the connection."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=wait) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause)
            while part := connection.recv(65_536):
                answer += part
        except ConnectionError:
            answer += b"<reset>"
    return answer


AMBIGUOUS = {
    "length and chunks": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n123456",
    "unknown coding": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "space before the colon": b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "negative length": b"Content-Length: -5\r\n\r\n",
    "signed length": b"Content-Length: +5\r\n\r\n12345",
    "length beyond reason": b"Content-Length: 99999999999999999999999\r\n\r\n",
    "NUL": b"X-A: b\0c\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("rest", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_a_request_of_two_meanings_ends_the_connection(port: int, rest: bytes) -> None:
    answer = ask(port, HEAD + rest + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    # What stands behind it is not taken for a second request.
    assert answer.count(b"HTTP/1.1") == 1 and b"status" not in answer


@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"])
def test_headers_without_end_are_refused(port: int, end: bytes) -> None:
    started = time.monotonic()
    answer = ask(port, b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 4_000_000 + end)
    assert b"200 OK" not in answer and time.monotonic() - started < 5


def test_half_a_head_or_none_does_not_stay(port: int) -> None:
    for pieces in ((), (b"GET /healthz HT",), tuple(b"GET /healthz HTTP/1.1\r\n"[i : i + 1] for i in range(23))):
        started = time.monotonic()
        assert ask(port, *pieces, pause=0.1) in (b"", b"<reset>")
        assert time.monotonic() - started < PATIENCE + 4


def test_a_body_by_the_drop_is_answered_and_cut(port: int) -> None:
    head = HEAD + b"Content-Length: 32\r\n\r\n"
    assert len(BODY) == 32
    assert b" 200 OK" in ask(port, head.replace(b"Host", b"Connection: close\r\nHost") + BODY[:9], BODY[9:], pause=0.1)
    started = time.monotonic()
    answer = ask(port, head + BODY[:9])
    assert b"408 " in answer and b'"slow_body"' in answer and b"connection: close" in answer.lower()
    # One that goes on sending may see no more of the answer than that the connection is gone.
    dripped = ask(port, head, *(BODY[i : i + 1] for i in range(20)), pause=0.08)
    assert b"200 OK" not in dripped and (b"408 " in dripped or dripped == b"<reset>")
    assert time.monotonic() - started < 2 * PATIENCE + 6


def test_a_request_in_work_and_a_later_one_are_not_cut(port: int) -> None:
    one = HEAD + b"Content-Length: 32\r\n\r\n" + BODY
    last = one.replace(b"Host", b"Connection: close\r\nHost")
    answer = ask(port, one, one, last, pause=2 * PATIENCE)
    assert answer.count(b"200 OK") == 3


def test_methods_and_hosts_mean_nothing_special(port: int) -> None:
    def status(line: bytes, *headers: bytes) -> bytes:
        return ask(port, b"\r\n".join([line, b"Connection: close", *headers, b"", b""])).partition(b"\r\n")[0]

    traced = ask(port, b"TRACE /healthz HTTP/1.1\r\nHost: x\r\nX-Secret: s3cret\r\nConnection: close\r\n\r\n")
    assert b" 405 " in traced and b"s3cret" not in traced
    assert b" 405 " in status(b"GET /v1/embeddings HTTP/1.1", b"Host: x", b"X-HTTP-Method-Override: POST")
    assert b" 400 " in status(b"CONNECT evil.example:443 HTTP/1.1", b"Host: x")
    assert b" 200 " in status(b"GET http://evil.example/healthz HTTP/1.1", b"Host: x")
    page = ask(port, b'GET / HTTP/1.1\r\nHost: "><script>alert(1)</script>\r\nConnection: close\r\n\r\n')
    assert b"<script>alert" not in page
    assert b"server: " not in page.lower()
