from __future__ import annotations

import logging

import numpy as np
import pytest

from domains.eeg.preparation import bandpass, label_of, notch, rereference, resample, windows
from domains.eeg.recording import Annotation, Recording
from domains.eeg.samples import simulate
from hub.errors import InvalidInput

RATE = 173.61
TIME = np.arange(round(20 * RATE)) / RATE


def tones(*frequencies: float) -> np.ndarray:
    return 20e-6 * np.stack([np.sin(2 * np.pi * f * TIME) for f in frequencies])


def level(signal: np.ndarray) -> np.ndarray:
    inner = signal[:, signal.shape[1] // 4 : -signal.shape[1] // 4]
    return np.sqrt(2 * np.square(inner).mean(axis=1)) / 20e-6


@pytest.mark.parametrize("method", ["fft", "polyphase"])
def test_resampling_keeps_what_the_new_rate_can_hold(method: str) -> None:
    signal = tones(10, 40, 80)
    before = signal.copy()
    up, down = resample(signal, RATE, 250.0, method), resample(signal, RATE, 100.0, method)
    assert abs(up.shape[1] - 5000) <= 1 and abs(down.shape[1] - 2000) <= 1
    time = np.arange(up.shape[1]) / 250
    expected = 20e-6 * np.sin(2 * np.pi * 10 * time)
    half_a_sample = 20e-6 * 2 * np.pi * 10 * 0.5 / 250
    np.testing.assert_allclose(up[0, 500:-500], expected[500:-500], atol=1.1 * half_a_sample)
    exact = resample(expected[None], 250.0, 500.0, method)[0, 1000:-1000:2]
    np.testing.assert_allclose(exact, expected[500:-500], atol=0.05e-6)
    np.testing.assert_allclose(level(down), [1, 1, 0], atol=0.01)
    np.testing.assert_array_equal(signal, before)
    assert resample(signal, RATE, RATE) is signal


@pytest.mark.parametrize("method", ["fir", "iir"])
def test_filters_pass_and_stop_what_they_say(method: str, caplog: pytest.LogCaptureFixture) -> None:
    signal = tones(0.1, 10, 30, 60)
    with caplog.at_level(logging.DEBUG):
        np.testing.assert_allclose(level(bandpass(signal, RATE, 1.0, 45.0, method)), [0, 1, 1, 0], atol=0.07)
        np.testing.assert_allclose(level(bandpass(signal, RATE, None, 20.0, method)), [1, 1, 0, 0], atol=0.05)
        short = bandpass(signal[:, :400], RATE, 0.5, 40.0, method)
    np.testing.assert_array_equal(bandpass(signal, RATE, None, 100.0, method), signal)
    # In phase: nothing is shifted in time.
    peak = np.argmax(np.correlate(bandpass(signal, RATE, 1.0, 45.0, method)[1], signal[1], "same"))
    assert peak == signal.shape[1] // 2
    assert np.isfinite(short).all() and not caplog.records


def test_the_notch_takes_the_mains_and_its_harmonics() -> None:
    recording = simulate(sampling_rate=500.0)
    spectrum = np.abs(np.fft.rfft(notch(recording.signal, 500.0, 50.0)))[:, 24 * 50]
    assert (spectrum < 0.05 * np.abs(np.fft.rfft(recording.signal))[:, 24 * 50]).all()
    np.testing.assert_allclose(level(notch(tones(10, 45, 50, 80), RATE, 50.0)), [1, 1, 0, 1], atol=0.03)
    low = tones(10)
    assert notch(low, 100.0, 50.0) is low


def test_references() -> None:
    recording = simulate(("Fp1", "F7", "Fp2", "F8", "Cz"))
    signal, names = recording.signal, recording.channels
    average, _ = rereference(signal, names, "average")
    np.testing.assert_allclose(average.mean(axis=0), 0, atol=1e-18)
    against, left = rereference(signal, names, "Cz")
    assert left == ["Fp1", "F7", "Fp2", "F8"]
    np.testing.assert_array_equal(against[1], signal[1] - signal[4])
    both, left = rereference(signal, names, "F7+F8")
    assert left == ["Fp1", "Fp2", "Cz"]
    np.testing.assert_allclose(both[2], signal[4] - (signal[1] + signal[3]) / 2)
    pairs, left = rereference(signal, names, "longitudinal")
    assert left == ["Fp1-F7", "Fp2-F8"]
    np.testing.assert_array_equal(pairs[1], signal[2] - signal[3])
    np.testing.assert_array_equal(rereference(pairs, left, "longitudinal")[0], pairs)
    assert rereference(signal, names, "recorded")[0] is signal
    np.testing.assert_array_equal(rereference(signal[:1], names[:1], "average")[0], signal[:1])
    for reference, text in (("A1", "reference A1"), ("longitudinal", "no two neighbours")):
        with pytest.raises(InvalidInput, match=text):
            rereference(signal[4:], ["Cz"], reference)


def test_windows_with_their_times_and_labels() -> None:
    notes = [Annotation(0.0, 5.0, "open"), Annotation(5.0, 3.0, "closed"), Annotation(8.1, 0.0, "blink")]
    cut = windows(tones(10, 20), RATE, 2.0, 1.0, notes)
    assert cut.signal.shape == (18, 2, 347) and np.shares_memory(cut.signal, cut.signal.base)
    np.testing.assert_allclose(cut.starts, np.arange(18) * 174 / RATE)
    np.testing.assert_array_equal(cut.signal[3], tones(10, 20)[:, 3 * 174 : 3 * 174 + 347])
    assert cut.labels == ["open"] * 4 + ["closed"] * 3 + [""] * 11
    assert label_of(4.5, 5.5, notes) == "open" and label_of(7.6, 8.6, notes) == ""
    with pytest.raises(InvalidInput, match="lasts 20 s; at least 30 s"):
        windows(tones(10), RATE, 30.0, 1.0)


def test_a_part_of_a_recording_keeps_the_marks_that_touch_it() -> None:
    notes = [Annotation(0.0, 5.0, "a"), Annotation(5.0, 0.0, "b"), Annotation(9.0, 4.0, "c")]
    whole = Recording(tones(10, 20), 200.0, ["C3", "C4"], ["c3", "c4"], ["eeg", "eeg"], notes, start=100.0)
    part = whole.crop(1000, 2000)
    assert [n.label for n in part.annotations] == ["b", "c"] and part.start == 105
    assert part.annotations[1].onset == pytest.approx(4.0)
    assert part.seconds == 5
    picked = whole.pick([1])
    assert picked.channels == ["C4"] and picked.original_names == ["c4"]
    np.testing.assert_array_equal(picked.signal[0], whole.signal[1])
