"""Memory that was freed and that the C library still holds.

Each thread that allocates gets an arena of glibc's, which shrinks only at its end: one small block there keeps all that
was freed before it. With a thread for each model, a service would come to hold the largest batch of each of them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

# Of glibc alone; macOS and musl give back by themselves.
_trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)


def give_back() -> None:
    """Give back to the system what is free in all arenas: a millisecond after work, next to nothing after none."""
    if _trim is not None:
        _trim(0)
