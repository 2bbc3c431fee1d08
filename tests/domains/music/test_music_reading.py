"""Files and plain lists to recordings: what is read, what is refused, and what is said about it."""

from __future__ import annotations

import csv
import io
import re
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from domains.music.audio import Audio, mono_at, resample, to_mono
from domains.music.reading import MusicReader
from domains.music.samples import C_MAJOR, FLUTE, melody, write_samples
from hub.errors import InvalidInput, TooLarge, UnsupportedFormat
from hub.reading import Sample, Source, Span

RATE = 24_000
TUNE = melody(FLUTE, C_MAJOR, 0.3, RATE)
FORMATS = {
    "wav 8": ("WAV", "PCM_U8"),
    "wav 16": ("WAV", "PCM_16"),
    "wav 24": ("WAV", "PCM_24"),
    "wav 32": ("WAV", "PCM_32"),
    "wav float": ("WAV", "FLOAT"),
    "wav double": ("WAV", "DOUBLE"),
    "rf64": ("RF64", "PCM_16"),
    "flac": ("FLAC", "PCM_24"),
    "vorbis": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "aiff": ("AIFF", "PCM_24"),
}


def encode(audio: np.ndarray, kind: str = "wav 16", rate: int = RATE) -> bytes:
    buffer = io.BytesIO()
    container, subtype = FORMATS[kind]
    soundfile.write(buffer, audio, rate, format=container, subtype=subtype)
    return buffer.getvalue()


def wav(audio: bytes = bytes(48_000), *, channels: int = 1, rate: int = RATE, claimed: int | None = None) -> bytes:
    """A 16-bit WAV file whose header says what the test wants."""
    size, frame = len(audio) if claimed is None else claimed, 2 * channels
    head = struct.pack("<4sI4s4sI", b"RIFF", (size + 36) & 0xFFFFFFFF, b"WAVE", b"fmt ", 16)
    body = struct.pack("<HHIIHH", 1, channels, rate, rate * frame & 0xFFFFFFFF, frame, 16)
    return head + body + struct.pack("<4sI", b"data", size) + audio


def read(content: bytes, span: Span | None = None, **limits) -> Sample:
    (sample,) = MusicReader(**limits).read(Source.from_bytes(content, "upload.wav"), span)
    assert isinstance(sample.data, Audio)
    assert sample.data.samples.dtype == np.float32 and sample.data.samples.ndim == 2
    assert np.isfinite(sample.data.samples).all()
    return sample


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_read_by_its_content(kind: str, tmp_path: Path) -> None:
    content = encode(TUNE, kind)
    path = tmp_path / "no-suffix-at-all"
    path.write_bytes(content)
    sample = read(content)
    (from_disk,) = MusicReader().read(Source.from_path(path))
    assert np.array_equal(from_disk.data.samples, sample.data.samples)
    assert sample.metadata == {"seconds": 1.2, "sampling_rate": RATE, "channels": 1}
    assert sample.warnings == ()
    assert np.corrcoef(sample.data.samples[0], TUNE)[0, 1] > 0.99


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("span", [(0.25, 0.75), (None, 0.3), (0.5, None)])
def test_a_span_is_that_slice_of_the_whole(kind: str, span: tuple[float | None, float | None]) -> None:
    content = encode(TUNE, kind)
    start, stop = span
    expected = read(content).data.samples[:, round((start or 0) * RATE) : None if stop is None else round(stop * RATE)]
    part = read(content, Span(start, stop))
    # The MP3 decoder rounds differently when it is asked in other portions.
    np.testing.assert_allclose(part.data.samples, expected, rtol=0, atol=1e-6 if kind == "mp3" else 0)


def test_a_span_beyond_the_recording_is_refused_and_one_across_its_end_is_cut() -> None:
    content = encode(TUNE)
    with pytest.raises(InvalidInput, match=r"starts at 9 s.*lasts 1\.2"):
        read(content, Span(9.0, 10.0))
    sample = read(content, Span(0.5, 60.0))
    assert sample.data.seconds == pytest.approx(0.7)
    assert "span ends at 60 s" in sample.warnings[0]


def test_channels_stay_apart_and_mix_to_their_mean() -> None:
    sample = read(encode(np.stack([TUNE, 0.5 * TUNE], axis=1), "wav float"))
    assert sample.data.channels == 2 and sample.metadata["channels"] == 2
    np.testing.assert_array_equal(sample.data.samples, [TUNE, np.float32(0.5) * TUNE])
    np.testing.assert_allclose(to_mono(sample.data.samples), 0.75 * TUNE, atol=1e-7)


