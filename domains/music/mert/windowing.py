"""Long recordings as overlapping windows of one fixed length, on the grid of the encoder's frames."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple


class Window(NamedTuple):
    """A stretch of frames that is encoded on its own, and the part of it that is kept.

    Attributes:
        start: First frame.
        stop: One past its last.
        kept_from: First frame whose state is taken from this window.
        kept_to: One past the last.
    """

    start: int
    stop: int
    kept_from: int
    kept_to: int


def windows_of(frames: int, width: int, overlap: int) -> list[Window]:
    """Cut a recording to windows of equal width; the last one ends with the recording and overlaps more.

    Each frame is kept from the window in which it has the most context: neighbours meet in the middle of their overlap.

    Args:
        frames: Of the recording.
        width: Of a window; 0 for one window whatever the length.
        overlap: Frames that neighbours share at least, below ``width``.
    """
    if not width or frames <= width:
        return [Window(0, frames, 0, frames)]
    starts = [*range(0, frames - width, width - overlap), frames - width]
    meetings = [(left + width + right) // 2 for left, right in pairwise(starts)]
    edges = [0, *meetings, frames]
    return [Window(s, s + width, a, b) for s, a, b in zip(starts, edges[:-1], edges[1:], strict=True)]
