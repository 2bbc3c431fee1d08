"""The hand features that a music model's embeddings are held against.

Mean and standard deviation over time of what librosa computes at 24 kHz: a log-mel spectrogram (timbre and register),
its cepstrum (timbre), chroma (pitch class) and a constant-Q spectrum (pitch).

``python -m domains.music.baseline MANIFEST ...`` prints how far each of them goes: accuracy of logistic regression with
C = 1 on standardised features, one group left out at a time.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path

import librosa
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from domains.music.audio import mono_at
from domains.music.reading import MusicReader
from hub.manifest import read_manifest
from hub.reading import Sample, Source

SAMPLING_RATE = 24_000
N_FFT, HOP = 2048, 512
CHROMA_FFT = 4096
"""Long enough to part semitones from about 100 Hz up. Shorter recordings are filled up with zeros to this length."""
BANDS, COEFFICIENTS = 128, 20
CQT_BINS, CQT_LOWEST = 84, 32.7
"""Seven octaves from C1, in Hz."""


def log_mel(samples: np.ndarray) -> np.ndarray:
    """Return mean and standard deviation over time of 128 mel bands in dB, ``(256,)``."""
    return _over_time(_mel(samples))


def mfcc(samples: np.ndarray) -> np.ndarray:
    """Return mean and standard deviation over time of 20 cepstral coefficients, ``(40,)``."""
    return _over_time(librosa.feature.mfcc(S=_mel(samples), n_mfcc=COEFFICIENTS))


def chroma(samples: np.ndarray) -> np.ndarray:
    """Return mean and standard deviation over time of the energy in 12 pitch classes, ``(24,)``."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Trying to estimate tuning")  # a drum has none, and A4 = 440 Hz is taken
        energies = librosa.feature.chroma_stft(y=_filled(samples), sr=SAMPLING_RATE, n_fft=CHROMA_FFT, hop_length=HOP)
    return _over_time(energies)


def mfcc_chroma(samples: np.ndarray) -> np.ndarray:
    """Return cepstrum and chroma, ``(64,)``."""
    return np.concatenate([mfcc(samples), chroma(samples)])


def cqt(samples: np.ndarray) -> np.ndarray:
    """Return mean and standard deviation over time of a log constant-Q spectrum, ``(168,)``."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "n_fft=")  # the lowest octaves of a short note are few samples
        bins = librosa.cqt(_filled(samples), sr=SAMPLING_RATE, fmin=CQT_LOWEST, n_bins=CQT_BINS, hop_length=HOP)
    return _over_time(np.log1p(10 * np.abs(bins)))


def everything(samples: np.ndarray) -> np.ndarray:
    """Return log-mel, cepstrum and chroma, ``(320,)``: all that the single ones know together."""
    return np.concatenate([log_mel(samples), mfcc_chroma(samples)])


FEATURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "MFCC": mfcc,
    "chroma": chroma,
    "MFCC + chroma": mfcc_chroma,
    "log-mel": log_mel,
    "CQT": cqt,
    "log-mel + MFCC + chroma": everything,
}


def hand_features(sample: Sample) -> np.ndarray:
    """Return log-mel, MFCC and chroma statistics of a recording, ``(320,)`` float32."""
    return everything(mono_at(sample.data, SAMPLING_RATE)).astype(np.float32)


def _mel(samples: np.ndarray) -> np.ndarray:
    power = librosa.feature.melspectrogram(
        y=_filled(samples), sr=SAMPLING_RATE, n_fft=N_FFT, hop_length=HOP, n_mels=BANDS
    )
    return librosa.power_to_db(power)


def _filled(samples: np.ndarray) -> np.ndarray:
    return np.pad(samples, (0, max(0, CHROMA_FFT - len(samples))))


def _over_time(features: np.ndarray) -> np.ndarray:
    return np.concatenate([features.mean(axis=1), features.std(axis=1)])


def accuracies(manifest: Path) -> dict[str, tuple[float, float]]:
    """Return mean and standard deviation over the groups of each feature's accuracy.

    Args:
        manifest: With a label and a group for each file.
    """
    rows = read_manifest(manifest, need=("file", "label", "group"))
    labels, groups = np.array([r.label for r in rows]), np.array([r.group for r in rows])
    reader = MusicReader()
    recordings = [
        mono_at(sample.data, SAMPLING_RATE) for r in rows for sample in reader.read(Source.from_path(r.file), r.span)
    ]
    results = {}
    for name, feature in FEATURES.items():
        values = np.stack([feature(samples) for samples in recordings])
        scores = []
        for group in np.unique(groups):
            probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=3_000))
            probe.fit(values[groups != group], labels[groups != group])
            scores.append(probe.score(values[groups == group], labels[groups == group]))
        results[name] = (float(np.mean(scores)), float(np.std(scores)))
    return results


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m domains.music.baseline", description=__doc__)
    parser.add_argument("manifests", type=Path, nargs="+", help="CSV with file,label,group")
    manifests = parser.parse_args().manifests
    tables = [accuracies(path) for path in manifests]
    print("| features |", " | ".join(path.stem for path in manifests), "|")
    print("|---" * (len(manifests) + 1) + "|")
    for name in FEATURES:
        print(f"| {name} |", " | ".join("{:.3f} ± {:.3f}".format(*table[name]) for table in tables), "|")


if __name__ == "__main__":
    main()
