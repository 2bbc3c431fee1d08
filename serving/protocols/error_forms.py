"""The shape of errors where a protocol prescribes one: the same statuses, messages and codes in other words."""

from __future__ import annotations

import re

from pydantic import BaseModel
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.problems import ErrorForm, ErrorReport

HUB_CODES = {
    "model_not_found": "RepoNotFound",
    "revision_not_found": "RevisionNotFound",
    "entry_not_found": "EntryNotFound",
}
"""What huggingface_hub tells errors apart by."""


class TextError(BaseModel):
    """The shape of every error of these protocols."""

    error: str


class ErrorForms:
    """ASGI layer that says in what form a path's errors are told, those of the layers below it as well."""

    def __init__(self, app: ASGIApp, hub_endpoint: bool) -> None:
        """Wrap an application.

        Args:
            app: The rest of it.
            hub_endpoint: Whether it has the routes of the Hugging Face endpoint.
        """
        self.app = app
        self._hub = hub_endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Leave the form in the scope's state."""
        if scope["type"] == "http":
            form = self._form(scope["path"].removeprefix(scope.get("root_path", "")))
            if form is not None:
                scope.setdefault("state", {})["error_form"] = form
        await self.app(scope, receive, send)

    def _form(self, path: str) -> ErrorForm | None:
        if path == "/v2" or path.startswith("/v2/"):
            return _v2
        if self._hub and not path.startswith("/v1/") and (path.startswith("/api/") or "/resolve/" in path):
            return _hub
        return None


def _v2(error: ErrorReport) -> tuple[dict[str, str], dict[str, str]]:
    return {"error": error.message}, {}


def _hub(error: ErrorReport) -> tuple[dict[str, str], dict[str, str]]:
    code = HUB_CODES.get(error.code)
    # A header takes no line ends, and a HEAD request has no body to tell more.
    headers = {"X-Error-Message": re.sub(r"[^ -~]", "?", error.message)}
    return {"error": error.message}, headers | ({"X-Error-Code": code} if code else {})
