"""Small example recordings: synthetic, and said to be, in the formats that laboratories and headsets write."""

from __future__ import annotations

import json
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.io import savemat

from domains.eeg.formats.mne_raw import quietly
from domains.eeg.recording import Annotation, Recording
from domains.eeg.writing import bdf_bytes, edf_bytes

CHANNELS = ("Fp1", "Fp2", "C3", "Cz", "C4", "Pz", "O1", "O2")
MUSE = ("TP9", "AF7", "AF8", "TP10")
MAINS = 50.0
_BACK, _FRONT = {"O1", "O2", "Pz", "TP9", "TP10"}, {"Fp1", "Fp2", "AF7", "AF8"}


def simulate(
    channels: tuple[str, ...] = CHANNELS, sampling_rate: float = 250.0, seconds: float = 24.0, seed: int = 0
) -> Recording:
    """Return a recording of someone who sits with open eyes, and closes them half-way.

    Background activity falls with frequency and is shared by neighbours in part; open eyes blink, which the front sees;
    closed eyes bring waxing and waning alpha waves at the back; the mains hum is everywhere.

    Args:
        channels: Electrodes.
        sampling_rate: Hz.
        seconds: Duration.
        seed: Of everything.
    """
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * sampling_rate)) / sampling_rate
    closed = time >= seconds / 2
    background = _pink(random, len(channels) + 1, time.size, sampling_rate)
    signal = 8 * background[1:] + 6 * background[0]
    blinks = sum(np.exp(-(((time - moment) / 0.1) ** 2)) for moment in np.arange(1.5, seconds / 2 - 1, 3.1))
    pace = 10.2 + random.normal(0, 0.3)
    envelope = 1 + 0.6 * np.sin(2 * np.pi * 0.4 * time + random.uniform(0, 6))
    alpha = np.sin(2 * np.pi * pace * time + 0.5 * background[0]) * envelope * closed
    for row, name in zip(signal, channels, strict=True):
        row += 3 * np.sin(2 * np.pi * MAINS * time + random.uniform(0, 6))
        row += 18 * alpha * (name in _BACK) + 4 * alpha
        row += 120 * blinks * (name in _FRONT)
    halves = [Annotation(0.0, seconds / 2, "eyes open"), Annotation(seconds / 2, seconds / 2, "eyes closed")]
    kinds = ["eeg"] * len(channels)
    return Recording(signal * 1e-6, sampling_rate, list(channels), list(channels), kinds, halves)


def _pink(random: np.random.Generator, rows: int, samples: int, rate: float) -> NDArray[np.float64]:
    """Return noise whose power falls with frequency above 1 Hz, ``(rows, samples)``, of unit deviation."""
    frequencies = np.fft.rfftfreq(samples, 1 / rate)
    spectrum = random.normal(size=(rows, frequencies.size)) + 1j * random.normal(size=(rows, frequencies.size))
    noise = np.fft.irfft(spectrum / np.maximum(frequencies, 1.0) ** 0.5, samples)
    return (noise - noise.mean(axis=1, keepdims=True)) / noise.std(axis=1, keepdims=True)


def write_samples(folder: Path) -> list[Path]:
    """Write synthetic recordings, one a format and each another person's; the same signals on every call.

    Args:
        folder: An existing folder.
    """
    stem = folder / "synthetic-eyes"
    edf, bdf = stem.with_suffix(".edf"), stem.with_suffix(".bdf")
    edf.write_bytes(edf_bytes(simulate(seed=0)))
    bdf.write_bytes(bdf_bytes(simulate(seed=1)))
    return [
        edf,
        bdf,
        write_csv(folder / "synthetic-muse.csv", simulate(MUSE, 256.0, seed=2)),
        write_npy(folder / "synthetic-array.npy", simulate(seed=3)),
        write_text(folder / "synthetic-one-channel.txt", simulate(("Pz",), 173.61, seed=4)),
        write_brainvision_archive(folder / "synthetic-brainvision.zip", simulate(seed=5)),
        write_set(stem.with_suffix(".set"), simulate(seed=6)),
        write_fif(folder / "synthetic-eyes_raw.fif", simulate(seed=7)),
    ]


