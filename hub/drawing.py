"""Pictures of samples: figures to files, and signals of any length to as much as a picture can show.

Figures are made without pyplot, so that nothing of them outlives the picture.
"""

from __future__ import annotations

import io

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from hub.modeling import TaskFile

INK, ACCENT, CONTRAST, QUIET = "#17212b", "#0b6e6e", "#c2571a", "#8a949c"
"""Colours of all pictures: text, first and second kind of thing, and what stands back."""
DPI = 100


def new_figure(width: int, height: int) -> Figure:
    """Return an empty figure of a size in pixels; its axes are laid out without overlap."""
    return Figure(figsize=(width / DPI, height / DPI), dpi=DPI, layout="constrained", facecolor="white")


def as_png(figure: Figure) -> TaskFile:
    """Return a figure as a PNG of 256 colours."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return image_file(np.asarray(canvas.buffer_rgba())[..., :3])


def as_svg(figure: Figure) -> TaskFile:
    """Return a figure as an SVG whose text is drawn as paths."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return TaskFile(buffer.getvalue(), "image/svg+xml", "preview.svg")


def image_file(pixels: NDArray[np.uint8]) -> TaskFile:
    """Return ``(rows, columns)`` grey or ``(rows, columns, 3)`` colour as a PNG; colours are reduced to 256."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if image.mode != "L":
        image = image.quantize(256, Image.Quantize.FASTOCTREE)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=False)
    return TaskFile(buffer.getvalue(), "image/png", "preview.png")


def envelope(signal: NDArray[np.floating], columns: int) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return the lowest and highest value in each of at most ``columns`` stretches of a signal ``(samples,)``."""
    edges = np.linspace(0, len(signal), min(columns, len(signal)) + 1).astype(int)[:-1]
    return np.minimum.reduceat(signal, edges), np.maximum.reduceat(signal, edges)


def spectra(signal: NDArray[np.floating], window: int, columns: int) -> NDArray[np.float64]:
    """Return magnitude spectra of Hann windows spread evenly over a signal.

    However long the signal, at most ``columns`` windows are taken of it.

    Args:
        signal: ``(samples,)``; one shorter than a window is padded with zeros.
        window: Samples of one.
        columns: Most windows.

    Returns:
        ``(columns, window // 2 + 1)``.
    """
    padded = np.pad(signal, (0, max(0, window - len(signal))))
    last = len(padded) - window
    count = min(columns, 1 + last // max(1, window // 8))
    starts = np.linspace(0, last, count).astype(int)
    frames = padded[starts[:, None] + np.arange(window)] * np.hanning(window)
    return np.abs(np.fft.rfft(frames, axis=1))


def decibels(magnitude: NDArray[np.floating], span: float = 80.0) -> NDArray[np.floating]:
    """Return magnitudes in dB below the largest, from ``-span`` to 0."""
    top = max(float(magnitude.max()), 1e-12)
    return 20 * np.log10(np.maximum(magnitude / top, 10 ** (-span / 20)))
