"""Golden case of reading and preparing a real EDF; see `check`."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable

import numpy as np
import torch
from safetensors.numpy import load_file
from scipy.signal import welch

from domains.eeg.preparation import bandpass, notch, rereference, resample
from domains.eeg.reading import EegReader
from hub.reading import Source

Compare = Callable[..., None]
MICROVOLTS = {"atol": 1e-3}


def check(folder: pathlib.Path, compare: Compare) -> None:
    """Compare the signal that is read, and each step on it, with what MNE-Python recorded.

    Args:
        folder: Holds ``config.json`` and ``io.safetensors``; the file that they were made from lies in the data beside.
        compare: ``compare(name, actual, expected, *, atol, rtol=0.0)``; records and fails.
    """
    settings = json.loads((folder / "config.json").read_text())
    recorded = load_file(folder / "io.safetensors")
    x, rate, target = recorded["read_uV"], settings["sfreq"], settings["target_rate"]
    low, high = settings["l_freq"], settings["h_freq"]
    frequencies, density = welch(x, rate, window="hamming", nperseg=round(2 * rate))
    chosen = np.searchsorted(frequencies, recorded["welch_freqs"])
    found = {
        "resample_fft": resample(x, rate, target),
        "resample_polyphase": resample(x, rate, target, "polyphase"),
        "bandpass_fir": bandpass(x, rate, low, high),
        "notch_fir": notch(x, rate, settings["notch"]),
        "bandpass_iir4": bandpass(x, rate, low, high, "iir"),
        "average_reference": rereference(x, settings["ch_names"], "average")[0],
        "bandpass_then_resample": resample(bandpass(x, rate, low, high), rate, target),
        "welch_freqs": frequencies[chosen],
    }
    file = folder.parents[2] / "data" / "eeg" / "formats" / "sample.edf"
    if file.is_file():
        (sample,) = EegReader().read(Source.from_path(file))
        found["read_uV"] = sample.data.microvolts
    for name, values in found.items():
        compare(name, torch.tensor(values), torch.tensor(recorded[name]), **MICROVOLTS)
    power = recorded["welch_psd_uV2_per_Hz"]
    compare("welch_psd_uV2_per_Hz", torch.tensor(density[:, chosen]), torch.tensor(power), atol=0.0, rtol=1e-6)
    left = sorted(recorded.keys() - found.keys() - {"welch_psd_uV2_per_Hz", "read_uV"})
    assert not left, f"recorded, but not compared: {left}"
