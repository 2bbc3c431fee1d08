"""What the load sends: clips of synthetic speech as WAV, alone and many in a form, and the vectors they must get."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from hub.domain import get_domain
from hub.embedder import Embedder
from hub.reading import Source

COUNT = 32
SHORTEST, LONGEST = 0.4, 1.2
"""Seconds of the shortest and the longest clip."""

_BOUNDARY = "fmhub-benchmark-0123456789"


@dataclass(frozen=True)
class Body:
    """A request's body.

    Attributes:
        content_type: Of it.
        content: Its bytes.
        clips: The clips in it, by number.
    """

    content_type: str
    content: bytes
    clips: list[int]


def make_clips(count: int = COUNT) -> list[bytes]:
    """Return WAV files of different lengths, cut from the speech domain's sample file; the same on every call."""
    with tempfile.TemporaryDirectory() as folder:
        path = get_domain("speech").load("samples")(Path(folder))[0]
        signal, rate = soundfile.read(path, dtype="int16")
    clips = []
    for number in range(count):
        # Lengths are dealt so that neighbours differ: batches have to be sorted to be dense.
        share = (number * 13 % count) / max(1, count - 1)
        length = int((SHORTEST + share * (LONGEST - SHORTEST)) * rate)
        first = number * (len(signal) - length) // count
        buffer = io.BytesIO()
        soundfile.write(buffer, signal[first : first + length], rate, format="WAV")
        clips.append(buffer.getvalue())
    return clips


def sources(clips: Sequence[bytes]) -> list[Source]:
    """Return files in memory, as the hub takes them."""
    return [Source.from_bytes(clip, f"clip-{number}.wav") for number, clip in enumerate(clips)]


def expected_vectors(embedder: Embedder, clips: Sequence[bytes]) -> np.ndarray:
    """Return what Python gives, ``(clips, dimension)``; each clip alone."""
    return np.stack([embedder.embed(source).vectors[0] for source in sources(clips)])


def form(clips: Sequence[bytes], numbers: Sequence[int], fields: dict[str, str] | None = None) -> Body:
    """Return an upload of some of the clips.

    Args:
        clips: All of them.
        numbers: Which, in order.
        fields: Text fields beside the files.
    """
    parts = [
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in (fields or {}).items()
    ]
    for number in numbers:
        head = f'name="file"; filename="clip-{number}.wav"\r\nContent-Type: audio/wav'
        parts += [f"--{_BOUNDARY}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode(), clips[number], b"\r\n"]
    content = b"".join([*parts, f"--{_BOUNDARY}--\r\n".encode()])
    return Body(f"multipart/form-data; boundary={_BOUNDARY}", content, list(numbers))


def single_bodies(clips: Sequence[bytes], fields: dict[str, str] | None = None) -> list[Body]:
    """Return an upload of each clip alone."""
    return [form(clips, [number], fields) for number in range(len(clips))]


def full_bodies(clips: Sequence[bytes], fields: dict[str, str] | None = None) -> list[Body]:
    """Return uploads of all clips, in four orders: an answer that mixes them up shows."""
    count = len(clips)
    turned = [[(first + n) % count for n in range(count)] for first in range(0, count, max(1, count // 4))]
    return [form(clips, numbers, fields) for numbers in turned]


def written(bodies: Sequence[Body], folder: Path) -> list[dict[str, Any]]:
    """Write bodies below a folder, and return them as the load client's plan names them."""
    folder.mkdir(parents=True)
    found = []
    for number, body in enumerate(bodies):
        path = folder / str(number)
        path.write_bytes(body.content)
        found.append({"file": str(path), "content_type": body.content_type, "clips": body.clips})
    return found
