"""What the service writes to standard error: one line an event, as text or JSON, with the request's id.

Nothing of a request's content goes there: requests are logged by the fields of `serving.middleware`, unforeseen errors
by their kinds and places, and other libraries' messages not at all, since a warning may quote a patient's name.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from serving.config import ServiceSettings
from serving.errors import ReaderFailed

current_request: ContextVar[str] = ContextVar("current_request", default="")
"""Id of the request at work, in its tasks and in the threads that read for it."""

current_trace: ContextVar[str] = ContextVar("current_trace", default="")
"""Id of the trace that the request belongs to, where requests are traced."""

OWN_LOGGERS = {
    "fmhub": logging.INFO,
    "uvicorn": logging.WARNING,
    # Tells of a collector that takes no spans; a span holds nothing that the log may not.
    "opentelemetry.exporter": logging.WARNING,
}

SHOWN_FRAMES = 8


def configure_logging(settings: ServiceSettings, stream: TextIO | None = None) -> None:
    """Let this process log as the settings say; called once by whatever runs the service.

    Args:
        settings: Of the service.
        stream: Standard error unless given.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines() if settings.log_format == "json" else TextLines())
    for name, level in OWN_LOGGERS.items():
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False
    # Messages and warnings of other libraries end here.
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(logging.NullHandler())
    logging.captureWarnings(True)


def without_content(error: BaseException) -> str:
    """Describe an error that nobody foresaw by its kinds and places; its text may quote what was sent."""
    parts: list[str] = []
    link: BaseException | None = error
    while link is not None and len(parts) < SHOWN_FRAMES:
        frames = traceback.extract_tb(link.__traceback__)[-SHOWN_FRAMES:]
        places = " < ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in reversed(frames))
        told = str(link) if isinstance(link, ReaderFailed) else None
        parts.append(told or f"{type(link).__name__} at {places or 'an unknown place'}")
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return ", caused by ".join(parts)


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return json.dumps({**_head(record), **_fields(record), **_tail(self, record)}, ensure_ascii=False)


class TextLines(logging.Formatter):
    """``time LEVEL message name=value ...``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        head = _head(record)
        pairs = {**_fields(record), "request_id": head.get("request_id", "")}
        shown = " ".join(f"{name}={value}" for name, value in pairs.items() if value != "")
        exception = _tail(self, record).get("exception", "")
        # A line break in a message would pass for another event.
        message = head["message"].replace("\r", "\\r").replace("\n", "\\n")
        line = " ".join(part for part in (head["time"], head["level"], message, shown) if part)
        return f"{line}\n{exception}" if exception else line


def _head(record: logging.LogRecord) -> dict[str, Any]:
    time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    head = {"time": time, "level": record.levelname.lower(), "logger": record.name, "message": record.getMessage()}
    for name, found in (("request_id", current_request.get()), ("trace_id", current_trace.get())):
        if found:
            head[name] = found
    return head


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return getattr(record, "fields", {})


def _tail(formatter: logging.Formatter, record: logging.LogRecord) -> dict[str, str]:
    # Only of what failed without a request, for example a model that could not be loaded.
    return {"exception": formatter.formatException(record.exc_info)} if record.exc_info else {}
