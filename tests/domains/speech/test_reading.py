from __future__ import annotations

import csv
import io
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from domains.speech.reading import AudioReader, Waveform
from domains.speech.samples import LOW, say
from hub.errors import InvalidInput, TooLarge, UnsupportedFormat
from hub.reading import Sample, Source, Span

MALFORMED = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "speech" / "malformed"
VOICE = say(LOW, "aio")
FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "float": ("WAV", "FLOAT"),
    "ulaw": ("WAV", "ULAW"),
    "rf64": ("RF64", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "vorbis": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "aiff": ("AIFF", "PCM_16"),
    "nist": ("NIST", "PCM_16"),
}


def encode(audio: np.ndarray, kind: str = "wav", rate: int = 16_000) -> bytes:
    buffer = io.BytesIO()
    container, subtype = FORMATS[kind]
    soundfile.write(buffer, audio, rate, format=container, subtype=subtype)
    return buffer.getvalue()


def wav(
    audio: bytes = bytes(64_000),
    *,
    tag: int = 1,
    channels: int = 1,
    rate: int = 16_000,
    bits: int = 16,
    claimed: int | None = None,
    frame: int | None = None,
) -> bytes:
    """A WAV file whose header says what the test wants."""
    frame = channels * bits // 8 if frame is None else frame
    size = len(audio) if claimed is None else claimed
    head = struct.pack("<4sI4s4sI", b"RIFF", (size + 36) & 0xFFFFFFFF, b"WAVE", b"fmt ", 16)
    body = struct.pack("<HHIIHH", tag, channels, rate, rate * frame & 0xFFFFFFFF, frame, bits)
    return head + body + struct.pack("<4sI", b"data", size) + audio


def read(content: bytes, span: Span | None = None, name: str = "upload.wav", **limits) -> Sample:
    (sample,) = AudioReader(**limits).read(Source.from_bytes(content, name), span)
    assert isinstance(sample.data, Waveform)
    assert sample.data.samples.dtype == np.float32
    assert np.isfinite(sample.data.samples).all()
    return sample


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_read_from_bytes_and_from_disk(kind, tmp_path):
    content = encode(VOICE, kind)
    path = tmp_path / "no-suffix-at-all"
    path.write_bytes(content)
    sample = read(content)
    (from_disk,) = AudioReader().read(Source.from_path(path))
    assert np.array_equal(from_disk.data.samples, sample.data.samples)
    assert sample.metadata == {"seconds": round(len(VOICE) / 16_000, 4), "sampling_rate": 16_000, "channels": 1}
    assert sample.warnings == ()
    assert np.corrcoef(sample.data.samples, VOICE)[0, 1] > 0.97


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("span", [(0.25, 0.75), (None, 0.3), (0.5, None), (0.1, 0.15)])
def test_a_span_is_that_slice_of_the_whole(kind, span):
    content = encode(VOICE, kind)
    whole = read(content).data.samples
    start, stop = span
    part = read(content, Span(start, stop))
    expected = whole[round((start or 0) * 16_000) : None if stop is None else round(stop * 16_000)]
    # The MP3 decoder rounds differently when it is asked in other portions.
    np.testing.assert_allclose(part.data.samples, expected, rtol=0, atol=1e-6 if kind == "mp3" else 0)
    assert part.warnings == ()


def test_a_span_beyond_the_recording_is_refused_and_one_across_its_end_is_cut():
    content = encode(VOICE)
    seconds = len(VOICE) / 16_000
    with pytest.raises(InvalidInput, match=r"starts at 9 s.*lasts 1\.08") as caught:
        read(content, Span(9.0, 10.0))
    assert caught.value.code == "empty_span"
    sample = read(content, Span(0.5, 60.0))
    assert sample.data.seconds == pytest.approx(seconds - 0.5)
    assert "span ends at 60 s" in sample.warnings[0]


def test_channels_are_averaged():
    stereo = np.stack([VOICE, 0.5 * VOICE], axis=1)
    sample = read(encode(stereo, "float"))
    np.testing.assert_allclose(sample.data.samples, 0.75 * VOICE, atol=1e-6)
    assert sample.metadata["channels"] == 2