def test_a_long_recording_is_mixed_while_it_is_decoded() -> None:
    stereo = encode(np.stack([TUNE, 0.5 * TUNE], axis=1), "wav float")
    apart, mixed = read(stereo), read(stereo, max_apart_seconds=1.0)
    assert mixed.data.channels == 1 and mixed.metadata == apart.metadata
    np.testing.assert_allclose(mixed.data.samples[0], to_mono(apart.data.samples), atol=1e-7)
    # Half of the samples, so twice as long a recording fits.
    with pytest.raises(TooLarge, match="start and stop"):
        read(stereo, max_samples=len(TUNE))
    assert read(stereo, max_samples=len(TUNE), max_apart_seconds=1.0).data.frames == len(TUNE)


@pytest.mark.parametrize("rate", [8_000, 11_025, 44_100, 47_999, 192_000])
def test_resampling_keeps_a_tone_in_place_and_drops_what_no_longer_fits(rate: int) -> None:
    time = np.arange(rate) / rate
    tone = np.sin(2 * np.pi * 1_000 * time).astype(np.float32)
    expected = np.sin(2 * np.pi * 1_000 * np.arange(RATE) / RATE)
    result = resample(tone, rate, RATE)
    assert result.dtype == np.float32 and abs(len(result) - RATE) <= 1
    np.testing.assert_allclose(result[2_000:-2_000], expected[2_000 : len(result) - 2_000], atol=1e-4)
    if rate > 2 * 15_000:
        assert np.abs(resample(np.sin(2 * np.pi * 15_000 * time), rate, RATE)[2_000:-2_000]).max() < 1e-4
    with pytest.raises(ValueError, match="VHQ"):
        resample(tone, rate, RATE, "best")


