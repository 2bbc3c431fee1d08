"""Audio files, and plain lists of samples, to recordings with their channels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, ClassVar

import numpy as np
import soundfile

from domains.music.audio import Audio
from domains.music.containers import READABLE, check_aiff, check_wav, identify, ogg_is_complete
from domains.music.levels import LOUD, LOUDEST, Levels
from domains.music.m4a import decoded
from domains.music.plain import FORM, parse_plain
from hub.doubts import Doubt
from hub.errors import InvalidInput, TooLarge, UnsupportedFormat
from hub.reading import Reader, Sample, Source, Span

BLOCK_FRAMES = 1 << 18
"""Frames decoded at a time."""
MP3_FRAME = 1_152
UNKNOWN_LENGTH = 1 << 62
"""Frames from which on libsndfile means that the header states none."""
_ENCODINGS = frozenset(
    "PCM_S8 PCM_U8 PCM_16 PCM_24 PCM_32 FLOAT DOUBLE ULAW ALAW IMA_ADPCM MS_ADPCM VORBIS OPUS MPEG_LAYER_III".split()
)
# Seeking in these lands near, not on, the frame that decoding from the start gives.
_INEXACT_SEEK = frozenset({"MPEG_LAYER_III", "OPUS"})


@dataclass
class MusicReader(Reader):
    """WAV, AIFF, FLAC, OGG and MP3 by content, M4A where the machine has ffmpeg, and lists of samples.

    Files are decoded block by block, and what a header announces is held against the limits before that. Recordings
    longer than ``max_apart_seconds`` are mixed to mono on the way: an hour of stereo then takes as much memory as an
    hour of mono, and every model here mixes anyway.

    Attributes:
        max_bytes: Largest file.
        max_seconds: Longest recording (or part of one, when a span is asked for).
        max_apart_seconds: Longest recording whose channels are kept apart.
        max_samples: Most samples in memory, whatever the rate: 1 GiB of float32.
        max_channels: Most channels.
        min_sampling_rate: Lowest rate, Hz.
        max_sampling_rate: Highest rate, Hz.
        min_seconds: Shortest recording. A model may need more: one frame of MERT is 400 samples at its rate.
    """

    max_bytes: int = 1 << 30
    max_seconds: float = 3_600.0
    max_apart_seconds: float = 600.0
    max_samples: int = 1 << 28
    max_channels: int = 8
    min_sampling_rate: int = 4_000
    max_sampling_rate: int = 192_000
    min_seconds: float = 0.016

    plain_form: ClassVar[str] = f"samples in [-1, 1] and their rate in Hz: {FORM}"

    def read(self, source: Source, span: Span | None = None) -> Iterator[Sample]:
        """Yield the one recording of a file; see `Reader.read`."""
        try:
            yield self._read(source, span)
        except InvalidInput as error:
            raise error.at(source.name) from None

    def parse(self, value: Any, name: str = "input") -> Iterator[Sample]:
        """Yield the recording of ``{"samples": [...], "sampling_rate": 24000}``.

        Raises:
            InvalidInput: Fields are missing, unknown, or hold something else.
        """
        try:
            samples, rate = parse_plain(value)
            self._check_header(len(samples), rate)
            self._check_size(samples.shape[1], rate, len(samples))
            levels = Levels(len(samples))
            if samples.size:
                levels.add(samples.T)
            if levels.peak > LOUD:
                raise InvalidInput(
                    f"'samples' reach {levels.peak:.3g}; full scale is 1 (16-bit numbers: divide by 32768)",
                    code="bad_scale",
                )
            yield self._sample(Audio(samples, rate), len(samples), levels, [])
        except InvalidInput as error:
            raise error.at(name) from None

    def _read(self, source: Source, span: Span | None) -> Sample:
        if source.path is not None and source.path.is_dir():
            raise UnsupportedFormat(f"a folder, where an audio file was expected; {READABLE} are read")
        size = source.size
        if size == 0:
            raise InvalidInput("the file is empty", code="empty")
        if size > self.max_bytes:
            raise TooLarge(f"the file has {size:,} bytes; at most {self.max_bytes:,} are read")
        container = identify(source.head(16))
        if container == "m4a":
            with decoded(source, self.max_seconds, self.max_bytes) as stream:
                return self._decode(stream, container, span, [])
        warnings: list[str] = []
        with source.open() as stream:
            if container == "wav":
                check_wav(stream, size)
            elif container == "aiff":
                check_aiff(stream, size)
            elif container == "ogg" and not ogg_is_complete(stream, size):
                warnings.append(Doubt("The OGG stream has no end mark; the recording may be cut off.", "truncated"))
            stream.seek(0)
            return self._decode(stream, container, span, warnings)

    def _decode(self, stream: BinaryIO, container: str, span: Span | None, warnings: list[str]) -> Sample:
        try:
            with soundfile.SoundFile(stream) as sound:
                if sound.subtype not in _ENCODINGS:
                    raise UnsupportedFormat(f"{container.upper()} with the encoding {sound.subtype} is not read")
                self._check_header(sound.channels, sound.samplerate)
                start, stop = self._frames(sound, span, warnings)
                samples, levels = self._blocks(sound, start, stop)
                rate, channels = sound.samplerate, sound.channels
        except soundfile.SoundFileError:
            # Its text is left out: it quotes the path.
            raise InvalidInput(
                f"the {container.upper()} file is damaged, or holds no audio that can be decoded", code="damaged"
            ) from None
        missing = stop - start - levels.frames
        if missing and container != "mp3":
            raise InvalidInput(
                f"the file is cut off: {stop - start:,} frames are announced, {levels.frames:,} decoded",
                code="truncated",
            )
        if missing > 2 * MP3_FRAME:  # an MP3's length is an estimate unless a tag states it
            warnings.append(Doubt("The MP3 is shorter than announced; the recording may be cut off.", "truncated"))
        return self._sample(Audio(samples, rate), channels, levels, warnings)

    def _frames(self, sound: soundfile.SoundFile, span: Span | None, warnings: list[str]) -> tuple[int, int]:
        """Return the frames to read from and to."""
        rate, start, stop = sound.samplerate, 0, sound.frames
        if stop >= UNKNOWN_LENGTH:
            raise InvalidInput(
                "the file states no length, as one written to a pipe; encode it again to a file", code="no_length"
            )
        if span is not None:
            start = round((span.start or 0.0) * rate)
            if start >= stop:
                raise InvalidInput(
                    f"the span starts at {start / rate:g} s; the recording lasts {stop / rate:.3f} s",
                    code="empty_span",
                )
            if span.stop is not None and round(span.stop * rate) > stop:
                text = f"The span ends at {span.stop:g} s, after the recording does ({stop / rate:.3f} s)."
                warnings.append(Doubt(text, "span_past_end"))
            elif span.stop is not None:
                stop = round(span.stop * rate)
        self._check_size(stop - start, rate, self._kept(stop - start, rate, sound.channels))
        return start, stop

    def _kept(self, frames: int, rate: int, channels: int) -> int:
        """Return how many channels of a file come out."""
        return channels if frames <= self.max_apart_seconds * rate else 1

    def _blocks(self, sound: soundfile.SoundFile, start: int, stop: int) -> tuple[np.ndarray, Levels]:
        """Decode frames to ``(channels, samples)``, or to ``(1, samples)`` where the recording is long."""
        if sound.subtype in _INEXACT_SEEK:
            for first in range(0, start, BLOCK_FRAMES):
                sound.read(min(BLOCK_FRAMES, start - first), dtype="float32")
        else:
            sound.seek(start)
        levels = Levels(sound.channels)
        samples = np.empty((self._kept(stop - start, sound.samplerate, sound.channels), stop - start), np.float32)
        while (first := levels.frames) < stop - start:
            block = sound.read(min(BLOCK_FRAMES, stop - start - first), dtype="float32", always_2d=True)
            if not len(block):
                break
            mix = levels.add(block)
            samples[:, first : levels.frames] = block.T if len(samples) == sound.channels else mix
        return samples[:, : levels.frames], levels

    def _check_header(self, channels: int, rate: int) -> None:
        if not 1 <= channels <= self.max_channels:
            raise InvalidInput(
                f"{channels} channels; 1 to {self.max_channels} are read",
                code="too_many_channels" if channels else "empty",
            )
        if not self.min_sampling_rate <= rate <= self.max_sampling_rate:
            raise InvalidInput(
                f"a rate of {rate} Hz; {self.min_sampling_rate} to {self.max_sampling_rate} Hz are read",
                code="bad_sampling_rate",
            )

    def _check_size(self, frames: int, rate: int, channels: int) -> None:
        """Raise TooLarge when a recording is longer than the limits allow."""
        if frames > self.max_seconds * rate or frames * channels > self.max_samples:
            raise TooLarge(
                f"the recording lasts {frames / rate:,.0f} s at {rate} Hz; at most {self.max_seconds:g} s and "
                f"{self.max_samples:,} samples are read; a part of it can be asked for by start and stop",
                code="too_long",
            )

    def _sample(self, audio: Audio, channels: int, levels: Levels, warnings: list[str]) -> Sample:
        """Check what was decoded and wrap it with what a user should know about it."""
        if audio.frames == 0:
            raise InvalidInput("there is no audio in it, only an empty recording", code="no_audio")
        if audio.seconds < self.min_seconds:
            raise InvalidInput(
                f"the recording lasts {audio.seconds:.4f} s; at least {self.min_seconds:g} s is needed",
                code="too_short",
            )
        if levels.peak > LOUDEST:
            raise InvalidInput(
                f"samples reach {levels.peak:.3g} where full scale is 1: this is no audio, or a damaged file",
                code="no_audio",
            )
        facts = {"seconds": round(audio.seconds, 4), "sampling_rate": audio.sampling_rate, "channels": channels}
        return Sample(data=audio, warnings=(*warnings, *levels.doubts(audio.sampling_rate)), metadata=facts)
