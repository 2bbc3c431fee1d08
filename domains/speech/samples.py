"""Small speech-like files to try things on: synthetic voices saying vowels, in the formats that people have.

No recording of a person is in them. A voice is a train of glottal pulses through four resonances, after the
source-filter model of speech (Fant, "Acoustic Theory of Speech Production", 1960).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from scipy.signal import lfilter

RATE = 16_000
VOWELS = {  # the first three formants of an adult male voice, Hz
    "a": (730, 1090, 2440),
    "e": (530, 1840, 2480),
    "i": (270, 2290, 3010),
    "o": (570, 840, 2410),
    "u": (300, 870, 2240),
}
BANDWIDTHS = (60, 90, 150, 200)  # Hz
FOURTH_FORMANT = 3_500  # Hz
VOWEL_SECONDS = 0.28
GAP_SECONDS = 0.06


@dataclass(frozen=True)
class Voice:
    """A synthetic speaker.

    Attributes:
        pitch: Fundamental frequency, Hz.
        tract: Factor on all formants; a shorter vocal tract has higher ones.
        breath: Level of the noise that goes with the pulses.
    """

    pitch: float
    tract: float
    breath: float


LOW = Voice(pitch=105, tract=1.0, breath=0.01)
HIGH = Voice(pitch=210, tract=1.17, breath=0.02)
CHILD = Voice(pitch=290, tract=1.35, breath=0.03)


def say(voice: Voice, vowels: Sequence[str], seed: int = 0) -> np.ndarray:
    """Return a synthetic utterance.

    Args:
        voice: Who speaks.
        vowels: Keys of ``VOWELS``, in order.
        seed: Of the breath noise and of the small irregularities of the pitch.

    Returns:
        ``(samples,)`` float32 at 16 kHz, peak 0.7.
    """
    random = np.random.default_rng(seed)
    count = int(VOWEL_SECONDS * RATE)
    envelope = np.sin(np.pi * np.linspace(0, 1, count)) ** 0.5
    gap = np.zeros(int(GAP_SECONDS * RATE))
    parts = [gap]
    for number, vowel in enumerate(vowels):
        # Pitch falls over the utterance and over each vowel, and is never quite steady.
        fall = 1.12 - 0.2 * (number + np.linspace(0, 1, count)) / len(vowels)
        drift = 1 + 0.01 * np.cumsum(random.normal(0, 1, count)) / np.sqrt(count)
        phase = np.cumsum(voice.pitch * fall * drift) / RATE
        # Flow rises and falls slowly, then shuts at once; its derivative drives the tract.
        cycle = phase % 1
        flow = np.where(cycle < 0.6, np.sin(np.pi * cycle / 0.6) ** 2 * (1 + cycle), 0.0)
        sound = np.diff(flow, prepend=0.0) + voice.breath * random.normal(0, 1, count) * (0.3 + flow)
        for formant, bandwidth in zip((*VOWELS[vowel], FOURTH_FORMANT), BANDWIDTHS, strict=True):
            sound = _resonate(sound, min(formant * voice.tract, 0.45 * RATE), bandwidth)
        parts += [sound / np.abs(sound).max() * envelope, gap]
    utterance = np.concatenate(parts)
    return (0.7 * utterance / np.abs(utterance).max()).astype(np.float32)


def write_samples(folder: Path) -> list[Path]:
    """Write a few synthetic utterances in different formats, rates and numbers of channels.

    The audio is the same on every call; an OGG file's bytes differ in the serial number that its format
    wants.

    Args:
        folder: An existing folder.
    """
    low, again = say(LOW, "aeiou", seed=1), say(LOW, "ouiea", seed=2)
    high, child = say(HIGH, "aeiou", seed=3), say(CHILD, "ieaou", seed=4)
    wide = _stretch(high, 44_100)
    files = (
        ("synthetic-low-voice.wav", low, RATE),
        ("synthetic-low-voice-again.ogg", again, RATE),
        ("synthetic-low-voice-telephone.wav", _stretch(low, 8_000), 8_000),
        ("synthetic-high-voice-stereo.flac", np.stack([wide, 0.6 * wide], axis=1), 44_100),
        ("synthetic-high-voice.mp3", say(HIGH, "ouiea", seed=5), RATE),
        ("synthetic-child-voice.wav", child, RATE),
    )
    paths = [folder / name for name, _, _ in files]
    for path, (_, audio, rate) in zip(paths, files, strict=True):
        soundfile.write(path, audio, rate)
    return paths


def _resonate(sound: np.ndarray, frequency: float, bandwidth: float) -> np.ndarray:
    """Pass a sound through one two-pole resonance of unit gain at 0 Hz."""
    radius = np.exp(-np.pi * bandwidth / RATE)
    poles = (1.0, -2 * radius * np.cos(2 * np.pi * frequency / RATE), radius**2)
    return lfilter([sum(poles)], poles, sound)


def _stretch(audio: np.ndarray, rate: int) -> np.ndarray:
    """Return audio at another rate."""
    return soxr.resample(audio, RATE, rate)
