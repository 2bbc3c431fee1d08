"""What the service itself refuses or fails at; bad inputs keep the errors of `hub.errors`."""

from __future__ import annotations

from hub.errors import HubError


class InvalidSettings(HubError, ValueError):
    """A setting of the service has a value that cannot be."""

    code = "invalid_settings"


class MalformedRequest(HubError):
    """The body is not what its content type says: broken JSON, broken multipart (HTTP 400)."""

    code = "malformed_request"


class WrongContentType(HubError):
    """The body is announced as something that this route does not take (HTTP 415)."""

    code = "unsupported_content_type"


class BodyTooLarge(HubError):
    """The body is larger, or holds more inputs, than the service takes (HTTP 413)."""

    code = "body_too_large"


class SlowBody(HubError):
    """The body took longer to come than the service waits (HTTP 408)."""

    code = "slow_body"


class InvalidRequest(HubError, ValueError):
    """The body was understood, and a field of it is missing, unknown or out of range (HTTP 422)."""

    code = "invalid_request"

    def __init__(self, message: str, *, param: str | None, code: str | None = None) -> None:
        """Like `HubError`, with the field that is wrong."""
        super().__init__(message, code=code)
        self.param = param


class Unauthorized(HubError):
    """No key, or one that is not valid (HTTP 401); ``code`` tells which."""

    code = "invalid_api_key"


class Forbidden(HubError):
    """The key is valid and may not use this model (HTTP 403)."""

    code = "model_not_allowed"

    def __init__(self, message: str, *, param: str | None = "model") -> None:
        """Like `HubError`, with the field that named the model."""
        super().__init__(message)
        self.param = param


class InputFailed(HubError):
    """One input of a request failed; ``cause`` says why, ``param`` which one it was.

    The status is that of the cause: a bad file is the sender's to mend, a model that raised is ours.
    """

    code = "input_failed"

    def __init__(self, cause: Exception, *, param: str) -> None:
        """Keep the cause and the place of the input, for example ``input[3]``."""
        super().__init__(f"{param} failed")
        self.cause = cause
        self.param = param


class NotFound(HubError):
    """What a path names beside a model is not there: a version, a revision, a file (HTTP 404); ``code`` tells which."""

    code = "not_found"


class Overloaded(HubError):
    """More is waiting than the service lets wait, or a key asked more often than it may (HTTP 429)."""

    code = "overloaded"

    def __init__(self, message: str, *, retry_after: int, code: str | None = None) -> None:
        """Like `HubError`, with the seconds after which a place is likely to be free."""
        super().__init__(message, code=code)
        self.retry_after = retry_after


class Unavailable(HubError):
    """The service or one of its models cannot answer now: it starts, stops, failed to load, or ran out of time.

    HTTP 503; ``code`` tells which.
    """

    code = "unavailable"


class SpoolFull(Unavailable):
    """There is no room on disk for what is being read or uploaded (HTTP 503)."""

    code = "spool_full"

    def __init__(self) -> None:
        """Ask the sender to come back when others' files have gone."""
        super().__init__("there is no room on the server's disk for this upload now; try again later")
        self.retry_after = 5


class ReaderFailed(Exception):
    """A reader process met an error that nobody foresaw; the text tells its kind and place, and nothing of a file."""
