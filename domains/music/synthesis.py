"""Notes of known pitch, by two classic ways of making them, for pretraining and for tests.

``python -m domains.music.synthesis OUT --count 2000 --seed 0`` writes FLAC files and a manifest. The notes are the same
on every call with the same seed.

- Additive: a sum of partials, stretched as those of a stiff string are (Fletcher, JASA 36, 1964), each with a decay of
  its own, with an attack, vibrato and breath.
- FM: a carrier whose phase is modulated, with an index that falls over time (Chowning, JAES 21, 1973). The ratio of the
  two frequencies is a whole number, so that the pitch stays the carrier's; 2 gives odd partials alone.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile

RATE = 24_000
SECONDS = 1.8
LOWEST, HIGHEST = 28, 96
"""MIDI numbers of the notes, E1 to C7."""
VIBRATO_HERTZ = 5.5
PARTIALS = 40
RATIOS = (1.0, 1.0, 2.0, 3.0)
FADE_SECONDS = 0.02
NAMES = ("C", "Cs", "D", "Ds", "E", "F", "Fs", "G", "Gs", "A", "As", "B")


@dataclass(frozen=True)
class Instrument:
    """What notes of one synthetic instrument share.

    Attributes:
        kind: ``additive`` or ``fm``.
        tilt: How fast partials fall with their number ``k``: as ``k ** -tilt``.
        even: Level of the even partials; 0 gives a closed pipe.
        stretch: Inharmonicity B: partial ``k`` lies at ``k * sqrt(1 + B k²)`` times the fundamental.
        attack: Seconds until the full level.
        decay: Seconds in which the fundamental falls by 1/e; infinite for a bowed or blown note.
        damping: How much faster high partials fall.
        vibrato: Depth in cents.
        breath: Level of the noise beside the note.
        ratio: Modulator to carrier frequency.
        index: Modulation index at the attack.
    """

    kind: Literal["additive", "fm"] = "additive"
    tilt: float = 1.0
    even: float = 1.0
    stretch: float = 0.0
    attack: float = 0.01
    decay: float = float("inf")
    damping: float = 0.0
    vibrato: float = 0.0
    breath: float = 0.0
    ratio: float = 1.0
    index: float = 2.0


def frequency(midi: float) -> float:
    """Return the equal-tempered frequency of a MIDI number, in Hz; 69 is A4 at 440 Hz."""
    return 440.0 * 2.0 ** ((midi - 69) / 12)


def note_name(midi: int) -> str:
    """Return the scientific name of a note, with ``s`` for a sharp: 69 is ``A4``."""
    return f"{NAMES[midi % 12]}{midi // 12 - 1}"


def play(instrument: Instrument, midi: float, seconds: float = SECONDS, seed: int = 0, rate: int = RATE) -> np.ndarray:
    """Return one note, ``(samples,)`` float32 with a peak of 0.7.

    Args:
        instrument: Who plays.
        midi: Which note; a fraction is a detuned one.
        seconds: How long.
        seed: Of phases, breath and where the vibrato starts.
        rate: Hz.
    """
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    wobble = np.sin(2 * np.pi * VIBRATO_HERTZ * time + random.uniform(0, 2 * np.pi))
    pitch = frequency(midi) * 2.0 ** (instrument.vibrato / 1200 * wobble)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    sound = (_additive if instrument.kind == "additive" else _fm)(instrument, time, phase, pitch.max(), rate, random)
    sound *= np.minimum(time / instrument.attack, 1.0)
    sound += instrument.breath * np.abs(sound).max() * random.normal(0, 1, len(time))
    sound *= np.minimum((time[-1] - time) / FADE_SECONDS, 1.0)
    return (0.7 * sound / max(float(np.abs(sound).max()), 1e-12)).astype(np.float32)


def draw_instrument(random: np.random.Generator) -> Instrument:
    """Return an instrument drawn at random: plucked or sustained, bright or dull, additive or FM."""
    plucked = bool(random.random() < 0.5)
    return Instrument(
        kind="additive" if random.random() < 0.6 else "fm",
        tilt=float(random.uniform(0.5, 2.5)),
        even=float(random.choice([0.0, 0.3, 1.0, 1.0])),
        stretch=float(10 ** random.uniform(-5, -3.3)) if plucked else 0.0,
        attack=float(10 ** (random.uniform(-2.7, -1.7) if plucked else random.uniform(-2, -0.8))),
        decay=float(10 ** random.uniform(-0.7, 0.5)) if plucked else float("inf"),
        damping=float(random.uniform(0.1, 1.0)) if plucked else 0.0,
        vibrato=0.0 if plucked else float(random.uniform(0, 30)),
        breath=float(10 ** random.uniform(-4, -1.5)),
        ratio=float(random.choice(RATIOS)),
        index=float(random.uniform(0.5, 6.0)),
    )


def write_notes(folder: Path, count: int, seed: int = 0, per_instrument: int = 20, seconds: float = SECONDS) -> Path:
    """Write notes as 16-bit FLAC at 24 kHz, and their manifest.

    Args:
        folder: Made where it is missing.
        count: Notes.
        seed: Of instruments and notes.
        per_instrument: Notes of one instrument, which are a group of the manifest.
        seconds: Length of a note.

    Returns:
        The manifest ``notes.csv``: ``file,label,group`` with the pitch class 0 to 11 (0 is C) as the label.
    """
    (folder / "notes").mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        if number % per_instrument == 0:
            instrument = draw_instrument(random)
        midi = int(random.integers(LOWEST, HIGHEST + 1))
        detuned = midi + float(random.uniform(-0.1, 0.1))
        path = folder / "notes" / f"{number:05d}-{note_name(midi)}.flac"
        sound = play(instrument, detuned, seconds, int(random.integers(1 << 31)))
        soundfile.write(path, sound, RATE, subtype="PCM_16")
        rows.append((path.relative_to(folder).as_posix(), midi % 12, f"instrument-{number // per_instrument}"))
    manifest = folder / "notes.csv"
    with manifest.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("file", "label", "group"))
        writer.writerows(rows)
    return manifest


def _additive(
    instrument: Instrument, time: np.ndarray, phase: np.ndarray, pitch: float, rate: int, random: np.random.Generator
) -> np.ndarray:
    """Return the sum of partials below the Nyquist frequency, each falling at its own speed."""
    sound = np.zeros_like(time)
    for k in range(1, PARTIALS + 1):
        place = k * np.sqrt(1 + instrument.stretch * k**2)
        if place * pitch >= rate / 2:
            break
        level = k**-instrument.tilt * (instrument.even if k % 2 == 0 else 1.0)
        fall = np.exp(-time / instrument.decay * k**instrument.damping)
        sound += level * fall * np.sin(place * phase + random.uniform(0, 2 * np.pi))
    return sound


def _fm(
    instrument: Instrument, time: np.ndarray, phase: np.ndarray, pitch: float, rate: int, random: np.random.Generator
) -> np.ndarray:
    """Return a modulated carrier; the index is held down so that sidebands stay below the Nyquist frequency."""
    modulator = instrument.ratio * pitch
    # Carson's rule, one sideband wider: what lies beyond index + 2 of them has less than a thousandth of the power.
    index = min(instrument.index, max((rate / 2 - pitch) / modulator - 2, 0.0))
    fall = np.exp(-time / instrument.decay)
    return fall * np.sin(phase + index * fall * np.sin(instrument.ratio * phase + random.uniform(0, 2 * np.pi)))


def main() -> None:
    """Write a set of notes."""
    parser = argparse.ArgumentParser(prog="python -m domains.music.synthesis", description=__doc__)
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--count", type=int, default=2_000, help="notes")
    parser.add_argument("--seed", type=int, default=0, help="of instruments and notes")
    arguments = parser.parse_args()
    print(write_notes(arguments.out, arguments.count, arguments.seed))


if __name__ == "__main__":
    main()
