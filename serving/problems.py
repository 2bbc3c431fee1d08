"""Errors to answers: one shape for all of them, and one meaning for each status.

400 the bytes are not what they claim (broken JSON, broken multipart); 401 no valid key; 403 not for this key; 404 no
such route, model or task; 405 the route has other methods; 408 the body came too slowly; 413 more than a stated limit;
415 a content type or file kind that is not read here; 422 understood, but a field or an input cannot be used; 429 too
much is waiting, or a key's rate is spent, come back after ``Retry-After``; 500 our fault; 503 it cannot be answered now
(starting, stopping, timed out).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from hub.errors import HubError, InvalidInput, TooLarge, UnknownModel, UnsupportedFormat, UnsupportedOption
from serving.errors import (
    BodyTooLarge,
    Forbidden,
    InputFailed,
    InvalidRequest,
    MalformedRequest,
    NotFound,
    Overloaded,
    SlowBody,
    Unauthorized,
    Unavailable,
    WrongContentType,
)
from serving.logs import without_content

logger = logging.getLogger("fmhub.serving")

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "method_not_allowed_error",
    408: "timeout_error",
    413: "too_large_error",
    415: "unsupported_media_type_error",
    422: "invalid_input_error",
    429: "overloaded_error",
    500: "server_error",
    503: "unavailable_error",
}

NOT_FOUND = frozenset({"task_not_found", "example_not_found", "no_examples"})
"""Codes of options that name a thing of a model: 404 instead of 422."""

STATUSES: tuple[tuple[type[HubError], int], ...] = (
    # From the particular to the general: the first that fits counts.
    (UnsupportedFormat, 415),
    (TooLarge, 413),
    (InvalidInput, 422),
    (UnsupportedOption, 422),
    (UnknownModel, 404),
    (NotFound, 404),
    (MalformedRequest, 400),
    (WrongContentType, 415),
    (SlowBody, 408),
    (BodyTooLarge, 413),
    (InvalidRequest, 422),
    (Unauthorized, 401),
    (Forbidden, 403),
    (Overloaded, 429),
    (Unavailable, 503),
)


@dataclass(frozen=True)
class ErrorReport:
    """One error as a client sees it."""

    status: int
    message: str
    param: str | None = None
    code: str = "internal_error"
    retry_after: int | None = None
    allow: str | None = None

    def own_form(self) -> tuple[dict[str, Any], dict[str, str]]:
        """Return the body that all of the service's own routes answer with, and no headers."""
        kind = TYPES.get(self.status, "error")
        return {"error": {"type": kind, "message": self.message, "param": self.param, "code": self.code}}, {}

    def response(self, state: MutableMapping[str, Any]) -> Response:
        """Return the answer that carries it.

        Args:
            state: Of the request's scope; the code is left there, for the log and the metrics. An ``error_form`` there
                gives the body and further headers instead of the service's own.
        """
        state["error_code"] = self.code
        body, headers = state.get("error_form", ErrorReport.own_form)(self)
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        if self.allow is not None:
            headers["Allow"] = self.allow
        if self.status == 408:
            # What is still to come of the body would be taken for the next request.
            headers["Connection"] = "close"
        if self.status == 401:
            # RFC 6750: the reason is told only to those who sent a key.
            sent = ', error="invalid_token"' if self.code == "invalid_api_key" else ""
            headers["WWW-Authenticate"] = f'Bearer realm="fmhub"{sent}'
        return Response(json.dumps(body), self.status, headers, media_type="application/json")


ErrorForm = Callable[[ErrorReport], tuple[dict[str, Any], dict[str, str]]]


def report(error: Exception, request_id: str) -> ErrorReport:
    """Return what a client is told about an error.

    What fmhub raised on purpose is told as it is; of anything else only that it happened, and its details go to
    the log under the request's id.
    """
    if isinstance(error, InputFailed):
        inner = report(error.cause, request_id)
        if inner.status == 500:
            return ErrorReport(500, f"{error.param}: internal error; request {request_id}", error.param)
        return ErrorReport(inner.status, inner.message, error.param, inner.code, inner.retry_after)
    if isinstance(error, UnsupportedOption) and error.code in NOT_FOUND:
        return ErrorReport(404, error.message, error.param, error.code)
    for kind, status in STATUSES:
        if isinstance(error, kind):
            return ErrorReport(
                status,
                str(error),
                getattr(error, "param", None) or ("model" if kind is UnknownModel else None),
                error.code,
                getattr(error, "retry_after", None),
            )
    logger.error("request failed: %s", without_content(error))
    return ErrorReport(500, f"internal error; request {request_id}")
