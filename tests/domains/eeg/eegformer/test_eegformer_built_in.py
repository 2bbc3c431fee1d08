"""The built-in EEGFormer: it loads by name, and does what its card says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import hub
from domains.eeg.reading import EegReader
from domains.eeg.samples import CHANNELS, simulate, write_brainvision, write_csv, write_fif, write_npy, write_set
from domains.eeg.writing import edf_bytes
from hub.reading import Sample, Source


@pytest.fixture(scope="module")
def embedder() -> hub.Embedder:
    return hub.from_pretrained("eegformer-tiny")


def test_a_recording_gives_a_vector_a_window_whatever_its_channels(embedder: hub.Embedder) -> None:
    many = tuple(f"E{i}" for i in range(56)) + CHANNELS
    recordings = [simulate(many, seconds=24.0), simulate(("Fp1", "Fp2"), seconds=24.0, seed=1)]
    forms = [
        {"signal": r.signal.tolist(), "sampling_rate": r.sampling_rate, "channels": r.channels, "unit": "V"}
        for r in recordings
    ]
    found = embedder.embed(forms)
    assert [key for _, key in found.items] == ["0-12s", "12-24s"] * 2
    assert found.vectors.shape == (4, 66) and np.isfinite(found.vectors).all()
    # The last two numbers are level and spread of the spectrum, in logarithms: ten times as loud is log 10 more.
    louder = embedder.embed(Sample(type(recordings[1])(recordings[1].signal * 10, 250.0, ["Fp1", "Fp2"])))
    quiet = embedder.embed(Sample(recordings[1]))
    np.testing.assert_allclose(louder.vectors - quiet.vectors, np.eye(66)[64][None] * np.log(10), atol=2e-3)


def test_a_recording_is_the_same_vector_in_every_format(embedder: hub.Embedder, tmp_path: Path) -> None:
    path = tmp_path / "a.edf"
    path.write_bytes(edf_bytes(simulate()))
    (sample,) = EegReader().read(Source.from_path(path))
    others = [
        write_brainvision(tmp_path / "a.vhdr", sample.data),
        write_set(tmp_path / "a.set", sample.data),
        write_fif(tmp_path / "a_raw.fif", sample.data),
        write_npy(tmp_path / "a.npy", sample.data),
        write_csv(tmp_path / "a.csv", sample.data),
    ]
    expected = embedder.embed(path).vectors
    for other in others:
        np.testing.assert_allclose(embedder.embed(other).vectors, expected, rtol=0, atol=1e-4)


def test_seven_files_of_one_recording_are_one_vector(embedder: hub.Embedder, shared_data: Path) -> None:
    """The BDF's steps leave every sample half a step too far from zero: its vector is that of these values."""
    folder = shared_data / "eeg" / "formats"
    (sample,) = EegReader().read(Source.from_path(folder / "sample.edf"))
    expected = embedder.embed(Sample(sample.data)).vectors
    names = ("sample.edf", "sample.vhdr", "sample.set", "sample.csv", "sample.npy", "sample_raw.fif", "sample.bdf")
    found = {name: embedder.embed(folder / name).vectors for name in names}
    for name in names[:-1]:
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-5)
    step = (262143 + 262144) / (2**24 - 1)
    levels = np.round((sample.data.microvolts + 262144) / step)
    rounded = replace(sample.data, signal=(levels * step - 262144) * 1e-6)
    np.testing.assert_allclose(found["sample.bdf"], embedder.embed(Sample(rounded)).vectors, rtol=0, atol=1e-5)
    assert np.linalg.norm(found["sample.bdf"] - expected) < 1e-4 * np.linalg.norm(expected)


def test_codes_tell_open_from_closed_eyes_and_use_the_codebook(embedder: hub.Embedder) -> None:
    """Simulated eyes close after 12 s: the second window's codes at the back are others than the first's."""
    answers = embedder.run("codes", [Sample(simulate(seed=s)) for s in range(3)])
    for answer in answers:
        first, second = (set(row) for row in answer["codes"]["O1"])
        assert len(first & second) / len(first | second) < 0.5
    used = {c for answer in answers for rows in answer["codes"].values() for row in rows for c in row}
    assert len(used) > 20
    assert all(0 < a["error"] < 1 for a in embedder.run("anomaly", [Sample(simulate(seed=4))]))


def test_bonn_is_told_apart_better_than_by_band_power(embedder: hub.Embedder, shared_data: Path, tmp_path) -> None:
    """Two sets of thirty segments: intracranial, seizure-free and seizure."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from domains.eeg.corpora import BONN_RATE, bonn

    folder = shared_data / "eeg" / "bonn"
    if not folder.is_dir():
        pytest.skip("no Bonn segments beside this checkout")
    bonn(folder, tmp_path)
    files = sorted((tmp_path / "bonn").glob("[BDE]_*.npy"))[::2]
    samples = [s for f in files for s in list(embedder.reader.read(Source.from_path(f)))[:1]]
    assert samples[0].data.sampling_rate == 250.0 and BONN_RATE == 173.61
    labels = [f.name[0] for f in files]
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    assert cross_val_score(probe, embedder.embed(samples).vectors, labels, cv=5).mean() > 0.85
