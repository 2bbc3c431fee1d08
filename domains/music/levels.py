"""What speaks against a recording that is accepted: silence, clipping, an offset, channels that cancel each other.

Sums are taken block by block while a file is decoded, so that a long recording is gone through once.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hub.doubts import Doubt
from hub.errors import InvalidInput

FULL_SCALE = 0.9999
"""Level that counts as full scale; 16-bit audio reaches 0.99997."""
CLIPPED_SHARE = 0.01
"""Share of samples at full scale above which a recording looks clipped. A sine at full scale has 0.9 %."""
OFFSET = 0.1
"""Mean relative to the peak above which a recording has an offset worth saying."""
CANCELLED = 1e-3
"""Level of the mix relative to its loudest channel below which channels cancel each other (-60 dB)."""
LOUD = 1.5
"""Peak above which samples cannot be meant to have full scale 1; a float mix or a lossy codec may exceed 1 a little."""
QUIET = 1e-3
"""Peak below which 16-bit audio has some 30 steps left to either side (-60 dB of full scale)."""
LOUDEST = 1e10
"""Peak that no scaling accounts for, since 32-bit whole numbers end at 2.1e9; powers of larger ones overflow."""
TELEPHONE_RATE = 8_000


class Levels:
    """Running levels of a recording."""

    def __init__(self, channels: int) -> None:
        """Start with nothing.

        Args:
            channels: Of the blocks to come.
        """
        self.frames = 0
        self.peak = 0.0
        self._lowest, self._highest = np.inf, -np.inf
        self._full = 0
        self._sum = 0.0
        self._energy = np.zeros(channels)
        self._share = np.full(channels, 1 / channels, np.float32)
        self._mix_energy = 0.0

    def add(self, block: np.ndarray) -> np.ndarray:
        """Take in some frames.

        Args:
            block: ``(frames, channels)`` float32, at least one frame.

        Returns:
            The mean of its channels, ``(frames,)`` float32.

        Raises:
            InvalidInput: A sample is NaN or infinite.
        """
        energy = np.einsum("fc,fc->c", block, block, dtype=np.float64)
        if not np.isfinite(energy).all():
            raise InvalidInput("the audio holds NaN or infinite samples; one is enough to spoil all", code="not_finite")
        mix = block @ self._share if block.shape[1] > 1 else block[:, 0]
        lowest, highest = float(block.min()), float(block.max())
        if max(-lowest, highest) >= FULL_SCALE:
            self._full += int((np.abs(block) >= FULL_SCALE).sum())
        self.frames += len(block)
        self._lowest, self._highest = min(self._lowest, lowest), max(self._highest, highest)
        self.peak = max(-self._lowest, self._highest)
        self._sum += float(mix.sum(dtype=np.float64))
        self._energy += energy
        self._mix_energy += float(np.einsum("f,f->", mix, mix, dtype=np.float64))
        return mix

    def doubts(self, sampling_rate: int) -> Iterator[Doubt]:
        """Yield what a user should know, one sentence each."""
        if self.peak == 0:
            yield Doubt("The recording is digital silence; the embedding carries nothing.", "silent")
            return
        if self._lowest == self._highest:
            yield Doubt("The recording is one constant value; the embedding carries nothing.", "constant")
            return
        if self._mix_energy < CANCELLED**2 * self._energy.max():
            text = "The channels cancel each other when mixed down; the embedding carries next to nothing."
            yield Doubt(text, "cancelled")
        if self.peak < QUIET:
            text = f"The loudest sample is {self.peak:.2g} of full scale: next to silence in 16-bit audio."
            yield Doubt(text, "too_quiet")
        share = self._full / (self.frames * len(self._energy))
        if self.peak > LOUD:
            yield Doubt(f"Samples reach {self.peak:.3g} where full scale is 1; check the scaling.", "scale_implausible")
        elif share >= CLIPPED_SHARE:
            yield Doubt(f"{share:.0%} of the samples stand at full scale; the recording looks clipped.", "clipped")
        offset = self._sum / self.frames
        if abs(offset) > OFFSET * self.peak:
            yield Doubt(f"The recording has a constant offset of {offset:+.2g}.", "dc_offset")
        if sampling_rate <= TELEPHONE_RATE:
            text = (
                f"At {sampling_rate} Hz there is nothing above {sampling_rate // 2} Hz; models learnt from full band."
            )
            yield Doubt(text, "upsampled")
