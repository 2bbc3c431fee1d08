"""Known sounds to set others beside: six synthetic instruments, each with two melodies and a low note, and rhythms."""

from __future__ import annotations

import io

import numpy as np
import soundfile

from domains.music.samples import A_MINOR, BELL, C_MAJOR, CLARINET, FLUTE, STRING, melody
from domains.music.synthesis import RATE, Instrument
from hub.reading import Source

INSTRUMENTS = {
    "flute": FLUTE,
    "clarinet": CLARINET,
    "plucked string": STRING,
    "bell": BELL,
    "organ": Instrument(tilt=0.7, attack=0.03),
    "brass": Instrument(kind="fm", ratio=1.0, index=5.0, attack=0.06),
}
LINES = {"C major": C_MAJOR, "A minor": A_MINOR, "low note": (40,)}
SECONDS = 1.2


def examples() -> list[Source]:
    """Return FLAC files of 1.2 s, each named after what it holds; the same on every call."""
    sounds = {
        f"{name} {line}": melody(instrument, notes, SECONDS / len(notes), RATE)
        for name, instrument in INSTRUMENTS.items()
        for line, notes in LINES.items()
    }
    random = np.random.default_rng(0)
    time = np.arange(int(SECONDS * RATE)) / RATE
    beat = time % 0.3
    noise = random.normal(size=len(time)).clip(-3, 3)
    sounds["drum"] = 0.8 * np.exp(-beat / 0.06) * np.sin(2 * np.pi * 70 * beat * (1 + np.exp(-beat / 0.02)))
    sounds["cymbal"] = 0.2 * np.exp(-beat / 0.08) * np.diff(noise, prepend=0)
    sounds["noise"] = 0.15 * noise
    return [_flac(name, sound) for name, sound in sounds.items()]


def _flac(name: str, sound: np.ndarray) -> Source:
    buffer = io.BytesIO()
    soundfile.write(buffer, sound.astype(np.float32).clip(-1, 1), RATE, format="FLAC", subtype="PCM_16")
    return Source.from_bytes(buffer.getvalue(), f"{name.replace(' ', '-')}.flac")
