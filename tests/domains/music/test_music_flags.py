from __future__ import annotations

import numpy as np
import pytest

from domains.music.mert.processing import MertProcessor
from domains.music.reading import MusicReader
from hub.doubts import codes_of

TIME = np.arange(24_000) / 24_000
TONE = (0.3 * np.sin(2 * np.pi * 440 * TIME)).astype(np.float32)


@pytest.mark.parametrize(
    ("samples", "flags"),
    [
        (TONE, ()),
        (0 * TONE, ("silent",)),
        (1e-3 * TONE, ("too_quiet",)),
        (np.clip(8 * TONE, -1, 1), ("clipped",)),
        (TONE + 0.4, ("dc_offset",)),
    ],
    ids=["tone", "silence", "faint", "overdriven", "offset"],
)
def test_flags_of_a_waveform(samples: np.ndarray, flags: tuple[str, ...]) -> None:
    (sample,) = MusicReader().parse({"samples": samples.tolist(), "sampling_rate": 24_000})
    assert sample.flags == flags


def test_band_and_length_are_the_processors_doubts() -> None:
    processor = MertProcessor()
    for rate, seconds, flags in ((24_000, 1, ()), (16_000, 1, ("upsampled",)), (24_000, 31, ("length_out_of_range",))):
        samples = np.resize(TONE, rate * seconds).tolist()
        (sample,) = MusicReader().parse({"samples": samples, "sampling_rate": rate})
        assert codes_of(processor.doubts(sample)) == flags
