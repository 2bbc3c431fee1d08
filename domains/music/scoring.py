"""Beats and keys as the field writes and scores them (mir_eval's measures), beside labels and scores of a head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mir_eval.beat import f_measure
from mir_eval.key import validate_key, weighted_score
from scipy.signal import find_peaks

from hub.errors import InvalidManifest

BEAT, REST = "beat", "rest"
STEPS_PER_SECOND = 25
"""Steps of beat labels: each beat marks 40 ms, three tokens of a model with 75 a second. The measure allows ±70 ms."""
CLOSEST_BEATS = 0.2
"""Seconds between two beats at least: 300 a minute."""


def beat_labels(times: Sequence[float], seconds: float) -> str:
    """Return beats as the ``label`` of a manifest for ``--task frames``.

    Args:
        times: Beats, seconds from the start of the recording.
        seconds: Length of the recording.

    Returns:
        ``rest;rest;beat;rest``..., 25 a second.

    Raises:
        InvalidManifest: A beat lies outside the recording.
    """
    steps = max(1, round(seconds * STEPS_PER_SECOND))
    labels = [REST] * steps
    for time in times:
        if not 0 <= time <= seconds:
            raise InvalidManifest(f"a beat at {time:g} s, in a recording of {seconds:.3f} s")
        labels[min(int(time / seconds * steps), steps - 1)] = BEAT
    return ";".join(labels)


def read_beats(path: Path) -> list[float]:
    """Return the beats of an annotation file: one a line, the time in seconds first, as in ``.beats`` files.

    Raises:
        InvalidManifest: A line does not start with a number; the text gives the line.
    """
    times = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        fields = line.replace(",", " ").split()
        if not fields or fields[0].startswith("#"):
            continue
        try:
            time = float(fields[0])
        except ValueError:
            raise InvalidManifest(f"{path}, line {number}: does not start with a time in seconds") from None
        if not np.isfinite(time):
            raise InvalidManifest(f"{path}, line {number}: the time is not finite")
        times.append(time)
    return sorted(times)


def beat_times(answer: Mapping[str, Any], seconds: float) -> np.ndarray:
    """Return the beats that a fine-tuned model hears, in seconds: peaks of the beat's probability above one half.

    Args:
        answer: What ``label_tokens`` answered, with the labels ``beat`` and ``rest``.
        seconds: Length of the recording.
    """
    pairs = zip(answer["labels"], answer["scores"], strict=True)
    heard = np.array([score if label == BEAT else 1 - score for label, score in pairs])
    if not len(heard):
        return np.zeros(0)
    step = seconds / len(heard)
    # Zeros around them let the first and the last token be peaks as well.
    peaks, _ = find_peaks(np.pad(heard, 1), height=0.5, distance=max(1, round(CLOSEST_BEATS / step)))
    return (peaks - 0.5) * step


def beat_f_measure(reference: Sequence[float], heard: np.ndarray) -> float:
    """Return the F-measure of beats, hits within ±70 ms (Dixon 2007); 0 where either side has none.

    Nothing is trimmed: the first five seconds, which MIREX leaves out, count.
    """
    if not len(reference) or not len(heard):
        return 0.0
    return float(f_measure(np.asarray(reference, dtype=float), heard))


def key_score(reference: str, heard: str) -> float:
    """Return MIREX's weighted score of a key: 1 right, 0.5 a fifth up, 0.3 relative, 0.2 parallel, else 0.

    Args:
        reference: For example ``"F# minor"`` or ``"Eb major"``.
        heard: As ``reference``.

    Raises:
        InvalidManifest: One of them is no key.
    """
    for key in (reference, heard):
        try:
            validate_key(key)
        except ValueError:
            raise InvalidManifest(f"{key!r} is no key; write for example 'F# minor' or 'Eb major'") from None
    return float(weighted_score(reference, heard))