def write_csv(path: Path, recording: Recording) -> Path:
    """Write a table as the Muse headband's recorders do: time in seconds, microvolts, and a marker column."""
    time = np.arange(recording.signal.shape[1]) / recording.sampling_rate
    marker = np.zeros(time.size)
    for number, note in enumerate(recording.annotations, 1):
        marker[round(note.onset * recording.sampling_rate)] = number
    table = np.column_stack([1_500_000_000 + time, recording.microvolts.T, marker])
    header = ",".join(["timestamps", *recording.channels, "Marker0"])
    formats = ["%.6f", *["%.3f"] * len(recording.channels), "%d"]
    np.savetxt(path, table, fmt=formats, delimiter=",", header=header, comments="")
    return path


def write_npy(path: Path, recording: Recording) -> Path:
    """Write an array in microvolts, and what it does not say itself into a JSON file beside it."""
    np.save(path, recording.microvolts.astype(np.float32))
    stated = {"SamplingFrequency": recording.sampling_rate, "channels": recording.channels, "unit": "uV"}
    path.with_suffix(".json").write_text(json.dumps(stated), encoding="utf-8")
    return path


def write_text(path: Path, recording: Recording) -> Path:
    """Write the first channel as whole microvolts, one a line, after a line that says the rate."""
    rate = f"Sample Rate = {recording.sampling_rate} Hz"
    np.savetxt(path, np.round(recording.microvolts[0]), fmt="%d", header=rate, comments="%")
    return path


def write_brainvision(path: Path, recording: Recording) -> Path:
    """Write a BrainVision header, and its markers and samples beside it."""
    channels = "\n".join(f"Ch{i}={name},,0.1,µV" for i, name in enumerate(recording.channels, 1))
    rate, stem = recording.sampling_rate, path.stem
    markers = "\n".join(
        f"Mk{i}=Comment,{note.label},{round(note.onset * rate) + 1},{round(note.duration * rate)},0"
        for i, note in enumerate(recording.annotations, 1)
    )
    path.write_text(
        "Brain Vision Data Exchange Header File Version 1.0\n\n[Common Infos]\nCodepage=UTF-8\n"
        f"DataFile={stem}.eeg\nMarkerFile={stem}.vmrk\nDataFormat=BINARY\nDataOrientation=MULTIPLEXED\n"
        f"NumberOfChannels={len(recording.channels)}\nSamplingInterval={1e6 / rate}\n\n"
        f"[Binary Infos]\nBinaryFormat=IEEE_FLOAT_32\n\n[Channel Infos]\n{channels}\n",
        encoding="utf-8",
    )
    path.with_suffix(".vmrk").write_text(
        "Brain Vision Data Exchange Marker File, Version 1.0\n\n[Common Infos]\nCodepage=UTF-8\n"
        f"DataFile={stem}.eeg\n\n[Marker Infos]\n{markers}\n",
        encoding="utf-8",
    )
    path.with_suffix(".eeg").write_bytes((recording.microvolts.T * 10).astype("<f4").tobytes())
    return path


def write_brainvision_archive(path: Path, recording: Recording) -> Path:
    """Write a ZIP of the three files of a BrainVision recording, as it is uploaded."""
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path, "w") as archive:
        header = write_brainvision(Path(folder) / f"{path.stem}.vhdr", recording)
        for suffix in (".vhdr", ".vmrk", ".eeg"):
            part = header.with_suffix(suffix)
            archive.writestr(zipfile.ZipInfo(part.name), part.read_bytes())
    return path


def write_set(path: Path, recording: Recording) -> Path:
    """Write an EEGLAB set with its samples inside."""
    rate = recording.sampling_rate
    places = np.array([(name,) for name in recording.channels], [("labels", object)])
    events = np.array(
        [(note.label, note.onset * rate + 1, note.duration * rate) for note in recording.annotations],
        [("type", object), ("latency", object), ("duration", object)],
    )
    content = {
        "data": recording.microvolts.astype(np.float32),
        "srate": rate,
        "nbchan": float(recording.signal.shape[0]),
        "pnts": float(recording.signal.shape[1]),
        "trials": 1.0,
        "chanlocs": places,
        "event": events,
    }
    savemat(path, {"EEG": content}, do_compression=True, oned_as="row")
    return path


def write_fif(path: Path, recording: Recording) -> Path:
    """Write a raw FIF file; its name has to end in ``_raw.fif``."""
    with quietly("FIF") as mne:
        info = mne.create_info(recording.channels, recording.sampling_rate, "eeg")
        raw = mne.io.RawArray(recording.signal, info)
        onsets, durations, labels = zip(*recording.annotations, strict=True)
        raw.set_annotations(mne.Annotations(onsets, durations, labels))
        raw.save(path, overwrite=True)
    return path
