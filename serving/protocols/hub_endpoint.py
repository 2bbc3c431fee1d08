"""A read-only Hugging Face endpoint: the routes that huggingface_hub asks to fetch a model, over the served ones."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from serving.errors import MalformedRequest, NotFound, WrongContentType
from serving.front import Front
from serving.handling import label
from serving.lane import Lane
from serving.protocols.error_forms import TextError
from serving.protocols.hub_files import HubFile, Listing, Listings

MAIN = "main"

API = "/api/models/{model:path}"
FORM = "application/x-www-form-urlencoded"

_ERRORS: dict[int | str, dict[str, Any]] = {"4XX": {"model": TextError}, "5XX": {"model": TextError}}


def add_hub_endpoint(app: FastAPI, front: Front) -> None:
    """Add the endpoint's routes; they are greedy, so they come last."""
    routes = HubEndpoint(front)
    for path, handler in (
        (API + "/revision/{revision}", routes.model),
        (API + "/tree/{revision}", routes.tree),
        (API + "/tree/{revision}/{folder:path}", routes.folder),
        (API, routes.model),
    ):
        app.add_api_route(path, handler, methods=["GET"], response_model=None, responses=_ERRORS)
    paths = {"type": "object", "properties": {"paths": {"type": "array", "items": {"type": "string"}}}}
    app.add_api_route(
        API + "/paths-info/{revision}",
        routes.paths,
        methods=["POST"],
        response_model=None,
        responses=_ERRORS,
        openapi_extra={"requestBody": {"required": True, "content": {FORM: {"schema": paths}}}},
    )
    for method in ("GET", "HEAD"):
        app.add_api_route(
            "/{model:path}/resolve/{revision}/{filename:path}",
            routes.file,
            methods=[method],
            response_model=None,
            response_class=Response,
            operation_id=f"hub_file_{method.lower()}",
            responses={
                200: {"content": {"application/octet-stream": {}}, "description": "The file."},
                206: {"content": {"application/octet-stream": {}}, "description": "The part that Range asks for."},
                **_ERRORS,
            },
        )


class HubEndpoint:
    """The endpoint's handlers. A model's id is its repository's; its only branch is ``main``."""

    def __init__(self, front: Front) -> None:
        """Answer by the rules of ``front``."""
        self._front = front
        self._listings = Listings()

    async def model(self, request: Request, model: str, revision: str = MAIN) -> dict[str, Any]:
        """Describe a repository: its commit, and its files."""
        lane, listing = await self._listing(request, model, revision, "/api/models/{model}")
        metadata = lane.embedder.card.metadata if lane.embedder is not None else {}
        return {
            "id": lane.id,
            "modelId": lane.id,
            "sha": listing.commit,
            "private": False,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": metadata.get("tags", []),
            "library_name": metadata.get("library_name"),
            "siblings": [{"rfilename": name} for name in listing.files],
        }

    async def tree(self, request: Request, model: str, revision: str) -> list[dict[str, Any]]:
        """List a repository's files."""
        _, listing = await self._listing(request, model, revision, "/api/models/{model}/tree/{revision}")
        return [file.entry for file in listing.files.values()]

    async def folder(self, request: Request, model: str, revision: str, folder: str) -> list[dict[str, Any]]:
        """Say that a repository has no folders."""
        if folder:
            await self._listing(request, model, revision, "/api/models/{model}/tree/{revision}/{folder}")
            raise _no_entry(folder)
        return await self.tree(request, model, revision)

    async def paths(self, request: Request, model: str, revision: str) -> list[dict[str, Any]]:
        """List those of the asked paths that there are."""
        _, listing = await self._listing(request, model, revision, "/api/models/{model}/paths-info/{revision}")
        with self._front.body(request) as body:
            if body.content_type != FORM:
                raise WrongContentType(f"Content-Type is {body.content_type or 'absent'}; send {FORM}")
            content = b"".join([chunk async for chunk in body.chunks()])
        try:
            asked = parse_qs(content.decode(), max_num_fields=1000).get("paths", [])
        except ValueError:
            raise MalformedRequest("the body is no form, or has more than 1000 fields") from None
        return [listing.files[name].entry for name in asked if name in listing.files]

    async def file(self, request: Request, model: str, revision: str, filename: str) -> Response:
        """Send a file, or the part that ``Range`` asks for; of HEAD the headers alone."""
        _, listing = await self._listing(request, model, revision, "/{model}/resolve/{revision}/{filename}")
        # A name in the listing, never a path made of what was asked.
        found = listing.files.get(filename)
        if found is None:
            raise _no_entry(filename)
        return FileResponse(found.path, headers=_headers(found, listing), media_type="application/octet-stream")

    async def _listing(self, request: Request, model: str, revision: str, route: str) -> tuple[Lane, Listing]:
        """Return what a path names, after leaving the path's template for the metrics.

        Raises:
            NotFound: The model has no such revision, or no files here.
        """
        label(request, route)
        lane = self._front.lane(request, model)
        label(request, model=model)
        listing = await self._listings.of(lane)
        known = {MAIN, listing.commit, lane.settings.revision}
        if lane.embedder is not None:
            known.add(lane.embedder.revision)
        if revision not in known:
            raise NotFound(
                f"{model} has no revision {revision[:100]!r}; it has main, which is {listing.commit}",
                code="revision_not_found",
            )
        return lane, listing


def _headers(file: HubFile, listing: Listing) -> dict[str, str]:
    headers = {
        "ETag": f'"{file.etag}"',
        "X-Repo-Commit": listing.commit,
        "X-Content-Type-Options": "nosniff",
        "Content-Disposition": f'attachment; filename="{file.name}"',
    }
    if file.large:
        headers |= {"X-Linked-ETag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
    return headers


def _no_entry(name: str) -> NotFound:
    return NotFound(f"there is no {name[:200]!r} here", code="entry_not_found")
