"""Music at the ends of what is read: half an hour, 192 kHz, telephones, and headers that promise too much."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from domains.music.audio import mono_at
from domains.music.reading import MusicReader
from hub.errors import InvalidInput, TooLarge
from hub.reading import Sample, Source, Span

HALF_HOUR = 1_800


def read(source: Source, span: Span | None = None) -> Sample:
    (sample,) = MusicReader().read(source, span)
    return sample


@pytest.fixture(scope="module")
def silence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half an hour of stereo silence at 24 kHz in a small file."""
    path = tmp_path_factory.mktemp("long") / "silence.flac"
    minute = np.zeros((60 * 24_000, 2), np.int16)
    with soundfile.SoundFile(path, "w", 24_000, 2, "PCM_16", format="FLAC") as sound:
        for _ in range(HALF_HOUR // 60):
            sound.write(minute)
    assert path.stat().st_size < 1 << 20
    return path


def test_half_an_hour_takes_no_more_memory_than_half_an_hour_of_mono(silence: Path) -> None:
    tracemalloc.start()
    try:
        sample = read(Source.from_path(silence))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sample.data.samples.shape == (1, HALF_HOUR * 24_000) and sample.metadata["channels"] == 2
    assert "digital silence" in sample.warnings[0]
    assert peak < 1.1 * sample.data.samples.nbytes


def test_a_part_of_half_an_hour_is_read_alone(silence: Path) -> None:
    tracemalloc.start()
    try:
        sample = read(Source.from_path(silence), Span(1_700.0, 1_710.0))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sample.data.samples.shape == (2, 240_000)
    assert peak < 50 << 20


@pytest.mark.parametrize(("rate", "subtype"), [(8_000, "PCM_U8"), (8_000, "ULAW"), (192_000, "PCM_32")])
def test_the_same_tone_from_a_telephone_and_from_a_studio(rate: int, subtype: str) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    buffer = io.BytesIO()
    soundfile.write(buffer, tone, rate, format="WAV", subtype=subtype)
    sample = read(Source.from_bytes(buffer.getvalue()))
    samples = mono_at(sample.data, 24_000)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(24_000) / 24_000)
    assert len(samples) == 24_000
    np.testing.assert_allclose(samples[500:-500], expected[500:-500], atol=1e-6 if rate > 8_000 else 0.02)
    assert bool(sample.warnings) == (rate == 8_000)


@pytest.mark.parametrize("frames", [1 << 30, (1 << 36) - 1])
def test_a_small_flac_that_announces_hours_is_refused_before_it_is_decoded(frames: int) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(24_000), 24_000, format="FLAC")
    content = bytearray(buffer.getvalue())
    content[21] = content[21] & 0xF0 | frames >> 32  # the 36 bits of STREAMINFO that hold the number of frames
    content[22:26] = (frames & 0xFFFFFFFF).to_bytes(4, "big")
    with pytest.raises(TooLarge, match="at most 3600 s"):
        read(Source.from_bytes(bytes(content)))


def test_a_small_flac_that_announces_minutes_is_called_cut_off() -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(24_000), 24_000, format="FLAC")
    content = bytearray(buffer.getvalue())
    content[22:26] = (24_000 * 600).to_bytes(4, "big")
    with pytest.raises(InvalidInput, match=r"cut off|damaged"):
        read(Source.from_bytes(bytes(content)))
