"""Audio files, and plain lists of samples, to mono waveforms."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, ClassVar, Literal

import numpy as np
import soundfile
import soxr

from domains.speech.containers import (
    READABLE,
    WavLayout,
    identify,
    missing_bytes,
    ogg_is_complete,
    wav_layout,
)
from domains.speech.plain import kind_of, parse_samples
from hub.doubts import Doubt
from hub.errors import InvalidInput, TooLarge, UnsupportedFormat
from hub.reading import Reader, Sample, Source, Span

BLOCK_FRAMES = 1 << 18
"""Frames decoded at a time, so that a file of many channels never lies in memory whole."""
CANCELLED = 1e-3
"""Level of the mix relative to its channels below which they count as cancelling each other (-60 dB)."""
LOUD = 1.5
"""Peak above which samples cannot be meant to have full scale 1; a resampled or clipped recording stays below."""
LOUDEST = 1e10
"""Peak that no scaling accounts for, since 32-bit whole numbers end at 2.1e9; powers of larger ones overflow."""
UNKNOWN_LENGTH = 1 << 62
"""Frames from which on libsndfile means that the header states none."""
QUIET = 1e-3
"""Peak below which 16-bit audio has some 30 steps left to either side (-60 dB of full scale)."""
FULL_SCALE = 0.9999
"""Level that counts as full scale; 16-bit audio reaches 0.99997."""
CLIPPED_SHARE = 0.001
"""Share of samples at full scale above which speech looks clipped; unclipped speech touches it now and then."""
OFFSET = 0.1
"""Mean relative to the peak above which a recording has an offset worth saying."""
MP3_FRAME = 1_152
"""Samples in a frame of an MP3."""
_ENCODINGS = frozenset(
    "PCM_S8 PCM_U8 PCM_16 PCM_24 PCM_32 FLOAT DOUBLE ULAW ALAW IMA_ADPCM MS_ADPCM GSM610 VORBIS OPUS".split()
)
# Seeking in these lands near, not on, the frame that decoding from the start gives.
_INEXACT_SEEK = frozenset({"MPEG_LAYER_III", "OPUS"})


@dataclass(frozen=True)
class Waveform:
    """A mono recording.

    Attributes:
        samples: ``(samples,)`` float32, finite; full scale is 1.
        sampling_rate: Hz.
    """

    samples: np.ndarray
    sampling_rate: int

    @property
    def seconds(self) -> float:
        """Duration."""
        return len(self.samples) / self.sampling_rate

    def at_rate(self, sampling_rate: int) -> np.ndarray:
        """Return the samples at another rate, float32."""
        if sampling_rate == self.sampling_rate:
            return self.samples
        return soxr.resample(self.samples, self.sampling_rate, sampling_rate)


@dataclass
class AudioReader(Reader):
    """WAV, FLAC, OGG, MP3, AIFF and NIST SPHERE by content, and lists of samples.

    Channels are mixed down to their mean. What a header announces is held against the limits before anything
    is decoded.

    Attributes:
        max_bytes: Largest file.
        max_seconds: Longest recording (or part of one, when a span is asked for).
        max_samples: Most samples after mixing down, whatever the rate: 1 GiB of float32.
        max_channels: Most channels.
        min_sampling_rate: Lowest rate, Hz.
        max_sampling_rate: Highest rate, Hz.
        min_seconds: Shortest recording.
    """

    max_bytes: int = 1 << 30
    max_seconds: float = 3_600.0
    max_samples: int = 1 << 28
    max_channels: int = 8
    min_sampling_rate: int = 4_000
    max_sampling_rate: int = 192_000
    min_seconds: float = 0.05

    plain_form: ClassVar[str] = (
        'mono samples in [-1, 1] and their rate in Hz: {"samples": [0.0, 0.1, ...], "sampling_rate": 16000}'
    )

    def read(self, source: Source, span: Span | None = None) -> Iterator[Sample]:
        """Yield the one recording of a file; see `Reader.read`."""
        try:
            yield self._read(source, span)
        except InvalidInput as error:
            raise error.at(source.name) from error.__cause__

    def parse(self, value: Any, name: str = "input") -> Iterator[Sample]:
        """Yield the recording of ``{"samples": [...], "sampling_rate": 16000}``, a list or an array.

        Raises:
            InvalidInput: Fields are missing, unknown, or hold something else; all of them are named.
        """
        if not isinstance(value, Mapping):
            raise InvalidInput(f"expected {self.plain_form}", code="bad_form", source=name)
        unknown = len(value.keys() - {"samples", "sampling_rate"})
        problems = [f"{unknown} unknown fields beside 'samples' and 'sampling_rate'"] if unknown else []
        rate, problem = self._parse_rate(value)
        problems += [problem] if problem else []
        samples, problem = parse_samples(value)
        problems += [problem] if problem else []
        if problems or rate is None or samples is None:
            raise InvalidInput("; ".join(problems), code="bad_form", source=name)
        try:
            self._check_size(len(samples), rate)
            yield self._sample(samples, rate, channels=1, loudest=0.0, warnings=[])
        except InvalidInput as error:
            raise error.at(name) from None

    def _parse_rate(self, value: Mapping[str, Any]) -> tuple[int | None, str | None]:
        """Return the rate, or what is wrong with it."""
        if value.get("sampling_rate") is None:
            return None, "'sampling_rate' is missing: give the rate of 'samples' in Hz"
        rate = value["sampling_rate"]
        whole = isinstance(rate, int | np.integer) or (isinstance(rate, float) and rate.is_integer())
        if isinstance(rate, bool) or not whole:
            return None, f"'sampling_rate' must be a whole number of Hz, not {kind_of(rate)}"
        try:
            self._check_rate(int(rate))
        except InvalidInput as error:
            return None, error.message
        return int(rate), None

    def _read(self, source: Source, span: Span | None) -> Sample:
        if source.path is not None and source.path.is_dir():
            raise UnsupportedFormat(f"a folder, where an audio file was expected; {READABLE} are read")
        size = source.size
        if size == 0:
            raise InvalidInput("the file is empty", code="empty")
        if size > self.max_bytes:
            raise TooLarge(f"the file has {size:,} bytes; at most {self.max_bytes:,} are read")
        with source.open() as stream:
            container = identify(stream)
            warnings: list[str] = []
            if container == "wav":
                layout = wav_layout(stream, size)
                self._check_wav(layout)
                if layout.announced is None:
                    stream = _with_data_size(stream, layout)
            elif container in ("aiff", "nist") and (missing := missing_bytes(stream, size, container)):
                raise InvalidInput(f"the file is cut off: {missing:,} bytes are missing", code="truncated")
            elif container == "ogg" and not ogg_is_complete(stream, size):
                warnings.append(Doubt("The OGG stream has no end mark; the recording may be cut off.", "truncated"))
            stream.seek(0)
            return self._decode(stream, container, span, warnings)

    def _check_wav(self, layout: WavLayout) -> None:
        """Hold the announced length against the limits, then against what is there."""
        announced = layout.announced
        if announced is None:
            return
        if announced > self.max_bytes:
            raise TooLarge(f"the header announces {announced:,} bytes of audio; at most {self.max_bytes:,} are read")
        if announced > layout.present:
            raise InvalidInput(
                f"the file is cut off: its header announces {announced:,} bytes of audio, of which "
                f"{layout.present:,} are there",
                code="truncated",
            )

    def _decode(self, stream: BinaryIO, container: str, span: Span | None, warnings: list[str]) -> Sample:
        try:
            with soundfile.SoundFile(stream) as sound:
                if sound.subtype not in _ENCODINGS and sound.subtype != "MPEG_LAYER_III":
                    raise UnsupportedFormat(f"{container.upper()} with the encoding {sound.subtype} is not read")
                self._check_channels(sound.channels)
                self._check_rate(sound.samplerate)
                start, stop = self._frames(sound, span, warnings)
                samples, loudest = self._mix_down(sound, start, stop)
                rate, channels = sound.samplerate, sound.channels
        except soundfile.SoundFileError:
            # Its text is left out: it quotes the path.
            raise InvalidInput(
                f"the {container.upper()} file is damaged and cannot be decoded", code="damaged"
            ) from None
        if len(samples) < stop - start:
            if container != "mp3":
                raise InvalidInput(
                    f"the file is cut off: {stop - start:,} frames are announced, {len(samples):,} decoded",
                    code="truncated",
                )
            # An MP3's length is an estimate unless a tag states it.
            if stop - start - len(samples) > 2 * MP3_FRAME:
                warnings.append(Doubt("The MP3 is shorter than announced; the recording may be cut off.", "truncated"))
        return self._sample(samples, rate, channels, loudest, warnings)

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
        self._check_size(stop - start, rate)
        return start, stop

    def _mix_down(self, sound: soundfile.SoundFile, start: int, stop: int) -> tuple[np.ndarray, float]:
        """Decode frames; return the mean of their channels, and the loudest channel's root mean square."""
        if sound.subtype in _INEXACT_SEEK:
            for first in range(0, start, BLOCK_FRAMES):
                sound.read(min(BLOCK_FRAMES, start - first), dtype="float32")
        else:
            sound.seek(start)
        blocks, energy = [np.zeros(0, np.float32)], np.zeros(sound.channels)
        for first in range(start, stop, BLOCK_FRAMES):
            block = sound.read(min(BLOCK_FRAMES, stop - first), dtype="float32", always_2d=True)
            blocks.append(block.mean(axis=1, dtype=np.float64).astype(np.float32))
            energy += np.square(block, dtype=np.float64).sum(axis=0)
        samples = np.concatenate(blocks)
        return samples, float(np.sqrt(energy.max() / max(len(samples), 1)))

    def _check_channels(self, channels: int) -> None:
        if channels > self.max_channels:
            raise InvalidInput(f"{channels} channels; at most {self.max_channels} are read", code="too_many_channels")

    def _check_rate(self, rate: int) -> None:
        if not self.min_sampling_rate <= rate <= self.max_sampling_rate:
            raise InvalidInput(
                f"a rate of {rate} Hz; {self.min_sampling_rate} to {self.max_sampling_rate} Hz are read",
                code="bad_sampling_rate",
            )

    def _check_size(self, samples: int, rate: int) -> None:
        """Raise TooLarge when a recording is longer than the limits allow."""
        if samples > self.max_seconds * rate or samples > self.max_samples:
            raise TooLarge(
                f"the recording lasts {samples / rate:,.0f} s at {rate} Hz; at most {self.max_seconds:g} s "
                f"and {self.max_samples:,} samples are read",
                code="too_long",
            )

    def _sample(self, samples: np.ndarray, rate: int, channels: int, loudest: float, warnings: list[str]) -> Sample:
        """Check the decoded mix and wrap it with what a user should know about it."""
        if len(samples) == 0:
            raise InvalidInput("there is no audio in it, only an empty recording", code="no_audio")
        if not np.isfinite(samples).all():
            raise InvalidInput("the audio holds NaN or infinite samples; one is enough to spoil all", code="not_finite")
        if (peak := float(np.abs(samples).max())) > LOUDEST:
            raise InvalidInput(
                f"samples reach {peak:.3g} where full scale is 1: this is no audio, or a damaged file", code="no_audio"
            )
        waveform = Waveform(samples, rate)
        if waveform.seconds < self.min_seconds:
            raise InvalidInput(
                f"the recording lasts {waveform.seconds:.4f} s; at least {self.min_seconds:g} s is needed",
                code="too_short",
            )
        facts = {"seconds": round(waveform.seconds, 4), "sampling_rate": rate, "channels": channels}
        return Sample(data=waveform, warnings=(*warnings, *_doubts(samples, loudest)), metadata=facts)