def test_what_a_file_is_decides_its_content_not_its_name():
    for kind, name in (("wav", "a.mp3"), ("flac", "a.wav"), ("mp3", "a.flac"), ("vorbis", "a")):
        assert read(encode(VOICE, kind), name=name).data.seconds == pytest.approx(len(VOICE) / 16_000)


def test_an_mp3_behind_a_tag_and_padding_is_found():
    tag = b"ID3\x04\x00\x00" + bytes([0, 0, 0x27, 0x10]) + bytes(0x27 << 7 | 0x10)
    assert read(tag + encode(VOICE, "mp3")).metadata["channels"] == 1


@pytest.mark.parametrize("claimed", [0, 0xFFFFFFFF])
def test_a_wav_from_a_pipe_is_read_to_its_end(claimed):
    audio = (VOICE * 32_767).astype("<i2")
    sample = read(wav(audio.tobytes(), claimed=claimed))
    np.testing.assert_allclose(sample.data.samples, audio / 32_768, atol=1e-7)


def test_a_flac_that_states_no_length_is_refused():
    content = bytearray(encode(VOICE, "flac"))
    content[21] &= 0xF0  # the 36 bits of STREAMINFO that hold the number of frames
    content[22:26] = bytes(4)
    with pytest.raises(InvalidInput, match="states no length"):
        read(bytes(content))


