"""Libraries that quote what a file holds in their warnings, kept quiet."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_LOCK = threading.RLock()
_LOGGERS = [logging.getLogger(name) for name in ("pydicom", "nibabel", "PIL")]
_SILENT = logging.CRITICAL + 1
_depth = 0


@contextmanager
def quietly() -> Iterator[None]:
    """Let no warning and no log line of pydicom, nibabel and Pillow out: they quote values, and so patients.

    Readers open files in several threads, and filters of warnings and levels of loggers belong to the whole process:
    without the lock one thread would put back what another has just set. May be nested, and used as a decorator.
    """
    global _depth
    with _LOCK:
        _depth += 1
        try:
            if _depth > 1:
                yield
                return
            before = [logger.level for logger in _LOGGERS]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for logger in _LOGGERS:
                    logger.setLevel(_SILENT)
                try:
                    yield
                finally:
                    for logger, level in zip(_LOGGERS, before, strict=True):
                        logger.setLevel(level)
        finally:
            _depth -= 1