WHITE = np.array([0.1, np.nan] * 8_000, dtype=np.float32)
BAD = {
    "empty": (b"", "empty", "empty"),
    "text": (b"this is not audio at all, " * 20, "unsupported_format", "WAV, AIFF"),
    "image": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "unsupported_format", "an image"),
    "midi": (b"MThd" + bytes(600), "unsupported_format", "no sound"),
    "wma": (b"\x30\x26\xb2\x75" + bytes(600), "unsupported_format", "WMA"),
    "tag alone": (b"ID3\x04\x00\x00\x00\x00\x00\x10" + bytes(16), "damaged", "no audio"),
    "mp3 sync alone": (b"\xff\xfb\x90\x00" + bytes(range(256)) * 8, "damaged", "MP3"),
    "no samples": (wav(b""), "no_audio", "no audio"),
    "truncated": (wav()[:20_000], "truncated", "48,000"),
    "claims 2 GB": (wav(claimed=2**31 - 1), "truncated", "2,147,483,647"),
    "cut in the header": (wav()[:30], "truncated", "cut off|ends before"),
    "cut aiff": (encode(TUNE, "aiff")[:20_000], "truncated", "cut off"),
    "cut flac": (encode(TUNE, "flac")[:20_000], "damaged", "FLAC"),
    "no channels": (wav(channels=0), "bad_header", "0 channels"),
    "no rate": (wav(rate=0), "bad_header", "0 Hz"),
    "40 channels": (wav(channels=40), "too_many_channels", "40 channels"),
    "11 Hz": (wav(rate=11), "bad_sampling_rate", "4000 to 192000"),
    "2 GHz": (wav(rate=2_000_000_000), "bad_sampling_rate", "4000 to 192000"),
    "nan": (encode(WHITE, "wav float"), "not_finite", "NaN"),
    "infinite": (encode(np.nan_to_num(WHITE, nan=np.inf), "wav float"), "not_finite", "infinite"),
    "4 ms": (encode(TUNE[:96]), "too_short", "0.0040 s; at least 0.016 s"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_by_name(name: str) -> None:
    content, code, text = BAD[name]
    with pytest.raises(InvalidInput, match=text) as caught:
        read(content)
    assert caught.value.code == code and caught.value.source == "upload.wav"


def test_limits_hold_for_what_a_header_announces() -> None:
    content = encode(np.zeros(RATE * 10), "flac")
    with pytest.raises(TooLarge, match="lasts 10 s"):
        read(content, max_seconds=5.0)
    assert read(content, Span(1.0, 2.0), max_seconds=5.0).data.seconds == 1.0
    with pytest.raises(TooLarge, match="at most 100 "):
        read(content, max_bytes=100)


def noise(level: float) -> np.ndarray:
    return np.random.default_rng(0).normal(0, level, RATE)


DOUBTS = {
    "silence": (np.zeros(RATE), RATE, "digital silence"),
    "constant": (np.full(RATE, 0.3), RATE, "one constant value"),
    "clipped": (np.clip(noise(1.0), -1, 1), RATE, "looks clipped"),
    "anti-phase": (np.stack([TUNE, -TUNE], axis=1), RATE, "cancel each other"),
    "integers as floats": (TUNE * 32_768, RATE, "check the scaling"),
    "offset": (noise(0.1) + 0.2, RATE, r"offset of \+0\.2"),
    "telephone": (noise(0.1), 8_000, "nothing above 4000 Hz"),
}


@pytest.mark.parametrize("name", DOUBTS)
def test_what_is_accepted_with_a_word(name: str) -> None:
    audio, rate, text = DOUBTS[name]
    (warning,) = read(encode(audio, "wav float", rate)).warnings
    assert re.search(text, warning)


def test_a_full_scale_sine_and_loud_mixes_are_not_called_clipped() -> None:
    sine = np.sin(2 * np.pi * 441 * np.arange(RATE) / RATE)
    assert read(encode(sine)).warnings == ()
    assert read(encode(np.clip(sine * 1.2, -2, 2), "wav float")).warnings  # a fifth of it lies above full scale


def test_an_ogg_that_ends_early_is_flagged() -> None:
    content = encode(np.tile(TUNE, 4), "vorbis")
    sample = read(content[: len(content) * 3 // 4])
    assert "no end mark" in sample.warnings[0] and sample.data.seconds < 4.8


def test_plain_lists_and_arrays() -> None:
    def parse(samples, rate=RATE) -> Sample:
        (sample,) = MusicReader().parse({"samples": samples, "sampling_rate": rate})
        return sample

    np.testing.assert_array_equal(parse(TUNE.tolist()).data.samples, TUNE[np.newaxis])
    np.testing.assert_array_equal(parse([TUNE.tolist()] * 2).data.samples, [TUNE, TUNE])
    np.testing.assert_allclose(parse((TUNE * 32_767).astype(np.int16)).data.samples[0], TUNE, atol=1e-4)
    assert "silence" in parse([0] * 1_000).warnings[0]


TONE = [0.1, -0.1] * 1_000
BAD_PLAIN = {
    "no mapping": (TONE, "sampling_rate"),
    "no rate": ({"samples": TONE}, "sampling_rate"),
    "unknown field": ({"samples": TONE, "sampling_rate": RATE, "gain": 2}, "no other fields"),
    "rate as text": ({"samples": TONE, "sampling_rate": "24000"}, "whole number"),
    "rate not finite": ({"samples": TONE, "sampling_rate": float("nan")}, "whole number"),
    "negative rate": ({"samples": TONE, "sampling_rate": -1}, "-1 Hz"),
    "text": ({"samples": ["a"], "sampling_rate": RATE}, "list of numbers"),
    "holes": ({"samples": [0.1, None], "sampling_rate": RATE}, "list of numbers"),
    "complex": ({"samples": np.ones(1_000, complex), "sampling_rate": RATE}, "real or signed"),
    "unsigned": ({"samples": np.ones(1_000, np.uint8), "sampling_rate": RATE}, "real or signed"),
    "ragged": ({"samples": [[0.1], [0.1, 0.2]], "sampling_rate": RATE}, "different lengths"),
    "huge": ({"samples": [10**400], "sampling_rate": RATE}, "numbers"),
    "channels last": ({"samples": np.zeros((1_000, 2)), "sampling_rate": RATE}, r"give \(channels, samples\)"),
    "three axes": ({"samples": np.zeros((1, 1, 999)), "sampling_rate": RATE}, "3 dimensions"),
    "no samples": ({"samples": [], "sampling_rate": RATE}, "no audio"),
    "no channels": ({"samples": np.zeros((0, 9)), "sampling_rate": RATE}, "0 channels"),
    "many channels": ({"samples": np.zeros((9, 999)), "sampling_rate": RATE}, "9 channels"),
    "integers": ({"samples": [1_000, -1_000] * 500, "sampling_rate": RATE}, "divide by 32768"),
    "nan": ({"samples": [float("nan")] * 1_000, "sampling_rate": RATE}, "NaN"),
}


@pytest.mark.parametrize("name", BAD_PLAIN)
def test_bad_plain_values_are_refused(name: str) -> None:
    value, text = BAD_PLAIN[name]
    with pytest.raises(InvalidInput, match=text) as caught:
        list(MusicReader().parse(value, "input[2]"))
    assert caught.value.source == "input[2]"


SEEDS = [encode(TUNE[:6_000], kind) for kind in FORMATS]


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(SEEDS), st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=6), st.integers(0)
)
def test_damaged_headers_never_crash_it(content: bytes, changes: list[tuple[int, int]], cut: int) -> None:
    damaged = bytearray(content)
    for place, value in changes:
        damaged[place] = value
    try:
        sample = read(bytes(damaged[: cut % (2 * len(content)) or None]))
    except InvalidInput as error:
        assert len(error.message) > 10
    else:
        assert sample.data.frames > 0


def test_the_written_samples_are_read_without_damage(tmp_path: Path) -> None:
    for path in write_samples(tmp_path):
        (sample,) = MusicReader().read(Source.from_path(path))
        assert sample.data.seconds == pytest.approx(1.6, abs=0.01)
        assert not any("telephone" not in path.name for _ in sample.warnings)


def test_m4a_without_ffmpeg_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UnsupportedFormat, match="needs ffmpeg"):
        read(b"\x00\x00\x00\x20ftypM4A " + bytes(600))


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a script in the place of ffmpeg; its last argument is the file to write."""
    program = folder / "ffmpeg"
    program.write_text(f'#!/bin/sh\nfor last; do :; done\nout="${{last#file:}}"\n{script}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_m4a_goes_through_the_machines_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "decoded.wav").write_bytes(encode(TUNE, "wav float"))
    m4a = b"\x00\x00\x00\x20ftypM4A " + bytes(600)
    stand_in(tmp_path, monkeypatch, f'cp "{tmp_path}/decoded.wav" "$out"')
    np.testing.assert_array_equal(read(m4a).data.samples[0], TUNE)
    assert read(m4a, Span(0.5, 1.0)).data.seconds == 0.5
    with pytest.raises(TooLarge, match="decoded it has more than"):
        read(m4a, max_bytes=1 << 20)
    stand_in(tmp_path, monkeypatch, "echo secret /path >&2; exit 1")
    with pytest.raises(InvalidInput, match="damaged, or holds no audio") as caught:
        read(m4a)
    assert "secret" not in str(caught.value)
    monkeypatch.setattr("domains.music.m4a.TIMEOUT", 0.2)
    stand_in(tmp_path, monkeypatch, "exec sleep 5")
    with pytest.raises(InvalidInput, match="took more than"):
        read(m4a)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg on this machine")
def test_real_m4a(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", TUNE, RATE)
    command = ["ffmpeg", "-nostdin", "-v", "error", "-i", tmp_path / "a.wav", "-c:a", "aac", tmp_path / "a.m4a"]
    subprocess.run(command, check=True)
    sample = read((tmp_path / "a.m4a").read_bytes())
    assert sample.data.sampling_rate == RATE and sample.data.seconds == pytest.approx(1.2, abs=0.1)
    assert np.corrcoef(sample.data.samples[0, : len(TUNE)], TUNE)[0, 1] > 0.95
    with pytest.raises(InvalidInput, match="damaged"):
        read((tmp_path / "a.m4a").read_bytes()[:2_000])


def test_malformed_recordings(shared_data: Path) -> None:
    folder = shared_data / "music" / "malformed"
    with (folder / "manifest.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) > 20
    for row in rows:
        try:
            (sample,) = MusicReader().read(Source.from_path(folder / row["file"]))
        except InvalidInput as error:
            assert row["expect"] != "accept", f"{row['file']}: {error}"
        else:
            assert row["expect"] != "reject", row["file"]
            assert np.isfinite(sample.data.samples).all()
            assert sample.warnings or "flag" not in row["why"], row["file"]


def test_one_recording_in_many_formats(shared_data: Path) -> None:
    """The same violin note as PCM of 8, 16 and 24 bits, float and Opus, at five rates."""
    notes = {}
    for path in sorted((shared_data / "music" / "formats").glob("violin*")):
        (sample,) = MusicReader().read(Source.from_path(path))
        assert sample.data.seconds == pytest.approx(0.8)
        notes[path.name] = mono_at(sample.data, 8_000)
    assert len(notes) == 5
    reference = notes.pop("violin_A4_pcm24_44k.aiff")
    for name, note in notes.items():
        least = 0.98 if name.endswith(".ogg") else 0.9999 if "u8" not in name else 0.999
        assert np.corrcoef(note[:6_400], reference[:6_400])[0, 1] > least, name
