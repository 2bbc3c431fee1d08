"""The errors of fmhub: every message says what was wrong, where, and what would be right."""

from __future__ import annotations


class HubError(Exception):
    """Base of every error that fmhub raises on purpose; its text is fit to show to a user."""

    code = "error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        """Keep the message and, where one class covers several cases, a finer ``code``.

        Args:
            message: What was wrong, where, and what would be right. Never a file's content.
            code: Short machine-readable reason, for example ``"no_audio"``.
        """
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code


class InvalidInput(HubError, ValueError):
    """A file or value that a user sent cannot be used (HTTP 422)."""

    code = "invalid_input"

    def __init__(self, message: str, *, code: str | None = None, source: str | None = None) -> None:
        """Like `HubError`, with the name of the offending source.

        Args:
            message: What was wrong and what would be right.
            code: Short machine-readable reason.
            source: Which input it was: a file name, or a place in a request such as ``input[2]``.
        """
        super().__init__(message, code=code)
        self.source = source

    def at(self, source: str) -> InvalidInput:
        """Return the same error pointing at ``source``, unless it points somewhere already."""
        if self.source is None:
            self.source = source
        return self

    def __str__(self) -> str:
        """Return ``source: message``, or the message alone when no source is known."""
        return f"{self.source}: {self.message}" if self.source else self.message


class UnsupportedFormat(InvalidInput):
    """The content is not of a kind that this reader reads (HTTP 415)."""

    code = "unsupported_format"


class TooLarge(InvalidInput):
    """The content, or what its header announces, exceeds a stated limit (HTTP 413)."""

    code = "too_large"


class UnsupportedOption(HubError, ValueError):
    """An option such as ``pooling`` has a value that this model does not offer (HTTP 422).

    ``param`` names the option.
    """

    code = "unsupported_option"

    def __init__(self, message: str, *, param: str, code: str | None = None) -> None:
        """Like `HubError`, with the name of the option."""
        super().__init__(message, code=code)
        self.param = param


class UnknownModel(HubError, LookupError):
    """No checkpoint answers to this name (HTTP 404)."""

    code = "model_not_found"


class UnknownDomain(HubError, LookupError):
    """No installed domain or system answers to this name or model type."""

    code = "domain_not_found"


class InvalidCheckpoint(HubError, ValueError):
    """A checkpoint's files are missing, damaged, or belong to something else."""

    code = "invalid_checkpoint"


class InvalidRecipe(HubError, ValueError):
    """A recipe asks for something that does not exist or cannot be."""

    code = "invalid_recipe"


class InvalidManifest(HubError, ValueError):
    """A labelled set's CSV lacks a column, names a missing file, or leaks a group."""

    code = "invalid_manifest"


class MissingDependency(HubError, ImportError):
    """A package that this domain or command needs is absent or broken; the text says what to install."""

    code = "missing_dependency"
