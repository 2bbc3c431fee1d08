from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from domains.speech.tera import features
from domains.speech.tera.features import FrontEnd, append_deltas, normalise_columns, reference_batch

MEL = FrontEnd()
KALDI = FrontEnd(kind="kaldi", deltas=2)


def numpy_log_mel(waveform: np.ndarray) -> np.ndarray:
    """The mel front end up to the logarithm by its definition, in float64, with a plain DFT."""
    x = waveform.astype(np.float64)
    x = x * 10 ** (-25 / 20) / np.sqrt(np.mean(x**2))
    padded = np.concatenate([x[200:0:-1], x, x[-2:-202:-1]])
    n = np.arange(400)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * n / 400)
    dft = np.exp(-2j * np.pi * np.outer(n, np.arange(201)) / 400)
    frames = np.stack([padded[t * 160 : t * 160 + 400] for t in range(len(x) // 160 + 1)])
    power = np.abs((frames * window) @ dft) ** 2
    mel = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 82)
    edges = 700 * (10 ** (mel / 2595) - 1)
    hertz = np.linspace(0, 8000, 201)
    filters = np.zeros((201, 80))
    for band in range(80):
        low, centre, high = edges[band : band + 3]
        filters[:, band] = np.clip(
            np.minimum((hertz - low) / (centre - low), (high - hertz) / (high - centre)), 0, None
        )
    return np.log(power @ filters + 1e-10)


def test_log_mel_is_what_its_definition_says(voices):
    for voice in voices:
        ours = MEL.spectrum(MEL.scale(torch.tensor(voice))).numpy()
        np.testing.assert_allclose(ours, numpy_log_mel(voice), atol=2e-4)


def test_log_mel_agrees_with_torchaudio(voices):
    transforms = pytest.importorskip("torchaudio.transforms", exc_type=(ImportError, OSError))
    mel = transforms.MelSpectrogram(16_000, n_fft=400, hop_length=160, n_mels=80)
    for voice in voices:
        scaled = MEL.scale(torch.tensor(voice))
        torch.testing.assert_close(MEL.spectrum(scaled), (mel(scaled) + 1e-10).log().T, atol=3e-4, rtol=0)


def test_filter_bank_and_deltas_agree_with_torchaudio(voices):
    kaldi = pytest.importorskip("torchaudio.compliance.kaldi", exc_type=(ImportError, OSError))
    from torchaudio.functional import compute_deltas

    for voice in voices:
        waveform = torch.tensor(voice)
        theirs = kaldi.fbank(waveform[None], num_mel_bins=80, frame_length=25, frame_shift=10)
        torch.testing.assert_close(KALDI.spectrum(waveform), theirs, atol=1e-3, rtol=0)
        first = compute_deltas(theirs.T, 5)
        expected = torch.cat([theirs.T, first, compute_deltas(first, 5)]).T
        torch.testing.assert_close(append_deltas(theirs, 2), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("front_end", [MEL, KALDI], ids=["mel", "kaldi"])
@settings(max_examples=30, deadline=None)
@given(samples=st.integers(560, 5_000))
def test_lengths_are_as_announced(front_end, samples):
    waveform = torch.randn(samples, generator=torch.Generator().manual_seed(samples))
    result = front_end(waveform)
    assert result.shape == (front_end.frames(samples), front_end.dim)
    assert result.isfinite().all()


@pytest.mark.parametrize("front_end", [MEL, KALDI], ids=["mel", "kaldi"])
def test_columns_are_normalised_with_the_unbiased_deviation(front_end, voices):
    result = front_end(torch.tensor(voices[1]))
    torch.testing.assert_close(result.mean(0), torch.zeros(front_end.dim), atol=1e-5, rtol=0)
    torch.testing.assert_close(result.std(0), torch.ones(front_end.dim), atol=1e-4, rtol=0)


@pytest.mark.parametrize("gain", [1e-3, 0.1, 32_768.0])
def test_mel_features_do_not_depend_on_gain(gain, voices):
    waveform = torch.tensor(voices[0])
    torch.testing.assert_close(MEL(waveform * gain), MEL(waveform), atol=1e-4, rtol=0)


@pytest.mark.parametrize("front_end", [MEL, KALDI], ids=["mel", "kaldi"])
@pytest.mark.parametrize("value", [0.0, 0.3])
def test_silence_and_constants_give_finite_features(front_end, value):
    result = front_end(torch.full((8_000,), value))
    assert result.isfinite().all()
    if value == 0:
        assert (result == 0).all()


def test_long_recordings_are_transformed_in_blocks_without_a_seam(monkeypatch, voices):
    waveform = torch.tensor(voices[1])
    whole = [front_end(waveform) for front_end in (MEL, KALDI)]
    monkeypatch.setattr(features, "BLOCK_FRAMES", 7)
    for front_end, expected in zip((MEL, KALDI), whole, strict=True):
        torch.testing.assert_close(front_end(waveform), expected, atol=1e-6, rtol=0)


def test_deltas_of_a_ramp_are_its_slope():
    ramp = 3.0 * torch.arange(20.0).unsqueeze(1)
    deltas = append_deltas(ramp, 2)
    assert deltas.shape == (20, 3)
    torch.testing.assert_close(deltas[2:-2, 1], torch.full((16,), 3.0))
    torch.testing.assert_close(deltas[4:-4, 2], torch.zeros(12), atol=1e-6, rtol=0)


def test_a_column_that_never_changes_becomes_zero():
    columns = torch.stack([torch.full((9,), -23.02585), torch.arange(9.0)], dim=1)
    normal = normalise_columns(columns)
    assert (normal[:, 0] == 0).all()
    assert normal[:, 1].std() == pytest.approx(1)


def test_published_batching_shows_why_it_is_not_used(voices):
    """In the published code a shorter utterance's last frame looks at zeros instead of itself."""
    waveforms = [torch.tensor(v) for v in voices[:2]]
    values, mask = reference_batch(waveforms, MEL)
    assert mask.sum(1).tolist()[1] == MEL.frames(len(waveforms[1]))
    torch.testing.assert_close(values[1], MEL(waveforms[1]), atol=1e-5, rtol=0)
    alone = MEL(waveforms[0])
    count = int(mask[0].sum())
    assert (values[0, :count] - alone[:count]).abs().max() > 0.05
    assert (values[0, count:] == 0).all()
    values, mask = reference_batch(waveforms, KALDI)
    torch.testing.assert_close(values[0, mask[0]], KALDI(waveforms[0]), atol=1e-6, rtol=0)
