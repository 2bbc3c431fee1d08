"""AAC and ALAC in MP4, by the machine's ffmpeg where there is one: libsndfile does not read them."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from domains.music.containers import READABLE
from hub.errors import InvalidInput, TooLarge, UnsupportedFormat
from hub.reading import Source

TIMEOUT = 120.0
"""Seconds that decoding may take."""
HEADROOM_SECONDS = 1.0
"""Decoded beyond the longest recording that is read, so that a longer one is known to be longer."""

SLACK_BYTES = 1 << 20
"""ffmpeg stops this close below the size that it is given, at most."""


@contextmanager
def decoded(source: Source, max_seconds: float, max_bytes: int) -> Iterator[BinaryIO]:
    """Give the first audio track of an MP4 file as a WAV file of 32-bit floats.

    ffmpeg is told the container, may open this one file and nothing else, and stops at the limits.

    Args:
        source: The MP4 file.
        max_seconds: Longest recording that will be read.
        max_bytes: Largest WAV file.

    Raises:
        UnsupportedFormat: There is no ffmpeg on this machine.
        InvalidInput: ffmpeg finds no audio in it, or takes too long.
        TooLarge: Decoded it is larger than ``max_bytes``.
    """
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        raise UnsupportedFormat(
            f"this is MP4/M4A, which needs ffmpeg, and there is none here; install it, or convert to one of {READABLE}"
        )
    with tempfile.TemporaryDirectory(prefix="fmhub-") as folder:
        path, wav = source.path, Path(folder, "decoded.wav")
        if path is None:
            path = Path(folder, "upload.m4a")
            path.write_bytes(source.content or b"")
        limits = ["-t", str(max_seconds + HEADROOM_SECONDS), "-fs", str(max_bytes)]
        inputs = ["-protocol_whitelist", "file", "-f", "mov", "-i", f"file:{path.resolve()}"]
        outputs = ["-map", "0:a:0", "-map_metadata", "-1", "-c:a", "pcm_f32le", *limits, "-f", "wav", f"file:{wav}"]
        try:
            run = subprocess.run(  # nosec B603  # no shell; ffmpeg may open this one file
                [ffmpeg, "-nostdin", "-v", "error", *inputs, *outputs],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # it quotes the path
                timeout=TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise InvalidInput(f"decoding took more than {TIMEOUT:g} s", code="damaged") from None
        if run.returncode != 0 or not wav.exists():
            raise InvalidInput("the M4A file is damaged, or holds no audio", code="damaged")
        if wav.stat().st_size > max_bytes - SLACK_BYTES:
            raise TooLarge(f"decoded it has more than {max_bytes:,} bytes; convert it to one of {READABLE}")
        with wav.open("rb") as stream:
            yield stream
