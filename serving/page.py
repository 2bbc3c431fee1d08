"""The files of the page at ``/``: read once, sent as they are, and open to everyone, since they hold nothing secret."""

from __future__ import annotations

import hashlib
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

from serving.handling import label

MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

HEADERS = {
    # Nothing inline, nothing from elsewhere; pictures come by fetch, which can send a key, and are shown as blobs.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def _assets() -> dict[str, tuple[bytes, str]]:
    found: dict[str, tuple[bytes, str]] = {}
    for entry in files("serving.playground").joinpath("static").iterdir():
        kind = MEDIA_TYPES.get("." + entry.name.rpartition(".")[2])
        if kind is not None:
            found["/" if entry.name == "index.html" else f"/playground/{entry.name}"] = (entry.read_bytes(), kind)
    return found


ASSETS = _assets()
"""Content and media type by path."""


async def asset(request: Request) -> Response:
    """Send the page, or a file that it loads; a browser that has it already is told so."""
    path = request.scope["route"].path
    label(request, "/" if path == "/" else "/playground/{file}")
    content, media_type = ASSETS[path]
    headers = HEADERS | {"ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"'}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=media_type, headers=headers)