NAN = np.array([0.1, np.nan] * 8_000, dtype="<f4").tobytes()
INFINITE = np.array([0.1, -np.inf] * 8_000, dtype="<f4").tobytes()
BAD = {
    "empty": (b"", "empty", "empty"),
    "text": (b"this is not audio at all, " * 20, "unsupported_format", "WAV, FLAC"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 2, "unsupported_format", "not a supported"),
    "m4a": (b"\x00\x00\x00\x20ftypM4A " + bytes(600), "unsupported_format", "M4A"),
    "webm": (b"\x1a\x45\xdf\xa3" + bytes(600), "unsupported_format", "WebM"),
    "header only": (wav(b"", claimed=64_000), "truncated", "cut off"),
    "no samples": (wav(b""), "no_audio", "no audio"),
    "truncated": (wav()[:20_000], "truncated", "64,000"),
    "cut in the header": (wav()[:30], "truncated", "cut off|ends before"),
    "no data chunk": (wav()[:36], "truncated", "ends before"),
    "claims 2 GB": (wav(claimed=0x7FFFFFF0), "too_large", "2,147,483,632"),
    "no channels": (wav(channels=0, frame=2), "bad_header", "0 channels"),
    "no rate": (wav(rate=0), "bad_header", "0 Hz"),
    "three bits": (wav(bits=3, frame=2), "bad_header", "3 bits"),
    "no frames": (wav(tag=2, frame=0), "bad_header", "0 bytes"),
    "unknown codec": (wav(tag=0x1234), "damaged", "cannot be decoded"),
    "11 Hz": (wav(bytes(800), rate=11), "bad_sampling_rate", "4000"),
    "10 MHz": (wav(rate=10_000_000), "bad_sampling_rate", "192000"),
    "64 channels": (wav(channels=64), "too_many_channels", "at most 8"),
    "NaN": (wav(NAN, tag=3, bits=32), "not_finite", "NaN"),
    "infinite": (wav(INFINITE, tag=3, bits=32), "not_finite", "infinite"),
    "5 ms": (wav(bytes(160)), "too_short", r"0\.05 s"),
    "FLAC truncated": (encode(VOICE, "flac")[:9_000], "damaged", "FLAC"),
    "FLAC header only": (encode(VOICE, "flac")[:50], "(damaged|truncated|no_audio)", "FLAC|cut off|no audio"),
    "random bytes": (np.random.default_rng(0).bytes(3_000), "unsupported_format", "not a supported"),
    "tag without audio": (b"ID3\x04\x00\x00\x00\x00\x01\x00" + bytes(200), "no_audio", "ID3"),
    "AIFF truncated": (encode(VOICE, "aiff")[:9_000], "truncated", "missing"),
    "SPHERE truncated": (encode(VOICE, "nist")[:9_000], "truncated", "missing"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_with_a_reason(case, tmp_path):
    content, code, text = BAD[case]
    path = tmp_path / "voice.wav"
    path.write_bytes(content)
    for source in (Source.from_bytes(content, "voice.wav"), Source.from_path(path, "voice.wav")):
        with pytest.raises(InvalidInput, match=text) as caught:
            list(AudioReader().read(source))
        assert re.fullmatch(code, caught.value.code)
        assert caught.value.source == "voice.wav"
        assert str(tmp_path) not in str(caught.value)


def test_a_folder_is_no_recording(tmp_path):
    with pytest.raises(UnsupportedFormat, match="folder"):
        list(AudioReader().read(Source.from_path(tmp_path)))


@pytest.mark.parametrize(
    ("audio", "text"),
    [
        (np.zeros(16_000), "digital silence"),
        (np.full(16_000, 0.25), "one constant value"),
        (np.stack([VOICE, -VOICE], axis=1), "cancel each other"),
        (np.zeros((16_000, 2)), "digital silence"),
        (40 * VOICE, "full scale"),
        (np.clip(5 * VOICE, -1, 1), "looks clipped"),
    ],
    ids=["silence", "constant", "anti-phase", "silent stereo", "too loud", "clipped"],
)
def test_doubtful_recordings_are_accepted_with_a_warning(audio, text):
    sample = read(encode(audio, "float"))
    assert len(sample.warnings) == 1
    assert text in sample.warnings[0]


def test_ordinary_recordings_carry_no_warning():
    for audio in (VOICE, np.clip(VOICE, -1, 1), np.stack([VOICE, np.zeros_like(VOICE)], axis=1)):
        assert read(encode(audio, "float")).warnings == ()


def test_truncated_lossy_files_are_accepted_with_a_warning():
    long = np.tile(VOICE, 4)
    for kind in ("mp3", "vorbis"):
        content = encode(long, kind)
        sample = read(content[: len(content) // 2])
        assert 0.5 < sample.data.seconds < 0.75 * len(long) / 16_000
        assert "cut off" in sample.warnings[0]


def test_limits_hold_before_anything_is_decoded(monkeypatch):
    def decode(*args, **kwargs):
        raise AssertionError("decoded")

    monkeypatch.setattr(soundfile.SoundFile, "read", decode)
    for limits in ({"max_seconds": 0.5}, {"max_samples": 1_000}, {"max_bytes": 1_000}):
        with pytest.raises(TooLarge):
            read(encode(VOICE), **limits)
        if "max_bytes" not in limits:
            with pytest.raises(TooLarge):
                read(encode(VOICE, "flac"), **limits)
    with pytest.raises(InvalidInput, match="at most 1"):
        read(encode(np.stack([VOICE, VOICE], axis=1)), max_channels=1)


def test_a_span_of_a_recording_that_is_too_long_is_read():
    content = encode(np.tile(VOICE, 5), "flac")
    with pytest.raises(TooLarge):
        read(content, max_seconds=2)
    assert read(content, Span(3.0, 4.0), max_seconds=2).data.seconds == 1.0


GOOD = {kind: encode(VOICE[:6_000], kind) for kind in FORMATS}


@settings(max_examples=250, deadline=None)
@given(
    kind=st.sampled_from(sorted(FORMATS)),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    near_start=st.booleans(),
    keep=st.floats(0, 1),
)
def test_damage_gives_a_reason_or_a_finite_recording(kind, flips, near_start, keep):
    content = bytearray(GOOD[kind])
    reach = 64 if near_start else len(content)
    for place, value in flips:
        content[int(place * reach)] = value
    if keep < 0.8:
        content = content[: int(keep * len(content))]
    try:
        sample = read(bytes(content))
    except InvalidInput as error:
        assert error.message
    else:
        assert 0.05 <= sample.data.seconds <= 3_600


@pytest.mark.skipif(not MALFORMED.is_dir(), reason="no shared data beside this checkout")
def test_the_shared_malformed_files_behave_as_their_manifest_says():
    with (MALFORMED / "manifest.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows
    for row in rows:
        content = (MALFORMED / row["file"]).read_bytes()
        try:
            read(content, name=row["file"])
            answer = "accept"
        except InvalidInput:
            answer = "reject"
        assert row["expect"] in (answer, "either"), row["file"]
