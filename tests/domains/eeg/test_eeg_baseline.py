from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.signal import butter, sosfiltfilt
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import GroupKFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import hub
from domains.eeg.baseline import BANDS, band_power, log_band_power, relative_band_power
from domains.eeg.reading import EegReader
from domains.eeg.recording import Recording
from domains.eeg.samples import simulate
from hub.reading import Sample, Source

BONN_RATE = 173.61


def test_power_lands_in_its_band_and_scale_is_what_relative_power_forgets() -> None:
    time = np.arange(2500) / 250
    middles = [2.5, 6.0, 10.0, 20.0, 40.0]
    signal = 1e-5 * np.stack([np.sin(2 * np.pi * f * time) for f in middles])
    recording = Recording(signal, 250.0, ["F3", "C3", "P3", "O1", "Oz"])
    power = band_power(recording)
    assert np.argmax(power, axis=1).tolist() == list(range(len(BANDS)))
    # A tone of 10 microvolts has a power of 50, wherever it lies.
    widths = [round(2 * (high - low)) / 2 for low, high in BANDS]
    np.testing.assert_allclose(np.diag(power) * widths, 50, rtol=0.02)
    louder = replace(recording, signal=3 * signal)
    for features, gain in ((log_band_power, 2 * np.log(3)), (relative_band_power, 0.0)):
        loud, quiet = (features(Sample(r)) for r in (louder, recording))
        assert list(loud) == recording.channels
        for band, name in enumerate(recording.channels):
            assert loud[name][band] == pytest.approx(quiet[name][band] + gain, abs=1e-4)
    flat = Sample(replace(recording, signal=np.zeros((1, 100)), channels=["C3"]))
    assert np.isfinite(log_band_power(flat)["C3"]).all() and np.isfinite(relative_band_power(flat)["C3"]).all()


def test_closed_eyes_have_more_alpha() -> None:
    recording = simulate()
    opened, closed = (band_power(recording.crop(first, first + 3000)) for first in (0, 3000))
    back = [recording.channels.index(name) for name in ("O1", "O2")]
    assert (closed[back, 2] > 4 * opened[back, 2]).all()


def scores(x: np.ndarray, y: np.ndarray, splits: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float]:
    """Return balanced accuracy and area under the curve of a logistic regression, means over folds."""
    results = []
    for train, test in splits:
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=5000)).fit(x[train], y[train])
        chances = probe.predict_proba(x[test])
        guess = probe.classes_[chances.argmax(axis=1)]
        curve = chances if chances.shape[1] > 2 else chances[:, 1]
        results.append((balanced_accuracy_score(y[test], guess), roc_auc_score(y[test], curve, multi_class="ovr")))
    return tuple(np.mean(results, axis=0))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.slow
def test_published_figures_of_the_bonn_sets(shared_data: Path) -> None:
    listed = rows(shared_data / "eeg" / "bonn" / "labels.csv")
    recordings = []
    for row in listed:
        values = np.loadtxt(shared_data / "eeg" / row["file"])
        recordings += list(EegReader().parse({"signal": values, "sampling_rate": BONN_RATE}))
    sets = np.array([row["set"] for row in listed])
    seizure = (sets == "E").astype(int)
    expected = {log_band_power: (0.817, 0.953, 0.951, 0.990), relative_band_power: (0.741, 0.943, 0.808, 0.881)}
    for features, figures in expected.items():
        x = np.stack([np.concatenate(list(features(sample).values())) for sample in recordings])
        found = []
        for labels in (sets, seizure):
            folds = [StratifiedKFold(5, shuffle=True, random_state=seed).split(x, labels) for seed in range(5)]
            found += scores(x, labels, [fold for split in folds for fold in split])
        np.testing.assert_allclose(found, figures, atol=0.0015)


@pytest.mark.slow
def test_published_figures_of_eyes_open_and_closed(shared_data: Path) -> None:
    """The first second, in which the filter settles, is left out. The embedding is as good as the baseline."""
    passband = butter(4, (1, 45), "band", fs=250, output="sos")
    pieces, labels, subjects = [], [], []
    for row in rows(shared_data / "eeg" / "openbci_eyes" / "labels.csv"):
        (sample,) = EegReader().read(Source.from_path(shared_data / "eeg" / row["file"]))
        clean = replace(sample.data, signal=sosfiltfilt(passband, sample.data.signal))
        for first in range(250, clean.signal.shape[1] - 499, 500):
            pieces.append(Sample(clean.crop(first, first + 500)))
            labels.append(int(row["eyes"] == "closed"))
            subjects.append(int(row["subject"]))
    assert len(pieces) == 473
    y, groups = np.array(labels), np.array(subjects)
    for features, figures in ((log_band_power, (0.629, 0.703)), (relative_band_power, (0.602, 0.675))):
        x = np.stack([np.concatenate(list(features(piece).values())) for piece in pieces])
        np.testing.assert_allclose(scores(x, y, GroupKFold(5).split(x, y, groups)), figures, atol=0.0015)
    x = np.asarray(hub.from_pretrained("eegformer-tiny").embed(pieces).vectors, np.float64)
    np.testing.assert_allclose(scores(x, y, GroupKFold(5).split(x, y, groups)), (0.635, 0.696), atol=0.01)
