"""A picture of a recording of music: its waveform over a spectrogram whose octaves are equally high."""

from __future__ import annotations

import numpy as np

from domains.music.audio import Audio, to_mono
from domains.music.synthesis import frequency
from hub.drawing import ACCENT, as_png, decibels, envelope, new_figure, spectra
from hub.modeling import TaskFile
from hub.reading import Sample

WINDOW_SECONDS = 0.18
LOWEST, HIGHEST, STEPS = 36, 108, 4
"""MIDI numbers C2 and C8, and rows a semitone."""


def preview(sample: Sample, small: bool = False) -> TaskFile:
    """Return a PNG of a recording, at most 760 columns whatever its length.

    Args:
        sample: Of the domain's reader.
        small: Without axes, for a list.
    """
    audio: Audio = sample.data
    sound = to_mono(audio.samples)
    width, height = (240, 140) if small else (760, 340)
    figure = new_figure(width, height)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2))
    low, high = envelope(sound, width)
    seconds = [audio.seconds * (i + 0.5) / len(low) for i in range(len(low))]
    above.fill_between(seconds, low, high, color=ACCENT, linewidth=0.6)
    below.imshow(
        decibels(_by_pitch(sound, audio.sampling_rate, width), 70).T,
        origin="lower",
        aspect="auto",
        extent=(0, audio.seconds, LOWEST, HIGHEST),
        cmap="magma",
    )
    above.set_xlim(0, audio.seconds)
    if small:
        above.set_axis_off()
        below.set_axis_off()
    else:
        above.spines[["top", "right", "bottom"]].set_visible(False)
        above.tick_params(bottom=False)
        above.set_ylabel("amplitude")
        octaves = range(LOWEST, HIGHEST + 1, 12)
        below.set_yticks(list(octaves), [f"C{midi // 12 - 1}" for midi in octaves])
        below.set_ylabel("pitch")
        below.set_xlabel(f"seconds ({audio.sampling_rate:,} Hz, {audio.channels} channel{'s'[: audio.channels - 1]})")
    return as_png(figure)


def _by_pitch(sound: np.ndarray, rate: int, columns: int) -> np.ndarray:
    """Return magnitudes ``(windows, pitches)``, those above the Nyquist frequency 0."""
    window = max(64, round(WINDOW_SECONDS * rate))
    spectrum = spectra(sound, window, columns)
    pitches = np.array([frequency(midi) for midi in np.arange(LOWEST, HIGHEST, 1 / STEPS)])
    place = pitches * window / rate
    return np.stack([np.interp(place, np.arange(spectrum.shape[1]), row, right=0.0) for row in spectrum])
