"""Where the service listens: taking the port, or saying clearly that it is taken."""

from __future__ import annotations

import socket
import ssl

from serving.config import TLSSettings
from serving.errors import InvalidSettings

_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # nosec B104  # what such an address is called in a URL


def listening_socket(host: str, port: int) -> socket.socket:
    """Return a bound socket; port 0 takes a free one.

    Raises:
        InvalidSettings: The port is taken, or the address is not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio turns Nagle's delay (40 ms an answer) off only on sockets that name it.
    found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    # A port whose last connections still linger is free; one with a listener is not.
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
        found.listen(2048)
    except (OSError, UnicodeError) as error:
        found.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidSettings(
            f"cannot listen on {host} port {port}: {reason}; choose another with --port, or 0 for a free one"
        ) from None
    return found


def free_port(host: str, port: int) -> int:
    """Return the port if it is free, a free one for 0.

    Raises:
        InvalidSettings: As `listening_socket`.
    """
    with listening_socket(host, port) as found:
        return int(found.getsockname()[1])


def url_of(host: str, port: int, *, tls: bool = False) -> str:
    """Return the address under which a program on this machine reaches the service."""
    host = _ANY.get(host, host)
    scheme = "https" if tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def check_tls(tls: TLSSettings | None) -> None:
    """Raise InvalidSettings when a certificate and its key cannot be read or do not belong together."""
    if tls is None:
        return
    for path in (tls.certificate, tls.key):
        if not path.is_file():
            raise InvalidSettings(f"tls: there is no file {path}")
    try:
        # A key under a passphrase would ask for it on the terminal; there is nobody to answer.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls.certificate, tls.key, password="")
    except (ssl.SSLError, OSError, ValueError):
        raise InvalidSettings(
            f"tls: {tls.certificate} and {tls.key} are not a PEM certificate and its key (without a passphrase)"
        ) from None
