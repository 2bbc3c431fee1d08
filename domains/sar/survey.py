"""What a look at a few windows of an image tells: its level, its gaps, and the shape of its spectrum."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from domains.sar.raster import Raster
from hub.errors import InvalidInput

WINDOW = 256
"""Side of a window, pixels."""
WINDOWS = 5
"""Windows along an axis of an image too large to be looked at whole."""


@dataclass(frozen=True)
class Survey:
    """Figures of one band.

    Attributes:
        rms: Root mean square amplitude of the valid pixels.
        low: Smallest valid value; of complex data the smallest amplitude.
        high: Largest.
        valid: Share of the pixels that hold data.
        finite: Whether every value is finite or marked as missing.
        real: Whether complex values have no imaginary part, or one constant phase.
        edge_power: For azimuth (rows) and range (columns), mean power density in the outer tenth of the centred
            spectrum over that in its inner fifth; near 0 for oversampled or weighted data, 1 for white speckle.
        asymmetry: For both axes, the share of the power that has no counterpart on the other side of the centre of
            the spectrum, from 0 to 1.
    """

    rms: float
    low: float
    high: float
    valid: float
    finite: bool
    real: bool = False
    edge_power: tuple[float, float] = (0.0, 0.0)
    asymmetry: tuple[float, float] = (0.0, 0.0)


def survey(raster: Raster) -> Survey:
    """Look at evenly spread windows of a one-band image, the last pixels among them.

    Raises:
        InvalidInput: The file is damaged in one of the windows, or holds no data in any.
    """
    pixels = total = 0
    energy = 0.0
    low, high, finite, real = np.inf, -np.inf, True, True
    profiles: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    for rows, columns in _windows(*raster.shape[1:]):
        values = raster.read(rows, columns)
        marked = values == raster.nodata if raster.nodata is not None else np.zeros(values.shape, bool)
        missing = ~np.isfinite(values)
        if raster.nodata is None or not np.isnan(raster.nodata):
            finite &= bool((~missing | marked).all())
        valid = raster.valid(values)
        kept = values[valid]
        total += values.size
        if not kept.size:
            continue
        levels = np.abs(kept) if raster.quantity == "complex" else kept
        low, high = min(low, float(levels.min())), max(high, float(levels.max()))
        pixels += kept.size
        energy += float(np.square(raster.amplitude(kept), dtype=np.float64).sum())
        if raster.quantity == "complex":
            real = real and _is_real(kept)
            profiles.append(_profiles(np.where(valid, values, 0)[0]))
    if not pixels:
        raise InvalidInput("there is no data in it: every pixel looked at is zero or missing", code="no_data")
    shapes = _shapes(profiles) if profiles else ((0.0, 0.0), (0.0, 0.0))
    is_real = raster.quantity == "complex" and real
    return Survey(float(np.sqrt(energy / pixels)), low, high, pixels / total, finite, is_real, *shapes)


def _windows(rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
    """Yield the windows to look at: all of a small image, a grid that reaches the borders of a large one."""
    for top in _starts(rows):
        for left in _starts(columns):
            yield slice(top, top + WINDOW), slice(left, left + WINDOW)


def _starts(length: int) -> list[int]:
    if length <= WINDOW * WINDOWS:
        return list(range(0, length, WINDOW))
    return [round(i * (length - WINDOW) / (WINDOWS - 1)) for i in range(WINDOWS)]


def _is_real(values: NDArray[np.generic]) -> bool:
    """Tell whether complex values all lie on one line through zero: a detected image stored as complex."""
    # The mean of the doubled angle, weighted by power: its length is the power only if all phases agree.
    doubled = np.square(values.astype(np.complex128))
    power = np.abs(doubled).sum()
    return bool(power > 0 and abs(doubled.sum()) > (1 - 1e-6) * power)


def _profiles(image: NDArray[np.generic]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the power spectrum's profile along each axis, in 64 bins, zero frequency in the middle."""
    power = np.square(np.abs(np.fft.fftshift(np.fft.fft2(image))), dtype=np.float64)
    return _binned(power.mean(1)), _binned(power.mean(0))


def _binned(profile: NDArray[np.float64], bins: int = 64) -> NDArray[np.float64]:
    places = (np.arange(len(profile)) * bins) // len(profile)
    counts = np.bincount(places, minlength=bins)
    return np.bincount(places, profile, bins) / np.maximum(counts, 1)


def _shapes(
    profiles: list[tuple[NDArray[np.float64], NDArray[np.float64]]],
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return edge power and asymmetry of both axes from the profiles of all windows, each centred first."""
    edges, asymmetries = [], []
    for axis in (0, 1):
        centred = np.mean([_centred(pair[axis]) for pair in profiles], axis=0)
        bins = len(centred)
        outer = np.r_[centred[: bins // 20], centred[-(bins // 20) :]]
        inner = centred[bins // 2 - bins // 10 : bins // 2 + bins // 10]
        edges.append(float(outer.mean() / max(inner.mean(), np.finfo(float).tiny)))
        asymmetries.append(float(np.abs(centred - centred[::-1]).sum() / max(centred.sum(), np.finfo(float).tiny) / 2))
    return (edges[0], edges[1]), (asymmetries[0], asymmetries[1])


def _centred(profile: NDArray[np.float64]) -> NDArray[np.float64]:
    """Roll a profile so that it is as symmetric as it can be, with its power in the middle; scaled to sum 1."""
    bins = len(profile)
    mirrored = profile[::-1]
    correlation = np.fft.ifft(np.fft.fft(profile) * np.conj(np.fft.fft(mirrored))).real
    shift = -int(correlation.argmax()) // 2
    rolled = [np.roll(profile, shift), np.roll(profile, shift + bins // 2)]
    middle = slice(bins // 4, 3 * bins // 4)
    best = max(rolled, key=lambda p: p[middle].sum())
    return best / max(best.sum(), np.finfo(float).tiny)
