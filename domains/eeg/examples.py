"""Known recordings to set others beside: states and disturbances as a synthetic head shows them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from domains.eeg.recording import Recording
from domains.eeg.samples import CHANNELS, simulate
from domains.eeg.writing import edf_bytes
from hub.reading import Source

RATE = 250.0
SECONDS = 12.0
EACH = 2
"""Recordings of a kind."""
Signal = NDArray[np.float64]


def _closed(head: Signal, time: Signal, random: np.random.Generator) -> Signal:
    return head


def _spikes_and_waves(head: Signal, time: Signal, random: np.random.Generator) -> Signal:
    """Three a second on all channels, as in an absence seizure."""
    phase = (time * random.uniform(2.8, 3.2)) % 1
    complexes = 250 * np.exp(-(((phase - 0.15) / 0.04) ** 2)) - 140 * np.exp(-(((phase - 0.55) / 0.2) ** 2))
    return head + complexes * random.uniform(0.7, 1.1, (len(head), 1))


def _slow_waves(head: Signal, time: Signal, random: np.random.Generator) -> Signal:
    """Large delta waves, as in deep sleep."""
    waves = sum(np.sin(2 * np.pi * random.uniform(0.6, 1.8) * time + random.uniform(0, 6)) for _ in range(5))
    return 0.7 * head + 40 * waves * random.uniform(0.7, 1.1, (len(head), 1))


def _fast(head: Signal, time: Signal, random: np.random.Generator) -> Signal:
    """Beta activity, as under a benzodiazepine."""
    waves = np.sin(2 * np.pi * np.cumsum(random.normal(22, 8, time.size)) / RATE)
    return 0.6 * head + 18 * waves * random.uniform(0.6, 1.2, (len(head), 1))


def _muscle(head: Signal, time: Signal, random: np.random.Generator) -> Signal:
    noise = np.diff(random.normal(size=(len(head), time.size + 1)), axis=1)
    return head + 45 * noise * (np.sin(2 * np.pi * 0.35 * time) > 0)


def _mains(head: Signal, time: Signal, random: np.random.Generator) -> Signal:
    return head + 90 * np.sin(2 * np.pi * 50 * time) * random.uniform(0.5, 1.2, (len(head), 1))


def _sweat(head: Signal, time: Signal, random: np.random.Generator) -> Signal:
    drift = np.sin(2 * np.pi * random.uniform(0.08, 0.2, (len(head), 1)) * time + random.uniform(0, 6, (len(head), 1)))
    return head + 200 * drift


def _flat(head: Signal, time: Signal, random: np.random.Generator) -> Signal:
    return random.normal(0, 1.2, head.shape)


KINDS: dict[str, tuple[bool, Callable[[Signal, Signal, np.random.Generator], Signal]]] = {
    "eyes open": (False, _closed),
    "eyes closed": (True, _closed),
    "spikes and waves": (False, _spikes_and_waves),
    "slow waves": (True, _slow_waves),
    "fast activity": (False, _fast),
    "muscle": (False, _muscle),
    "mains hum": (False, _mains),
    "sweat drift": (False, _sweat),
    "nearly flat": (False, _flat),
}
"""By name: whether it starts from the half with closed eyes, and what is done to it."""


def examples() -> list[Source]:
    """Return EDF files of 12 s and 8 channels, each named after what it holds; the same on every call."""
    made = []
    for kind, (closed, change) in KINDS.items():
        for number in range(EACH):
            whole = simulate(CHANNELS, RATE, 2 * SECONDS, seed=number + 20)
            half = round(SECONDS * RATE)
            part = whole.crop(half, 2 * half) if closed else whole.crop(0, half)
            random = np.random.default_rng(number)
            time = np.arange(half) / RATE
            signal = change(part.microvolts, time, random) * 1e-6
            recording: Recording = replace(part, signal=signal, annotations=[], start=0.0)
            name = f"{kind.replace(' ', '-')}-{number + 1}.edf"
            made.append(Source.from_bytes(edf_bytes(recording), name))
    return made
