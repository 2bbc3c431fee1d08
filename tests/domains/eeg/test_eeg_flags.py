from __future__ import annotations

import numpy as np
import pytest

from domains.eeg.eegformer.processing import EEGFormerProcessor
from domains.eeg.reading import EegReader
from domains.eeg.samples import simulate
from hub.doubts import codes_of

WHOLE = simulate(seconds=14.0)
SIGNAL = WHOLE.microvolts
MOMENTS = np.arange(SIGNAL.shape[1]) / WHOLE.sampling_rate


def flat(signal: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros_like(signal[:1]), signal[1:]])


@pytest.mark.parametrize(
    ("signal", "flags"),
    [
        (SIGNAL, ()),
        (0 * SIGNAL, ("silent",)),
        (0 * SIGNAL + 7, ("constant",)),
        (flat(SIGNAL), ("flat_channels",)),
        (np.clip(SIGNAL, -5, 5), ("clipped",)),
        (SIGNAL * 1e-6, ("scale_implausible",)),
        (SIGNAL * 1e6, ("scale_implausible",)),
        (SIGNAL + 200 * np.sin(2 * np.pi * 50 * MOMENTS), ("mains_hum",)),
    ],
    ids=["EEG", "zeros", "constant", "one flat", "railed", "volts", "digital units", "50 Hz"],
)
def test_flags_of_a_recording(signal: np.ndarray, flags: tuple[str, ...]) -> None:
    plain = {"signal": signal, "sampling_rate": WHOLE.sampling_rate, "channels": WHOLE.channels}
    (sample,) = EegReader().parse(plain)
    assert sample.flags == flags


def test_band_and_length_are_the_processors_doubts() -> None:
    processor = EEGFormerProcessor()
    for rate, seconds, flags in ((250, 13, ()), (128, 13, ("upsampled",)), (250, 3, ("length_out_of_range",))):
        signal = SIGNAL[:, : rate * seconds]
        first = next(iter(processor.reader().parse({"signal": signal, "sampling_rate": rate})))
        assert codes_of(processor.doubts(first)) == flags