def _doubts(samples: np.ndarray, loudest: float) -> Iterator[Doubt]:
    """Yield what speaks against a recording that is accepted.

    Args:
        samples: The mix, ``(samples,)``.
        loudest: Root mean square of its loudest channel.
    """
    lowest, highest = float(samples.min()), float(samples.max())
    peak = max(-lowest, highest)
    level = float(np.sqrt(np.square(samples, dtype=np.float64).mean()))
    if level < CANCELLED * loudest:
        text = "The channels cancel each other when mixed down; the embedding carries next to nothing."
        yield Doubt(text, "cancelled")
    elif peak == 0:
        yield Doubt("The recording is digital silence; the embedding carries nothing.", "silent")
    elif lowest == highest:
        yield Doubt("The recording is one constant value; the embedding carries nothing.", "constant")
    elif peak < QUIET:
        yield Doubt(f"The loudest sample is {peak:.2g} of full scale: next to silence in 16-bit audio.", "too_quiet")
    if peak > LOUD:
        yield Doubt(f"Samples reach {peak:.3g} where full scale is 1; check the scaling.", "scale_implausible")
    elif peak >= FULL_SCALE and lowest != highest:
        # Of the mix: where one channel alone is overdriven, its mean with the others stays below full scale.
        share = float((np.abs(samples) >= FULL_SCALE).mean())
        if share >= CLIPPED_SHARE:
            yield Doubt(f"{share:.1%} of the samples stand at full scale; the recording looks clipped.", "clipped")
    offset = float(samples.mean(dtype=np.float64))
    if lowest != highest and abs(offset) > OFFSET * peak:
        yield Doubt(f"The recording has a constant offset of {offset:+.2g}.", "dc_offset")


def _with_data_size(stream: BinaryIO, layout: WavLayout) -> BinaryIO:
    """Return a streamed WAV with its size filled in; libsndfile takes an open size of 0 for no audio."""
    stream.seek(0)
    content = bytearray(stream.read())
    order: Literal["big", "little"] = "big" if content[:4] == b"RIFX" else "little"
    content[layout.size_offset : layout.data_offset] = min(layout.present, 0xFFFFFFFE).to_bytes(4, order)
    return io.BytesIO(content)
