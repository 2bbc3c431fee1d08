"""The in-batch noise mixture of MERT v1: pieces of other clips added to a clip (paper, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Piece(NamedTuple):
    """What is added to a clip: samples ``start`` to ``start + duration`` of the pool, from sample ``position`` on.

    The pool of a clip is all other clips of its batch in their order, one after the other.
    """

    start: int
    duration: int
    position: int


def add_pieces(waveforms: Tensor, pieces: Sequence[Sequence[Piece]], volume: float = 1.0) -> Tensor:
    """Return a batch with pieces of its clips added to each other; the batch itself stays as it is.

    Args:
        waveforms: ``(batch, samples)``.
        pieces: What each clip gets.
        volume: Gain of the pieces; nothing is clipped or normalised afterwards.
    """
    mixed = waveforms.clone()
    for row, chosen in enumerate(pieces):
        if chosen:
            pool = torch.cat([waveforms[:row].flatten(), waveforms[row + 1 :].flatten()])
            for start, duration, position in chosen:
                mixed[row, position : position + duration] += volume * pool[start : start + duration]
    return mixed


def draw_pieces(generator: torch.Generator, probability: float, most: int, shortest: int, longest: int) -> Tensor:
    """Draw what one clip gets without knowing its batch: so it is the same on one process and on several.

    Args:
        generator: Source of the draws.
        probability: That the clip gets anything.
        most: Most pieces; their number is uniform from 1.
        shortest: Fewest samples of a piece; their number is uniform up to ``longest``.
        longest: See ``shortest``.

    Returns:
        ``(most, 3)``: duration in samples (0 for no piece), then start and position as shares of where they can be.
    """
    pieces = torch.rand(most, 3, generator=generator)
    count = 0
    if torch.rand((), generator=generator) < probability:
        count = int(torch.randint(1, most + 1, (), generator=generator))
    pieces[:, 0] = torch.randint(shortest, longest + 1, (most,), generator=generator)
    pieces[count:, 0] = 0
    return pieces


def place_pieces(drawn: Tensor, samples: int) -> list[list[Piece]]:
    """Return drawn pieces with their places in a batch, none where a clip is alone in it.

    Args:
        drawn: ``(batch, most, 3)`` from `draw_pieces`.
        samples: Of each clip.
    """
    pool = (len(drawn) - 1) * samples
    placed: list[list[Piece]] = []
    for row in drawn.tolist():
        placed.append([])
        for duration, start, position in row:
            length = min(int(duration), samples)
            if 0 < length <= pool:
                placed[-1].append(Piece(int(start * (pool - length)), length, int(position * (samples - length))))
    return placed
