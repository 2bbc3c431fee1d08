"""Synthetic notes: the pitch that is asked for is the pitch that sounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from domains.music.synthesis import (
    HIGHEST,
    LOWEST,
    RATE,
    Instrument,
    draw_instrument,
    frequency,
    note_name,
    play,
    write_notes,
)
from hub.manifest import read_manifest


def period(sound: np.ndarray, expected: float) -> float:
    """Return the period in samples, from the autocorrelation's peak near ``expected``."""
    spectrum = np.fft.rfft(sound, 2 * len(sound))
    correlation = np.fft.irfft(np.abs(spectrum) ** 2)[: len(sound)]
    near = np.arange(int(0.75 * expected), int(1.35 * expected) + 2)
    top = near[np.argmax(correlation[near])]
    left, middle, right = correlation[top - 1 : top + 2]
    return float(top + 0.5 * (left - right) / (left - 2 * middle + right))


def test_names_and_frequencies() -> None:
    assert frequency(69) == 440 and frequency(57) == 220 and frequency(60) == pytest.approx(261.626, abs=1e-3)
    assert [note_name(m) for m in (21, 60, 61, 69)] == ["A0", "C4", "Cs4", "A4"]


@pytest.mark.parametrize("seed", range(12))
def test_a_drawn_instrument_plays_the_note_it_is_given(seed: int) -> None:
    random = np.random.default_rng(seed)
    instrument = draw_instrument(random)
    midi = int(random.integers(LOWEST, 85))
    sound = play(instrument, midi, 0.6, seed)
    assert sound.dtype == np.float32 and len(sound) == round(0.6 * RATE) and np.isfinite(sound).all()
    assert np.abs(sound).max() == pytest.approx(0.7, abs=1e-6)
    assert not sound[-1] and np.array_equal(sound, play(instrument, midi, 0.6, seed))
    expected = RATE / frequency(midi)
    cents = 1200 * np.log2(expected / period(sound, expected))
    assert abs(cents) < 25, (instrument, midi)


@pytest.mark.parametrize("kind", ["additive", "fm"])
def test_nothing_is_mirrored_at_the_nyquist_frequency(kind: str) -> None:
    """All that sounds lies at multiples of the fundamental."""
    bright = Instrument(kind=kind, tilt=0.5, index=6.0, ratio=1.0)  # type: ignore[arg-type]
    sound = play(bright, HIGHEST, 1.0)
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound)))) ** 2
    hertz = np.fft.rfftfreq(len(sound), 1 / RATE)
    off = np.abs(hertz / frequency(HIGHEST) - np.round(hertz / frequency(HIGHEST)))
    assert spectrum[off > 0.05].sum() < 1e-3 * spectrum.sum()


def test_written_notes_have_their_pitch_class_and_are_the_same_again(tmp_path: Path) -> None:
    first, again = (write_notes(tmp_path / name, 12, seed=3, per_instrument=5, seconds=0.3) for name in ("a", "b"))
    other = write_notes(tmp_path / "c", 12, seed=4, per_instrument=5, seconds=0.3)
    assert first.read_bytes() == again.read_bytes() != other.read_bytes()
    rows = read_manifest(first, need=("file", "label", "group"))
    assert len(rows) == 12 and len({r.group for r in rows}) == 3
    for row in rows:
        sound, rate = soundfile.read(row.file)
        assert rate == RATE and len(sound) == 0.3 * RATE
        assert np.array_equal(sound, soundfile.read(tmp_path / "b" / "notes" / row.file.name)[0])
        name = row.file.stem.split("-")[1]
        assert note_name(60 + int(row.label))[:-1] == name[: len(name) - 1]
