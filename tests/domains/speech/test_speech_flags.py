from __future__ import annotations

import numpy as np
import pytest

from domains.speech.reading import AudioReader
from domains.speech.tera.processing import TeraProcessor
from hub.doubts import codes_of

TIME = np.arange(16_000) / 16_000
VOICE = (0.3 * np.sin(2 * np.pi * 180 * TIME) * (0.5 + 0.5 * np.sin(2 * np.pi * 3 * TIME))).astype(np.float32)


@pytest.mark.parametrize(
    ("samples", "flags"),
    [
        (VOICE, ()),
        (0 * VOICE, ("silent",)),
        (0 * VOICE + 0.2, ("constant",)),
        (1e-3 * VOICE, ("too_quiet",)),
        (np.clip(8 * VOICE, -1, 1), ("clipped",)),
        (VOICE + 0.4, ("dc_offset",)),
        (3e4 * VOICE, ("scale_implausible",)),
    ],
    ids=["voice", "silence", "constant", "faint", "overdriven", "offset", "16-bit numbers"],
)
def test_flags_of_a_waveform(samples: np.ndarray, flags: tuple[str, ...]) -> None:
    (sample,) = AudioReader().parse({"samples": samples, "sampling_rate": 16_000})
    assert sample.flags == flags


def test_a_band_narrower_than_the_models_is_the_processors_doubt() -> None:
    processor = TeraProcessor()
    for rate, flags in ((8_000, ("upsampled",)), (16_000, ()), (44_100, ())):
        (sample,) = AudioReader().parse({"samples": VOICE, "sampling_rate": rate})
        assert codes_of(processor.doubts(sample)) == flags
