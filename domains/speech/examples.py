"""Known sounds to set others beside: vowels of three synthetic voices, and what is no speech."""

from __future__ import annotations

import io

import numpy as np
import soundfile
from scipy.signal import chirp

from domains.speech.samples import CHILD, HIGH, LOW, RATE, say
from hub.reading import Source

VOICES = {"low voice": LOW, "high voice": HIGH, "child": CHILD}
UTTERANCES = ("aeiou", "ouiea", "aaa", "iii", "uuu")


def examples() -> list[Source]:
    """Return WAV files of about a second, each named after what it holds; the same on every call."""
    random = np.random.default_rng(0)
    time = np.arange(int(1.2 * RATE)) / RATE
    clicks = np.zeros(len(time))
    clicks[:: RATE // 8] = 0.9
    sounds = {
        f"{name} {vowels}": say(voice, vowels, seed)
        for seed, (name, voice) in enumerate(VOICES.items())
        for vowels in UTTERANCES
    }
    sounds |= {
        "white noise": 0.2 * random.normal(size=len(time)).clip(-4, 4),
        "tone 440 Hz": 0.5 * np.sin(2 * np.pi * 440 * time),
        "tone 2 kHz": 0.5 * np.sin(2 * np.pi * 2000 * time),
        "rising tone": 0.5 * chirp(time, 100, time[-1], 7000),
        "clicks": clicks,
        "noise bursts": 0.2 * random.normal(size=len(time)).clip(-4, 4) * (np.sin(2 * np.pi * 4 * time) > 0),
    }
    return [_wav(name, sound) for name, sound in sounds.items()]


def _wav(name: str, sound: np.ndarray) -> Source:
    buffer = io.BytesIO()
    soundfile.write(buffer, sound.astype(np.float32), RATE, format="WAV", subtype="PCM_16")
    return Source.from_bytes(buffer.getvalue(), f"{name.replace(' ', '-')}.wav")
