"""Opening files with rasterio without its word that they have no georeference: here that is no news."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from rasterio.errors import NotGeoreferencedWarning

_LOCK = threading.RLock()


@contextmanager
def quietly() -> Iterator[None]:
    """Keep rasterio's `NotGeoreferencedWarning` from the terminal.

    Readers open files in several threads, and filters of warnings belong to the whole process: without the lock one
    thread would put back the filters that another has just set.
    """
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield
