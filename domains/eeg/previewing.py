"""A picture of a recording: its channels one below the other, with a scale bar, as electroencephalographers read it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from domains.eeg.recording import Recording
from hub.drawing import ACCENT, INK, QUIET, as_png, envelope, new_figure
from hub.modeling import TaskFile
from hub.reading import Sample

MOST_CHANNELS = 24
MOST_SECONDS = 30.0
ROUND = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000)
"""Microvolts that a scale bar may have."""


def preview(sample: Sample, small: bool = False) -> TaskFile:
    """Return a PNG of the first channels and seconds of a recording.

    Channels are shifted to their medians; all have the same scale.

    Args:
        sample: Of the domain's reader.
        small: Without axes, for a list.
    """
    recording: Recording = sample.data
    shown = recording.pick(range(min(MOST_CHANNELS, recording.signal.shape[0])))
    shown = shown.crop(0, min(shown.signal.shape[1], max(2, round(MOST_SECONDS * shown.sampling_rate))))
    traces = shown.microvolts - np.median(shown.microvolts, axis=1, keepdims=True)
    spacing = max(1.0, float(np.percentile(np.abs(traces), 99)) * 1.6)
    rows = len(traces)
    width, height = (240, 140) if small else (760, 90 + 26 * max(rows, 4))
    figure = new_figure(width, height)
    axes = figure.subplots()
    for row, trace in enumerate(traces):
        time, line = _thinned(np.clip(trace, -spacing, spacing), shown.seconds, width)
        axes.plot(time, line - row * spacing, color=ACCENT, linewidth=0.5 if small else 0.8)
    axes.set_xlim(0, shown.seconds)
    axes.set_ylim(-(rows - 0.2) * spacing, 0.9 * spacing)
    if small:
        axes.set_axis_off()
        return as_png(figure)
    axes.set_yticks([-row * spacing for row in range(rows)], [name[:12] for name in shown.channels])
    axes.tick_params(left=False)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_xlabel(f"seconds{_rest(recording, shown)} ({recording.sampling_rate:g} Hz)")
    bar = next((size for size in reversed(ROUND) if size <= spacing), ROUND[0])
    above, beside = axes.get_xaxis_transform(), axes.get_yaxis_transform()
    axes.plot([1.01] * 2, [-bar / 2, bar / 2], color=INK, linewidth=2, clip_on=False, transform=beside)
    axes.text(1.02, 0, f"{bar} µV", va="center", transform=beside, color=INK)
    for note in shown.annotations[:20]:
        axes.axvline(note.onset, color=QUIET, linewidth=0.8, linestyle=":")
        if note.onset >= 0:
            axes.text(note.onset, 1.0, f" {note.label[:24]}", transform=above, color=QUIET, va="bottom", fontsize=8)
    return as_png(figure)


def _thinned(trace: NDArray[np.float64], seconds: float, width: int) -> tuple[NDArray, NDArray]:
    """Return the times and values of a line; of many samples, the extremes of each column."""
    if len(trace) > 4 * width:
        trace = np.column_stack(envelope(trace, 2 * width)).ravel()
    return np.linspace(0, seconds, len(trace), endpoint=False), trace


def _rest(recording: Recording, shown: Recording) -> str:
    """Say what of a recording is not shown."""
    channels, all_channels = len(shown.channels), len(recording.channels)
    parts = []
    if shown.seconds < recording.seconds:
        parts.append(f"first {shown.seconds:.0f} of {recording.seconds:,.0f}")
    if channels < all_channels:
        parts.append(f"{channels} of {all_channels} channels")
    return f", {', '.join(parts)}" if parts else ""
