"""The alteration that TERA is named after: along time, frequency and magnitude (paper, section III-B).

The random draws and their order are those of the published code, so that its masks can be repeated from a
record of its draws. Two things differ: padding gets no noise, and is never scored, where that code scores it when
only noise is on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from domains.speech.tera.configuration import TeraConfig

ZERO_SHARE = 0.8
"""Probability that an utterance's chosen blocks are set to zero."""
REPLACE_SHARE = 0.1
"""Probability that they are replaced with other blocks of the utterance; the rest is left as it is."""


class Draws(Protocol):
    """Where the policy's randomness comes from."""

    def random(self) -> float:
        """Return a number uniform on [0, 1)."""

    def randint(self, low: int, high: int) -> int:
        """Return a whole number from ``low`` to ``high``, both included."""

    def randperm(self, count: int) -> Tensor:
        """Return a random order of 0 to ``count - 1``."""

    def normal(self, shape: torch.Size, std: float) -> Tensor:
        """Return noise of that shape and standard deviation."""


class GeneratorDraws:
    """Draws from a seeded generator."""

    def __init__(self, generator: torch.Generator) -> None:
        """Keep the generator."""
        self.generator = generator

    def random(self) -> float:
        """Return a number uniform on [0, 1)."""
        return torch.rand((), generator=self.generator).item()

    def randint(self, low: int, high: int) -> int:
        """Return a whole number from ``low`` to ``high``, both included."""
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def randperm(self, count: int) -> Tensor:
        """Return a random order of 0 to ``count - 1``."""
        return torch.randperm(count, generator=self.generator)

    def normal(self, shape: torch.Size, std: float) -> Tensor:
        """Return noise of that shape and standard deviation."""
        return torch.randn(shape, generator=self.generator) * std


class Altered(NamedTuple):
    """An altered batch.

    Attributes:
        frames: What the encoder reads, ``(batch, frames, features)``.
        label_mask: Cells to predict, bool, same shape.
    """

    frames: Tensor
    label_mask: Tensor


def alter(frames: Tensor, lengths: Sequence[int], policy: TeraConfig, draws: Sequence[Draws], shared: Draws) -> Altered:
    """Alter a batch of clean frames.

    Args:
        frames: Clean frames, ``(batch, frames, features)``; left as they are.
        lengths: Real frames of each utterance.
        policy: The ``mask_*`` and ``noise_*`` settings.
        draws: The randomness of each utterance.
        shared: The randomness of the batch.
    """
    altered = frames.clone()
    label_mask = torch.zeros_like(frames, dtype=torch.bool)
    for utterance, labels, length, own in zip(altered, label_mask, lengths, draws, strict=True):
        if policy.mask_proportion > 0:
            alter_time(utterance, labels, length, policy, own)
        if policy.mask_frequency > 0:
            alter_frequency(utterance, labels, length, policy, own)
        if policy.mask_proportion == 0 and policy.mask_frequency == 0:
            labels[:length] = True
    # One draw for the whole batch; masked cells get noise too. It marks nothing as to be predicted.
    if policy.noise_proportion > 0 and shared.random() < policy.noise_proportion:
        for utterance, length, own in zip(altered, lengths, draws, strict=True):
            utterance[:length] += own.normal(utterance[:length].shape, policy.noise_std)
    return Altered(altered, label_mask)


def alter_time(utterance: Tensor, labels: Tensor, length: int, policy: TeraConfig, draws: Draws) -> None:
    """Alter blocks of frames of one utterance in place: zero, replace or keep, one choice for all.

    Args:
        utterance: ``(frames, features)``.
        labels: Its label mask, same shape; the chosen frames are marked whatever is done to them.
        length: Its real frames.
        policy: The ``mask_*`` settings.
        draws: The randomness.
    """
    width = min(draws.randint(policy.mask_consecutive_min, policy.mask_consecutive_max), length)
    last = max(length - width - 1, 0)
    count = round(length * policy.mask_proportion / width)
    if policy.mask_allow_overlap:
        starts = draws.randperm(last + 1)[:count]
    else:
        stride = round(width * policy.mask_bucket_ratio)
        candidates = torch.arange(draws.randint(0, min(width, last)), last + 1, stride)
        starts = candidates[draws.randperm(len(candidates))[:count]]
    chosen = _blocks(starts, width)
    action = draws.random()
    if action < ZERO_SHARE:
        utterance[chosen] = 0
    elif action < ZERO_SHARE + REPLACE_SHARE:
        # With a grid there may be fewer blocks to fill than were asked for.
        sources = draws.randperm(last + 1)[:count][: len(starts)]
        utterance[chosen] = utterance[_blocks(sources, width)]
    labels[chosen] = True


def alter_frequency(utterance: Tensor, labels: Tensor, length: int, policy: TeraConfig, draws: Draws) -> None:
    """Blank one band of neighbouring columns of one utterance in place; arguments as in `alter_time`.

    The band's width is uniform from 0 (nothing) to ``mask_frequency`` of all columns. Padding is blanked with
    it, but not marked.
    """
    columns = utterance.shape[1]
    width = draws.randint(0, int(columns * policy.mask_frequency))
    start = int(draws.randperm(columns - width)[0])
    utterance[:, start : start + width] = 0
    labels[:length, start : start + width] = True


def _blocks(starts: Tensor, width: int) -> Tensor:
    """Return the frames of all blocks, ``(blocks * width,)``."""
    return (starts.unsqueeze(1) + torch.arange(width)).flatten()
