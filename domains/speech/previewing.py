"""A picture of an utterance: its waveform over its spectrogram, as phoneticians look at it."""

from __future__ import annotations

from domains.speech.reading import Waveform
from hub.drawing import ACCENT, as_png, decibels, envelope, new_figure, spectra
from hub.modeling import TaskFile
from hub.reading import Sample

WINDOW_SECONDS = 0.025
HIGHEST = 8_000
"""Hz; above it there is little speech."""


def preview(sample: Sample, small: bool = False) -> TaskFile:
    """Return a PNG of a recording, at most 760 columns whatever its length.

    Args:
        sample: Of the domain's reader.
        small: Without axes, for a list.
    """
    sound: Waveform = sample.data
    width, height = (240, 140) if small else (760, 340)
    figure = new_figure(width, height)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2))
    low, high = envelope(sound.samples, width)
    seconds = [sound.seconds * (i + 0.5) / len(low) for i in range(len(low))]
    above.fill_between(seconds, low, high, color=ACCENT, linewidth=0.6)
    spectrum = spectra(sound.samples, max(16, round(WINDOW_SECONDS * sound.sampling_rate)), width)
    nyquist = sound.sampling_rate / 2
    below.imshow(
        decibels(spectrum).T,
        origin="lower",
        aspect="auto",
        extent=(0, sound.seconds, 0, nyquist / 1000),
        cmap="magma",
        interpolation="bilinear",
    )
    below.set_ylim(0, min(nyquist, HIGHEST) / 1000)
    above.set_xlim(0, sound.seconds)
    if small:
        above.set_axis_off()
        below.set_axis_off()
    else:
        above.spines[["top", "right", "bottom"]].set_visible(False)
        above.tick_params(bottom=False)
        above.set_ylabel("amplitude")
        below.set_ylabel("kHz")
        below.set_xlabel(f"seconds ({sound.sampling_rate:,} Hz)")
    return as_png(figure)
