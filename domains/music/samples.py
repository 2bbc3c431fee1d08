"""Small musical files to try things on: synthetic instruments, in the formats that people have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from domains.music.synthesis import Instrument, play

FLUTE = Instrument(tilt=2.0, attack=0.08, vibrato=15, breath=0.01)
CLARINET = Instrument(tilt=1.0, even=0.05, attack=0.05)
STRING = Instrument(tilt=0.8, stretch=2e-4, attack=0.003, decay=0.6, damping=0.5)
BELL = Instrument(kind="fm", ratio=3.0, index=3.0, attack=0.002, decay=0.5)
C_MAJOR, A_MINOR = (60, 64, 67, 72), (57, 60, 64, 69)


def melody(instrument: Instrument, notes: Sequence[int], seconds: float = 0.4, rate: int = 44_100) -> np.ndarray:
    """Return notes one after the other, ``(samples,)`` float32.

    Args:
        instrument: Who plays.
        notes: MIDI numbers.
        seconds: Of one note.
        rate: Hz.
    """
    return np.concatenate([play(instrument, note, seconds, seed, rate) for seed, note in enumerate(notes)])


def write_samples(folder: Path) -> list[Path]:
    """Write a few melodies in different formats, rates and numbers of channels.

    The audio is the same on every call; an OGG file's bytes differ in the serial number that its format wants.

    Args:
        folder: An existing folder.
    """
    flute, again = melody(FLUTE, C_MAJOR), melody(FLUTE, A_MINOR)
    string = melody(STRING, C_MAJOR, rate=48_000)
    files: tuple[tuple[str, np.ndarray, int, str | None], ...] = (
        ("synthetic-flute.wav", flute, 44_100, None),
        ("synthetic-flute-again.ogg", again, 44_100, None),
        ("synthetic-string-stereo.flac", np.stack([string, 0.6 * string], axis=1), 48_000, "PCM_24"),
        ("synthetic-clarinet.mp3", melody(CLARINET, A_MINOR), 44_100, None),
        ("synthetic-bell.aiff", melody(BELL, C_MAJOR, rate=24_000), 24_000, None),
        ("synthetic-bell-telephone.wav", melody(BELL, A_MINOR, rate=8_000), 8_000, None),
    )
    for name, sound, rate, subtype in files:
        soundfile.write(folder / name, sound, rate, subtype=subtype)
    return [folder / name for name, *_ in files]
